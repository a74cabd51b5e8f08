"""Redis: each user's newest interactions in a sorted set, written in pipelines grouped by user."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from urllib.parse import unquote
from uuid import UUID

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff

from ingest_service.checkpoint import CheckpointStore
from ingest_service.chunk import Chunk
from ingest_service.errors import ConfigurationError, IngestError, Retry
from ingest_service.models import VideoInteraction
from ingest_service.pacing import AdaptiveLimit, RateLimit
from ingest_service.retry import Retrier
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written, parse_options
from ingest_service.sinks.encode import json_strings
from ingest_service.sinks.redis_bulk import BulkConnection, BulkSSLConnection, ErrorReply

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
_PIECE_ROWS = 1 << 15  # rows made into commands at once: bounds the text in memory
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
        merged = chunk.accepted - pending.height
        dead: list[int] = []

        async def attempt() -> None:
            nonlocal pending
            if not pending.height:
                return
            batch = await asyncio.to_thread(Batch.of, pending)
            errors = await self._exchange(batch)
            if errors:
                refused, again, code = _sort_out(batch.users, errors)
                dead.extend(pending.filter(pl.col("user_id").is_in(refused))["row"].to_list())
                pending = pending.filter(pl.col("user_id").is_in(again))
                if again:
                    if len(again) < len(batch.users):
                        self.retrier.progressed()
                    await self._reset_if_replica(code)
                    self.limit.throttled(len(again) / len(batch.users))
                    raise Retry(f"the server answers {code}", throttled=code == "OOM")

        await self.retrier.call(attempt)
        reason = "The user's key holds something that is no sorted set."
        rows = [chunk.dead_row(row, self.name, "wrong_type", reason) for row in sorted(dead)]
        return Written(chunk.accepted - merged - len(rows), merged, rows)

    async def _exchange(self, batch: "Batch") -> dict[int, ErrorReply]:
        """All of a batch in one round trip; its commands are made while earlier ones are on their way."""

        async def payloads() -> AsyncIterator[bytes]:
            for piece in batch.pieces(self._rate.piece(_PIECE_ROWS)):
                await self._rate.take(batch.rows_in(piece))
                limit, ttl_s = self.options.recent_limit, self.options.recent_ttl_s
                for part in await asyncio.to_thread(batch.commands, piece, limit, ttl_s):
                    yield part

        n_replies = len(batch.users) * _COMMANDS_PER_USER
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

    def preview(self, frame: pl.DataFrame) -> list[str]:
        members = json_strings(frame, "session_id").select(
            pl.concat_str(pl.lit("ZADD recent:{"), "user_id", pl.lit("} "), "epoch_ms", pl.lit(" "), *_MEMBER)
        )
        return members.to_series().to_list()

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
    """Rows ready to be sent: `frame` has each user's rows together, beginning at the row numbers `starts`."""

    frame: pl.DataFrame
    starts: NDArray[np.int64]
    users: list[str]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Batch":
        """A frame that is not empty, its users in any order."""
        # Two users with one hash would stand mixed: that only splits their groups.
        order = np.argsort(frame["user_id"].hash().to_numpy(), kind="stable")
        frame = json_strings(frame, "session_id")[order]
        users = frame["user_id"]
        starts = users.ne_missing(users.shift(1)).arg_true().to_numpy().astype(np.int64)
        return cls(frame, starts, users.gather(starts).to_list())

    def pieces(self, rows: int) -> Iterator[tuple[int, int]]:
        """The users in runs of about that many rows: first, and one past the last."""
        marks = np.arange(0, self.frame.height + rows, rows)
        edges = np.unique(np.append(np.searchsorted(self.starts, marks), len(self.starts)))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def rows_in(self, piece: tuple[int, int]) -> int:
        first, last = piece
        end = self.frame.height if last == len(self.starts) else int(self.starts[last])
        return end - int(self.starts[first])

    def commands(self, piece: tuple[int, int], limit: int, ttl_s: int) -> tuple[bytes, bytes]:
        """The commands that add the rows of a piece, trim its users' sets and renew their expiry: RESP in two parts."""
        first, last = piece
        starts = self.starts[first:last]
        frame = self.frame.slice(int(starts[0]), self.rows_in(piece))
        starts = starts - starts[0]
        group = np.zeros(frame.height, np.int64)
        group[starts] = 1
        group = np.cumsum(group) - 1
        heads, tails = _around(frame["user_id"].gather(starts), np.diff(starts, append=frame.height), limit, ttl_s)
        before = pl.select(pl.concat_str(tails.shift(1, fill_value=""), heads)).to_series()
        is_first = np.zeros(frame.height, np.bool_)
        is_first[starts] = True
        opening = pl.when(pl.lit(pl.Series(is_first))).then(pl.lit(before.gather(group))).otherwise(pl.lit(""))
        # One concatenation for a whole row: each further one would copy all text again.
        rows = frame.with_columns(pl.col("epoch_ms").cast(pl.String).alias("score"), _MEMBER_BYTES.alias("bytes"))
        row = pl.concat_str(
            opening, pl.lit("$"), pl.col("score").str.len_bytes(), pl.lit("\r\n"), "score",
            pl.lit("\r\n$"), "bytes", pl.lit("\r\n"), *_MEMBER, pl.lit("\r\n"),
        )  # fmt: skip
        commands: bytes = rows.select(row).to_series().str.join("").cast(pl.Binary).item()
        return commands, tails[-1].encode()


def _around(users: pl.Series, rows: NDArray[np.int64], limit: int, ttl_s: int) -> tuple[pl.Series, pl.Series]:
    """What stands before and after the pairs of each user: the head of ZADD, and the two commands that follow."""
    key = pl.concat_str(*_bulk(pl.concat_str(pl.lit("recent:{"), "user", pl.lit("}"))))
    keep, expiry = _bulk_text(str(-limit - 1)), _bulk_text(str(ttl_s))
    after = f"*4\r\n$15\r\nZREMRANGEBYRANK\r\n{{}}$1\r\n0\r\n{keep}*3\r\n$6\r\nEXPIRE\r\n{{}}{expiry}"
    frame = pl.DataFrame({"user": users, "arguments": 2 + 2 * rows}).with_columns(key.alias("key"))
    texts = frame.select(
        pl.format("*{}\r\n$4\r\nZADD\r\n{}", "arguments", "key").alias("head"),
        pl.format(after, "key", "key").alias("tail"),
    )
    return texts["head"], texts["tail"]


def _bulk(text: pl.Expr) -> tuple[pl.Expr, ...]:
    """A column as RESP bulk strings. Lengths are in bytes."""
    return pl.lit("$"), text.str.len_bytes().cast(pl.String), pl.lit("\r\n"), text, pl.lit("\r\n")


def _bulk_text(text: str) -> str:
    return f"${len(text)}\r\n{text}\r\n"


# The member: compact JSON in the contract's order of keys.
_MEMBER: Sequence[pl.Expr | str] = (
    pl.lit('{"video_id":"'), "video_id", pl.lit('","timestamp":"'), "timestamp",
    pl.lit('","event_type":"'), "event_type", pl.lit('","device":"'), "device",
    pl.lit('","session_id":"'), "session_id", pl.lit('"}'),
)  # fmt: skip
_MEMBER_VALUES = ("video_id", "timestamp", "event_type", "device", "session_id")
_MEMBER_BYTES = pl.sum_horizontal(pl.col(name).str.len_bytes() for name in _MEMBER_VALUES) + len(
    json.dumps(dict.fromkeys(_MEMBER_VALUES, ""), separators=(",", ":"))
)


def _sort_out(users: Sequence[str], errors: dict[int, ErrorReply]) -> tuple[list[str], list[str], str]:
    """Users whose rows are refused for good, users to try again, and the error of one of the latter."""
    refused: list[str] = []
    again: list[str] = []
    code = ""
    first_errors: dict[str, ErrorReply] = {}
    for index, error in sorted(errors.items()):
        first_errors.setdefault(users[index // _COMMANDS_PER_USER], error)
    for user, error in first_errors.items():
        if error.code == "WRONGTYPE":
            refused.append(user)
        elif error.code in _PASSING:
            again.append(user)
            code = error.code
        else:
            raise _refusal(error.code)
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
