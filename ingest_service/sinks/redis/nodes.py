"""The servers behind a Redis URL: one, the primary that Sentinels name, or the masters of a cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast
from urllib.parse import SplitResult

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.runtime.tls_causes import answer, speaks_tls
from ingest_service.sinks.redis.about import About
from ingest_service.sinks.redis.address import (
    Address,
    Place,
    ServerOptions,
    connection_options,
    login,
    require_tls_files,
)
from ingest_service.sinks.redis.commands import Batch
from ingest_service.sinks.redis.connection import BulkConnection, BulkSocketConnection, BulkSSLConnection
from ingest_service.sinks.redis.errors import (
    IS_SENTINEL,
    MOVING,
    NO_CLUSTER_SLOTS,
    NO_TLS,
    ONLY_TLS,
    errors_translated,
)
from ingest_service.sinks.redis.sentinels import Sentinels

_PATIENCE_S = 1.0  # before it is asked who listens there
_LOOK_S = 2.0  # for a look that can be left out

K = TypeVar("K", str, bytes)


class RedisNodes:
    """A pool of connections to each node, and which node holds which keys.

    A cluster is found out by asking a server (INFO, CLUSTER SLOTS), and asked again when a node fails or sends us
    elsewhere; so are Sentinels for the primary.
    """

    def __init__(self, parts: SplitResult, options: ServerOptions) -> None:
        self._place = Place.of(parts, options.db)
        self._tls_options = options
        common = connection_options(self._place, options)
        self._options = common | login(parts, self._place)
        self._options["connection_class"] = BulkSSLConnection if self._place.is_encrypted else BulkConnection
        self._sentinels = Sentinels(self._place, common, options) if self._place.service else None
        self._seed: Address = self._place.addresses[0]
        self._pools: dict[Address, ConnectionPool] = {}
        if self._sentinels is None:
            self._pool_of(self._seed)
        self._owners: list[Address] | None = None  # of each hash slot; None where there is no cluster
        self._has_met = False
        self.is_stale = self._sentinels is not None  # who the primary is must be asked first
        # A failover would lose what only the old primary had.
        self.replicas = options.replicas if options.replicas is not None else 1 if self._sentinels else 0
        self._are_required = options.replicas is not None
        self.wait_ms = int(500 * min(2, common["socket_timeout"]))  # for them, before the write is tried again

    def _pool_of(self, address: Address) -> ConnectionPool:
        if address not in self._pools:
            host, port = address
            where = {"host": host, "port": port}
            if self._place.is_socket:
                where = {"path": host, "connection_class": BulkSocketConnection}
            self._pools[address] = ConnectionPool(**(self._options | where))
        return self._pools[address]

    # --- finding out ------------------------------------------------------------------------------

    async def meet(self) -> None:
        """The first contact: what cannot pass by waiting is told at once. Retry if it may come about later."""
        await asyncio.to_thread(require_tls_files, self._place, self._tls_options)
        contact = asyncio.create_task(self.discover())
        try:
            await asyncio.wait((contact,), timeout=_PATIENCE_S)
            if not contact.done() or isinstance(contact.exception(), Retry):
                await self._require_same_language()
            await contact
        finally:
            contact.cancel()
            await asyncio.gather(contact, return_exceptions=True)

    async def _require_same_language(self) -> None:
        """One side that waits for TLS and one that does not look like any other silence, or hang up."""
        if self._place.is_socket or self._sentinels is not None:
            return
        if not self._place.is_encrypted:
            if await asyncio.to_thread(speaks_tls, *self._seed):
                raise ConfigurationError(ONLY_TLS)
        elif (await asyncio.to_thread(answer, *self._seed, b"*1\r\n$4\r\nPING\r\n"))[:1] in (b"+", b"-"):
            raise ConfigurationError(NO_TLS)

    async def refresh(self) -> bool:
        """Look again at a cluster that has changed, or for a primary that has failed; whether that was so."""
        has_others = self._owners is not None or self._sentinels is not None
        if not (self.is_stale and has_others):
            return False
        await self.discover()
        return True

    async def discover(self) -> None:
        """Ask any node that answers for the slots and their masters. Retry if none does."""
        if self._sentinels is not None:
            self._seed = await self._sentinels.primary()
            self._pool_of(self._seed)
        fault: Retry | None = None
        for address in [self._seed] if self._sentinels is not None else list(self._pools):
            try:
                slots = await self._slots(self._pools[address])
            except Retry as error:
                fault = error
                continue
            self._use(slots)
            self.is_stale = False
            self._has_met = True
            return
        raise fault or Retry("no node of the cluster answers")

    async def _slots(self, pool: ConnectionPool) -> dict[tuple[int, int], Address]:
        """The master of each range of slots, both ends included; nothing from a server that is no cluster."""
        with errors_translated():
            await self._client(pool).execute_command("PING")  # type: ignore[no-untyped-call]
        about = await self._about(pool)
        if about is not None:
            self._require_usable(about)
            if not about.is_cluster:
                return {}
        try:
            found = await self._client(pool).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
        except exceptions.ResponseError as error:
            # Renamed, forbidden or unknown: a single server needs no such right; a cluster says MOVED.
            if about is not None:
                raise ConfigurationError(NO_CLUSTER_SLOTS) from error
            return {}
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            with errors_translated():
                raise error
        if found and self._place.is_socket:
            raise ConfigurationError("This Redis is a cluster, whose other nodes no socket reaches; name its host.")
        host = str(pool.connection_kwargs.get("host"))  # a node that does not know its own name leaves it out
        return {(first, last): (master[0] or host, master[1]) for first, last, master, *_ in found}

    def _require_usable(self, about: About) -> None:
        if about.is_sentinel:
            raise ConfigurationError(f"This server holds no rows. {IS_SENTINEL}")
        if about.is_replica and not about.is_cluster:
            if self._has_met or self._sentinels is not None:
                raise Retry("the primary is a replica now")
            raise ConfigurationError(f"This Redis is a replica, which takes no rows; name its primary {about.primary}.")

    async def _about(self, pool: ConnectionPool) -> About | None:
        """What a server says of itself; None if it does not say it to everybody."""
        try:
            with errors_translated():
                return About.of(await self._client(pool).execute_command("INFO"))  # type: ignore[no-untyped-call]
        except ConfigurationError:
            return None

    async def about_masters(self) -> dict[Address, About] | None:
        """What each master says of itself; None if one of them does not say it. Retry while one is away."""
        await self.refresh()
        masters = self._masters()
        found = await asyncio.gather(*(self._about(self._pools[address]) for address in masters))
        if None in found:
            return None
        return dict(zip(masters, cast("list[About]", found), strict=True))

    async def about_reachable(self) -> Mapping[Address, About]:
        """The same of those that answer soon."""
        found: dict[Address, About] = {}

        async def ask(address: Address) -> None:
            for _ in range(2):  # the first connection may be one of before a restart
                with suppress(Retry, TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        about = await self._about(self._pools[address])
                    if about is not None:
                        found[address] = about
                    return

        await asyncio.gather(*(ask(address) for address in self._masters()))
        return found

    def _use(self, slots: Mapping[tuple[int, int], Address]) -> None:
        if not slots:
            self._owners = None
            return
        # A slot that nobody serves is asked for at the seed, which says CLUSTERDOWN.
        self._owners = [self._seed] * REDIS_CLUSTER_HASH_SLOTS
        for (first, last), address in slots.items():
            self._owners[first : last + 1] = [address] * (last + 1 - first)
            self._pool_of(address)

    # --- using ------------------------------------------------------------------------------------

    def split(self, batch: Batch) -> list[tuple[ConnectionPool, Batch]]:
        """The part of a batch that goes to each node."""
        if self._owners is None:
            return [(self._pools[self._seed], batch)]
        keys = [f"{{{user_id}}}" for user_id in batch.user_ids.to_list()]  # only what is in braces counts
        return [(pool, batch.part(users)) for pool, users in self._by_node(keys)]

    async def answered(self, node: ConnectionPool, code: str) -> None:
        """An error reply says something about the node."""
        if code in MOVING:
            if self._owners is None:
                raise ConfigurationError(NO_CLUSTER_SLOTS)
            self.is_stale = True
        if code == "READONLY":
            # After a failover the old primary answers so on connections that would stay open for good.
            self.is_stale = True
            await node.disconnect(inuse_connections=False)

    async def require_replicas(self, acknowledged: int) -> None:
        """Retry if fewer replicas have a write than should, unless no Sentinel knows one that could take over."""
        if acknowledged >= self.replicas:
            return
        if self._sentinels is not None and not self._are_required and await self._sentinels.stands_alone(self._seed):
            return
        self.is_stale = True
        raise Retry(f"{acknowledged} of the {self.replicas} replicas that are to have each write have it")

    async def command(self, *arguments: str | int, key: str = "") -> Any:
        """One command: at the node that holds the key, or at any. Retry if it may succeed later."""
        return (await self.commands([arguments], key))[0]

    async def commands(self, commands: Sequence[Sequence[str | int]], key: str = "") -> list[Any]:
        """Several on one connection, the first error raised."""
        await self.refresh()
        address = self._node_of(key) if key else self._seed
        try:
            with errors_translated():
                client = self._client(self._pool_of(address))
                if len(commands) == 1:
                    return [await client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
                async with client.pipeline(transaction=False) as pipe:
                    for arguments in commands:
                        pipe.execute_command(*arguments)
                    return await pipe.execute()
        except Retry:
            self.is_stale = True
            raise

    async def keys(self, pattern: str) -> set[str]:
        """The keys of all masters that match."""
        await self.refresh()
        found: set[str] = set()
        for address in self._masters():
            with errors_translated():
                found.update([key async for key in self._client(self._pools[address]).scan_iter(pattern, count=1000)])
        return found

    async def sorted_sets(self, keys: Sequence[str]) -> list[list[tuple[str, float]]]:
        """What is in the sorted sets at these keys, with scores; nothing where something else is."""
        found = await self.asked(keys, lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True))
        return [[] if one is None else one for one in found]

    async def hashes(self, keys: Sequence[bytes], fields: Sequence[bytes]) -> list[list[bytes | None]]:
        """These fields of the hashes at these keys; none where something else is."""
        found = await self.asked(keys, lambda pipe, key: pipe.execute_command("HMGET", key, *fields, NEVER_DECODE=True))
        return [[None] * len(fields) if one is None else one for one in found]

    async def asked(self, keys: Sequence[K], ask: Callable[[Any, K], object], *, writes: bool = False) -> list[Any]:
        """For each key the reply to the command that `ask` puts into a pipeline; None where another kind of value is.

        What `writes` is acknowledged by the replicas that are to have it. Retry if it may succeed later.
        """
        await self.refresh()
        found: dict[K, Any] = {}
        for pool, indices in self._by_node(keys):
            its = [keys[index] for index in indices]
            try:
                found |= zip(its, await self._replies(pool, its, ask, writes=writes), strict=True)
            except Retry:
                self.is_stale = True
                raise
        return [found[key] for key in keys]

    async def _replies(
        self, pool: ConnectionPool, keys: Sequence[K], ask: Callable[[Any, K], object], *, writes: bool
    ) -> list[Any]:
        waits = writes and self.replicas > 0
        with errors_translated():
            async with self._client(pool).pipeline(transaction=False) as pipe:
                for key in keys:
                    ask(pipe, key)
                if waits:
                    pipe.execute_command("WAIT", self.replicas, self.wait_ms)
                replies = await pipe.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
                    raise reply
        if waits:
            await self.require_replicas(replies.pop())
        return [None if isinstance(reply, Exception) else reply for reply in replies]

    def _by_node(self, keys: Sequence[K]) -> list[tuple[ConnectionPool, list[int]]]:
        """Which of the keys, by index, each node holds."""
        by_node: dict[Address, list[int]] = {}
        for index, key in enumerate(keys):
            by_node.setdefault(self._node_of(key), []).append(index)
        return [(self._pools[address], indices) for address, indices in by_node.items()]

    def _node_of(self, key: str | bytes) -> Address:
        encoded = key.encode() if isinstance(key, str) else key
        return self._seed if self._owners is None else self._owners[key_slot(encoded)]

    def _masters(self) -> list[Address]:
        return [self._seed] if self._owners is None else sorted(set(self._owners))

    @property
    def database(self) -> int:
        return self._place.database

    @property
    def is_cluster(self) -> bool:
        return self._owners is not None

    def _client(self, pool: ConnectionPool) -> Redis:
        return Redis(connection_pool=pool)

    async def close(self) -> None:
        if self._sentinels is not None:
            await self._sentinels.close()
        for pool in self._pools.values():
            await pool.disconnect()


@asynccontextmanager
async def connection_of(pool: ConnectionPool) -> AsyncIterator[BulkConnection]:
    """A connection of the pool; it stays connected only if all went well with it."""
    connection = cast("BulkConnection", await pool.get_connection())  # type: ignore[no-untyped-call]
    try:
        yield connection
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
