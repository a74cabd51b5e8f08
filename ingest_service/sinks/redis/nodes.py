"""The servers behind a Redis URL: one, or the masters of a cluster; and their errors in the terms of ours."""

import ssl
from binascii import crc_hqx
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast
from urllib.parse import SplitResult, unquote

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff

from ingest_service.errors import ConfigurationError, IngestError, Retry
from ingest_service.sinks.redis.commands import Batch
from ingest_service.sinks.redis.connection import BulkConnection, BulkSSLConnection

# Error replies by their first word. What passes by itself is tried again, what is forbidden ends the run.
_MOVING = frozenset(("ASK", "CLUSTERDOWN", "MOVED"))  # the slots have gone, or go, to other nodes
PASSING = _MOVING | frozenset(
    ("BUSY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNKILLABLE")
)
_FORBIDDEN = frozenset(("DENIED", "NOAUTH", "NOPERM", "WRONGPASS"))

_SLOTS = 1 << 14

Address = tuple[str, int]


class RedisNodes:
    """A pool of connections to each node, and which node holds which keys.

    A cluster is found out by asking it (CLUSTER SLOTS), and asked again when a node fails or sends us elsewhere.
    """

    def __init__(self, parts: SplitResult, timeout_s: float, ca_file: str) -> None:
        database = parts.path.strip("/") or "0"
        if not parts.hostname or not database.isdecimal():
            raise ConfigurationError(
                "A Redis URL looks like redis://host:6379/0, the last part being the database's number."
            )
        self._options: dict[str, Any] = {
            "connection_class": BulkConnection,
            "db": int(database),
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
            "protocol": 2,
            "decode_responses": True,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": min(timeout_s, 10),
            # redis-py would resend a whole pipeline whose reply was lost; the sink's retrier decides that.
            "retry": RedisRetry(NoBackoff(), 0),
        }
        if parts.scheme == "rediss":
            self._options |= {
                "connection_class": BulkSSLConnection,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
                "ssl_ca_certs": ca_file or None,
            }
        self._seed: Address = (parts.hostname, parts.port or 6379)
        self._pools: dict[Address, ConnectionPool] = {self._seed: self._pool_at(self._seed)}
        self._owners: list[Address] | None = None  # of each hash slot; None where there is no cluster
        self.is_stale = False

    def _pool_at(self, address: Address) -> ConnectionPool:
        host, port = address
        return ConnectionPool(host=host, port=port, **self._options)

    async def refresh(self) -> None:
        """Look again at a cluster that has changed."""
        if self._owners is not None and self.is_stale:
            await self.discover()

    async def discover(self) -> None:
        """Ask any node that answers for the slots and their masters. Retry if none does."""
        fault: Retry | None = None
        for pool in list(self._pools.values()):
            try:
                with errors_translated():
                    await self._client(pool).execute_command("PING")  # type: ignore[no-untyped-call]
                    slots = await self._slots(pool)
            except Retry as error:
                fault = error
                continue
            await self._use(slots)
            self.is_stale = False
            return
        raise fault or Retry("no node of the cluster answers")

    async def _slots(self, pool: ConnectionPool) -> dict[tuple[int, int], Address]:
        """The master of each range of slots, both ends included; nothing from a server that is no cluster."""
        try:
            found = await self._client(pool).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
        except exceptions.NoPermissionError:
            return {}  # a single server needs no such right; a cluster says MOVED
        except exceptions.ResponseError as error:
            if "cluster support disabled" in str(error):
                return {}
            raise
        host = pool.connection_kwargs["host"]  # a node that does not know its own name leaves it out
        return {(first, last): (master[0] or host, master[1]) for first, last, master, *_ in found}

    async def _use(self, slots: dict[tuple[int, int], Address]) -> None:
        if not slots:
            self._owners = None
            return
        self._owners = [self._seed] * _SLOTS  # a slot that nobody serves is asked for there, which says CLUSTERDOWN
        for (first, last), address in slots.items():
            self._owners[first : last + 1] = [address] * (last + 1 - first)
        for address in set(slots.values()) - self._pools.keys():
            self._pools[address] = self._pool_at(address)

    def split(self, batch: Batch) -> list[tuple[ConnectionPool, Batch]]:
        """The part of a batch that goes to each node."""
        if self._owners is None:
            return [(self._pools[self._seed], batch)]
        keys = [f"recent:{{{user_id}}}" for user_id in batch.user_ids.to_list()]
        return [(pool, batch.part(users)) for pool, users in self._by_node(keys)]

    async def answered(self, node: ConnectionPool, code: str) -> None:
        """An error reply says something about the node."""
        if code in _MOVING:
            if self._owners is None:
                raise ConfigurationError(
                    "This Redis is a cluster, and its user may not run CLUSTER SLOTS; permit it (see docs)."
                )
            self.is_stale = True
        if code == "READONLY":
            # After a failover the old primary answers so on connections that would stay open for good.
            self.is_stale = True
            await node.disconnect(inuse_connections=False)

    async def command(self, *arguments: str | int, key: str = "") -> Any:
        """One command: at the node that holds the key, or at any. Retry if it may succeed later."""
        await self.refresh()
        address = self._node_of(key) if key else self._seed
        try:
            with errors_translated():
                return await self._client(self._pools[address]).execute_command(*arguments)  # type: ignore[no-untyped-call]
        except Retry:
            self.is_stale = True
            raise

    async def keys(self, pattern: str) -> set[str]:
        """The keys of all masters that match."""
        await self.refresh()
        masters = {self._seed} if self._owners is None else set(self._owners)
        found: set[str] = set()
        for address in masters:
            with errors_translated():
                found.update([key async for key in self._client(self._pools[address]).scan_iter(pattern, count=1000)])
        return found

    async def sorted_sets(self, keys: Sequence[str]) -> list[list[tuple[str, float]]]:
        """What is in the sorted sets at these keys, with scores; nothing where something else is."""
        await self.refresh()
        found: dict[str, list[tuple[str, float]]] = {}
        for pool, indices in self._by_node(keys):
            its = [keys[index] for index in indices]
            with errors_translated():
                async with self._client(pool).pipeline(transaction=False) as pipe:
                    for key in its:
                        pipe.zrange(key, 0, -1, withscores=True)
                    replies = await pipe.execute(raise_on_error=False)
                for key, reply in zip(its, replies, strict=True):
                    if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
                        raise reply
                    found[key] = [] if isinstance(reply, Exception) else reply
        return [found[key] for key in keys]

    def _by_node(self, keys: Sequence[str]) -> list[tuple[ConnectionPool, list[int]]]:
        """Which of the keys, by index, each node holds."""
        by_node: dict[Address, list[int]] = {}
        for index, key in enumerate(keys):
            by_node.setdefault(self._node_of(key), []).append(index)
        return [(self._pools[address], indices) for address, indices in by_node.items()]

    def _node_of(self, key: str) -> Address:
        return self._seed if self._owners is None else self._owners[slot_of(key)]

    @property
    def is_cluster(self) -> bool:
        return self._owners is not None

    def _client(self, pool: ConnectionPool) -> Redis:
        return Redis(connection_pool=pool)

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.disconnect()


def slot_of(key: str) -> int:
    """The hash slot of a key, or of the part of it in braces (redis.io, "Redis cluster specification")."""
    tag, closed, _ = key.partition("{")[2].partition("}")
    return crc_hqx((tag if tag and closed else key).encode(), 0) % _SLOTS


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


def refusal(code: str) -> IngestError:
    if code in _FORBIDDEN:
        return ConfigurationError(f"Redis refuses this user ({code}); check the password and the ACL (see docs).")
    if code == "SELECT":
        return ConfigurationError("A Redis cluster has database 0 only; end the URL with /0.")
    return ConfigurationError(f"Redis refuses the commands ({code}); is it Redis 6.2 or newer?")


@contextmanager
def errors_translated() -> Iterator[None]:
    """redis-py's errors in the terms of ours. Their text may hold row data: only the class is passed on."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise refusal("NOPERM") from error
    except (
        exceptions.ConnectionError,  # BusyLoadingError and ReadOnlyError's kin below are not all its subclasses
        exceptions.TimeoutError,
        exceptions.BusyLoadingError,
        exceptions.ReadOnlyError,
        exceptions.OutOfMemoryError,
        exceptions.TryAgainError,
        exceptions.AskError,  # and MovedError
        OSError,
        EOFError,
        TimeoutError,
    ) as error:
        raise Retry(f"connection or server fault ({type(error).__name__})") from error
    except exceptions.ResponseError as error:
        code = str(error).partition(" ")[0]
        if code in PASSING:
            raise Retry(f"the server answers {code}") from error
        raise refusal(code) from error
