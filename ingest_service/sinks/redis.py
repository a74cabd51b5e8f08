"""Redis: each user's newest interactions in a sorted set, written in pipelines grouped by user."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast
from urllib.parse import unquote
from uuid import UUID

import numpy as np
from pydantic import Field
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff

from ingest_service.checkpoint import CheckpointStore
from ingest_service.chunk import Chunk
from ingest_service.columns import Columns, stable_order
from ingest_service.errors import ConfigurationError, IngestError, Retry
from ingest_service.models import VideoInteraction
from ingest_service.pacing import AdaptiveLimit, RateLimit
from ingest_service.parse import Bytes
from ingest_service.records import Ints
from ingest_service.retry import Retrier
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written, parse_options
from ingest_service.sinks.encode import json_escaped
from ingest_service.sinks.redis_bulk import BulkConnection, BulkSSLConnection
from ingest_service.texts import Piece, concatenate, decimals, lengths, write

# Error replies by their first word. What passes by itself is tried again, what is forbidden ends the run.
_PASSING = frozenset(
    (
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "UNKILLABLE",
    )
)
_FORBIDDEN = frozenset(("DENIED", "NOAUTH", "NOPERM", "WRONGPASS"))
_PIECE_ROWS = 1 << 12  # rows made into commands at once: bounds the text in memory, and fits the CPU's cache
_COMMANDS_PER_USER = 3  # ZADD, ZREMRANGEBYRANK, EXPIRE

# KEYS: the checkpoint; ARGV: the text that must be there ("" for none), the new one.
_SWAP = """
local now = redis.call('GET', KEYS[1])
if (now or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class RedisOptions(SinkOptions):
    recent_limit: int = Field(100, ge=1, description="interactions kept for each user")
    recent_ttl_s: int = Field(86_400, ge=1, description="a user's interactions expire so long after the last write")
    timeout_s: float = Field(30, gt=0, description="a connection that moves nothing for so long is given up")
    ca_file: str = Field("", description="a file of certificates to trust for rediss://, instead of the system's")


class RedisSink(Sink):
    """`redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS."""

    scheme: ClassVar[str] = "redis"
    options: RedisOptions

    def __init__(self, url: str) -> None:
        parts, self.options = parse_options(url, RedisOptions)
        database = parts.path.strip("/") or "0"
        if not parts.hostname or not database.isdecimal():
            raise ConfigurationError(
                "A Redis URL looks like redis://host:6379/0, the last part being the database's number."
            )
        tls: dict[str, Any] = {}
        if parts.scheme == "rediss":
            tls = {"ssl_min_version": ssl.TLSVersion.TLSv1_2, "ssl_ca_certs": self.options.ca_file or None}
        self._pool = ConnectionPool(
            connection_class=BulkSSLConnection if tls else BulkConnection,
            host=parts.hostname,
            port=parts.port or 6379,
            db=int(database),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            protocol=2,
            decode_responses=True,
            socket_timeout=self.options.timeout_s,
            socket_connect_timeout=min(self.options.timeout_s, 10),
            # redis-py would resend a whole pipeline whose reply was lost; the retrier below decides that.
            retry=RedisRetry(NoBackoff(), 0),
            **tls,
        )
        self._client = Redis(connection_pool=self._pool)
        self.name = self.options.name or self.scheme
        self.retrier = Retrier(self.name, self.options.retry_budget_s)
        self.limit = AdaptiveLimit(self.options.consumers)
        self._rate = RateLimit(self.options.rate)
        self.checkpoints: CheckpointStore = _Checkpoints(self)

    async def open(self) -> None:
        await self.command("PING")

    async def write(self, chunk: Chunk) -> Written:
        pending = await asyncio.to_thread(chunk.last_of_each_key)
        merged = chunk.accepted - len(pending)
        dead: list[int] = []

        async def attempt() -> None:
            nonlocal pending
            if not len(pending):
                return
            batch = await asyncio.to_thread(Batch.of, chunk.columns, pending)
            errors = await self._exchange(batch)
            if errors:
                refused, again, code = _sort_out(errors)
                dead.extend(batch.of_users(refused).tolist())
                pending = batch.of_users(again)
                if again:
                    if len(again) < batch.n_users:
                        self.retrier.progressed()
                    await self._reset_if_replica(code)
                    self.limit.throttled(len(again) / batch.n_users)
                    raise Retry(f"the server answers {code}", throttled=code == "OOM")

        await self.retrier.call(attempt)
        reason = "The user's key holds something that is no sorted set."
        rows = [chunk.dead_row(row, self.name, "wrong_type", reason) for row in sorted(dead)]
        return Written(chunk.accepted - merged - len(rows), merged, rows)

    async def _exchange(self, batch: "Batch") -> dict[int, str]:
        """All of a batch in one round trip; its commands are made while earlier ones are on their way."""

        async def payloads() -> AsyncIterator[memoryview]:
            for piece in batch.pieces(self._rate.piece(_PIECE_ROWS)):
                await self._rate.take(batch.rows_in(piece))
                limit, ttl_s = self.options.recent_limit, self.options.recent_ttl_s
                yield (await asyncio.to_thread(batch.commands, piece, limit, ttl_s)).data

        n_replies = batch.n_users * _COMMANDS_PER_USER
        async with self.limit.slot(), self._connection() as connection:
            return await connection.exchange(payloads(), n_replies, self.options.timeout_s)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[BulkConnection]:
        """A connection of the pool; it stays connected only if all went well with it."""
        with _errors_translated():
            connection = cast("BulkConnection", await self._pool.get_connection())  # type: ignore[no-untyped-call]
            try:
                yield connection
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)

    async def _reset_if_replica(self, code: str) -> None:
        """After a failover the old primary answers READONLY on connections that would stay open for good."""
        if code == "READONLY":
            await self._pool.disconnect(inuse_connections=False)

    async def command(self, *arguments: str | int) -> object:
        """One command and its reply, retried."""

        async def attempt() -> object:
            with _errors_translated():
                return await self._client.execute_command(*arguments)  # type: ignore[no-untyped-call]

        return await self.retrier.call(attempt)

    async def check(self, *, create: bool) -> list[Finding]:
        await self.open()
        probe = "ingest:check:{probe}"
        try:
            for arguments in (
                ("ZADD", probe, 1, "x"),
                ("EXPIRE", probe, 1),
                ("ZREMRANGEBYRANK", probe, 0, -1),
            ):
                await self.command(*arguments)
        except IngestError as error:
            return [Finding("writes", False, str(error))]
        return [Finding("writes", True, "permitted")]

    def preview(self, columns: Columns) -> list[str]:
        key: list[Piece] = [b"ZADD recent:{", columns.texts["user_id"], b"} "]
        return concatenate([*key, decimals(columns.numbers["epoch_ms"]), b" ", *_member(columns)]).to_list()

    async def recent(self, user_id: UUID | str, limit: int) -> list[VideoInteraction]:
        """A user's newest interactions, newest first."""
        found = await self.command("ZREVRANGE", f"recent:{{{user_id}}}", 0, limit - 1)
        members = [json.loads(member) for member in cast("list[str]", found)]
        return [VideoInteraction(user_id=UUID(str(user_id)), **member) for member in members]

    async def close(self) -> None:
        await self._client.aclose()
        await self._pool.disconnect()


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows ready to be sent: `columns` has each user's rows together, user i's from row `starts[i]` on.

    `rows` are their indices in the chunk.
    """

    columns: Columns
    rows: Ints
    starts: Ints

    @classmethod
    def of(cls, columns: Columns, rows: Ints) -> "Batch":
        """The rows of a chunk's columns, at least one; users in any order, each one's rows in that of the file."""
        users = columns.key[0][rows]
        rows = rows[stable_order(users)]
        session = {"session_id": json_escaped(columns.texts["session_id"])}
        columns = replace(columns, texts={**columns.texts, **session}).take(rows)
        users = columns.key[0]
        starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
        return cls(columns, rows, starts)

    @property
    def n_users(self) -> int:
        return len(self.starts)

    def of_users(self, users: Sequence[int]) -> Ints:
        """The rows of these users, by index in the chunk."""
        parts = np.split(self.rows, self.starts[1:])
        return np.sort(np.concatenate([parts[user] for user in users])) if users else self.rows[:0]

    def pieces(self, rows: int) -> Iterator[tuple[int, int]]:
        """The users in runs of about that many rows: first, and one past the last."""
        marks = np.arange(0, len(self.rows) + rows, rows)
        edges = np.unique(np.append(np.searchsorted(self.starts, marks), self.n_users))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def rows_in(self, piece: tuple[int, int]) -> int:
        first, last = piece
        end = len(self.rows) if last == self.n_users else int(self.starts[last])
        return end - int(self.starts[first])

    def commands(self, piece: tuple[int, int], limit: int, ttl_s: int) -> Bytes:
        """RESP commands that add the rows of a piece, trim its users' sets and renew their expiry, user by user."""
        first, last = piece
        start = int(self.starts[first])
        n_rows = self.rows_in(piece)
        columns = self.columns.take(slice(start, start + n_rows))
        begins = self.starts[first:last] - start
        ends = np.append(begins[1:], n_rows)
        pairs = _pairs(columns)
        key: list[Piece] = [b"recent:{", columns.texts["user_id"].take(begins), b"}"]
        head = [b"*", decimals(2 + 2 * (ends - begins)), b"\r\n$4\r\nZADD\r\n", *_bulk(key)]
        tail = [
            b"*4\r\n$15\r\nZREMRANGEBYRANK\r\n", *_bulk(key), b"$1\r\n0\r\n", *_bulk([str(-limit - 1).encode()]),
            b"*3\r\n$6\r\nEXPIRE\r\n", *_bulk(key), *_bulk([str(ttl_s).encode()]),
        ]  # fmt: skip
        sizes = np.zeros(n_rows, np.int64) + lengths(pairs)
        head_bytes, tail_bytes = lengths(head), lengths(tail)
        sizes[begins] += head_bytes
        sizes[ends - 1] += tail_bytes
        row_ends = np.cumsum(sizes)
        row_starts = row_ends - sizes
        out = np.empty(int(row_ends[-1]), np.uint8)
        write(out, row_starts[begins], head)
        row_starts[begins] += head_bytes
        write(out, row_starts, pairs)
        write(out, row_ends[ends - 1] - tail_bytes, tail)
        return out


def _pairs(columns: Columns) -> list[Piece]:
    """Score and member of each row, as two bulk strings."""
    return [*_bulk([decimals(columns.numbers["epoch_ms"])]), *_bulk(_member(columns))]


def _member(columns: Columns) -> list[Piece]:
    """Compact JSON in the contract's order of keys."""
    names = ("video_id", "timestamp", "event_type", "device", "session_id")
    pieces: list[Piece] = []
    for name in names:
        pieces += [f'{{"{name}":"'.encode() if not pieces else f'","{name}":"'.encode(), columns.texts[name]]
    return [*pieces, b'"}']


def _bulk(pieces: Sequence[Piece]) -> list[Piece]:
    """A RESP bulk string. Its length is in bytes."""
    size = lengths(pieces)
    length = str(size).encode() if isinstance(size, int) else decimals(size)
    return [b"$", length, b"\r\n", *pieces, b"\r\n"]


def _sort_out(errors: dict[int, str]) -> tuple[list[int], list[int], str]:
    """Users whose rows are refused for good, users to try again, and the error of one of the latter."""
    refused: list[int] = []
    again: list[int] = []
    code = ""
    first_errors: dict[int, str] = {}
    for index, error in sorted(errors.items()):
        first_errors.setdefault(index // _COMMANDS_PER_USER, error)
    for user, error in first_errors.items():
        if error == "WRONGTYPE":
            refused.append(user)
        elif error in _PASSING:
            again.append(user)
            code = error
        else:
            raise _refusal(error)
    return refused, again, code


def _refusal(code: str) -> IngestError:
    if code in _FORBIDDEN:
        return ConfigurationError(f"Redis refuses this user ({code}); check the password and the ACL (see docs).")
    if code in ("MOVED", "ASK", "CROSSSLOT"):
        return ConfigurationError("This Redis is a cluster, which is not supported yet; name a single server.")
    return ConfigurationError(f"Redis refuses the commands ({code}); is it Redis 6.2 or newer?")


@contextmanager
def _errors_translated() -> Iterator[None]:
    """redis-py's errors in the terms of ours. Their text may hold row data: only the class is passed on."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise _refusal("NOPERM") from error
    except (
        exceptions.ConnectionError,  # BusyLoadingError and ReadOnlyError's kin below are not all its subclasses
        exceptions.TimeoutError,
        exceptions.BusyLoadingError,
        exceptions.ReadOnlyError,
        exceptions.OutOfMemoryError,
        exceptions.TryAgainError,
        OSError,
        EOFError,
        TimeoutError,
    ) as error:
        raise Retry(f"connection or server fault ({type(error).__name__})") from error
    except exceptions.ResponseError as error:
        code = str(error).partition(" ")[0]
        if code in _PASSING:
            raise Retry(f"the server answers {code}") from error
        raise _refusal(code) from error


class _Checkpoints(CheckpointStore):
    """Keys `ingest:checkpoint:{<stream>}`."""

    def __init__(self, sink: RedisSink) -> None:
        self._sink = sink

    async def read(self, stream: str) -> str | None:
        return cast("str | None", await self._sink.command("GET", self._key(stream)))

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        return await self._sink.command("EVAL", _SWAP, 1, self._key(stream), old or "", new) == 1

    async def streams(self) -> list[str]:
        found: list[str] = []
        cursor = "0"
        while True:
            reply = await self._sink.command("SCAN", cursor, "MATCH", self._key("*"), "COUNT", 1000)
            cursor, keys = cast("tuple[str, list[str]]", reply)
            found += [key.removeprefix("ingest:checkpoint:{").removesuffix("}") for key in keys]
            if str(cursor) == "0":
                return sorted(set(found))

    def _key(self, stream: str) -> str:
        return f"ingest:checkpoint:{{{stream}}}"
