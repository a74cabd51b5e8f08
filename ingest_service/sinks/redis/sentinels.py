"""Redis Sentinels: who the primary of a service is, after a failover too."""

from typing import Any

from redis.asyncio.sentinel import MasterNotFoundError, Sentinel

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.sinks.redis.address import Address, Place, ServerOptions
from ingest_service.sinks.redis.errors import errors_translated

_ANSWER_S = 2.0  # one that is silent is passed over soon


class Sentinels:
    """The first that answers and knows the service is believed, and asked first the next time."""

    def __init__(self, place: Place, common: dict[str, Any], options: ServerOptions) -> None:
        self._service = place.service
        self._common = common | {
            "socket_timeout": min(_ANSWER_S, common["socket_timeout"]),
            "socket_connect_timeout": min(_ANSWER_S, common["socket_connect_timeout"]),
            "username": options.sentinel_username or None,
            "password": options.sentinel_password or None,
        }
        if place.is_encrypted:
            self._common["ssl"] = True
        self._sentinel = Sentinel(place.addresses, sentinel_kwargs=self._common)  # type: ignore[no-untyped-call]

    async def primary(self) -> Address:
        """Retry while none of them says so; ConfigurationError if one that answers knows no such service."""
        try:
            with errors_translated():
                host, port = await self._sentinel.discover_master(self._service)
        except Retry as fault:
            if isinstance(fault.__cause__, MasterNotFoundError):
                await self._require_service()
                raise Retry("no Sentinel names a primary that is up") from fault
            raise
        return str(host), int(port)

    async def _require_service(self) -> None:
        for one in self._sentinel.sentinels:
            try:
                with errors_translated():
                    known = list(await one.sentinel_masters())
            except Retry:
                continue
            if self._service not in known:
                names = ", ".join(sorted(map(str, known))) or "none"
                raise ConfigurationError(f"The Sentinels know no service of the URL's name; they know: {names}.")
            return

    async def stands_alone(self, primary: Address) -> bool:
        """Whether a Sentinel that answers believes in this primary and in no replica of it."""
        for one in self._sentinel.sentinels:
            try:
                with errors_translated():
                    known: Any = await one.sentinel_masters()
                    replicas = await one.sentinel_slaves(self._service)
            except Retry:
                continue
            state: Any = known.get(self._service, {})
            is_up = not (state.get("is_sdown") or state.get("is_odown"))
            return (
                is_up and (state.get("ip"), state.get("port")) == primary and not self._sentinel.filter_slaves(replicas)
            )
        return False

    async def close(self) -> None:
        await self._sentinel.aclose()
