"""Redis: each user's newest interactions in a sorted set, written in pipelines grouped by user."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast
from uuid import UUID

import numpy as np
from redis.asyncio import ConnectionPool

from ingest_service.errors import ConfigurationError, IngestError, Retry, declare_codes
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import Piece, concatenate, decimals
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.base import Finding, Sink, Written
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.fields import interaction_of, json_safe
from ingest_service.sinks.redis.about import About, limits_of
from ingest_service.sinks.redis.address import RedisOptions as RedisOptions
from ingest_service.sinks.redis.address import with_database
from ingest_service.sinks.redis.checkpoints import Guard, RedisCheckpoints
from ingest_service.sinks.redis.commands import Batch, Keeping, member
from ingest_service.sinks.redis.errors import PASSING, errors_translated, refusal
from ingest_service.sinks.redis.items import RedisItems
from ingest_service.sinks.redis.nodes import RedisNodes, connection_of
from ingest_service.sinks.redis.writing import Writing
from ingest_service.sinks.sizes import Tally
from ingest_service.sinks.urls import parse_options

if TYPE_CHECKING:
    import polars as pl

declare_codes(
    {
        "wrong_type": "the sink holds something else under the row's key",
    }
)

_PIECE_USERS = 1_000  # asked for in one pipeline

# KEYS: a user's set; ARGV: a member to take out. Where something else is, the member never got in.
_REMOVE = """
local removed = redis.pcall('ZREM', KEYS[1], ARGV[1])
if type(removed) == 'table' and string.find(removed.err, 'WRONGTYPE') then return 0 end
return removed
"""

# Takes a database for a trial, if it is empty. KEYS: the mark that it is taken.
_CLAIM = """
if redis.call('DBSIZE') ~= 0 then return 0 end
redis.call('SET', KEYS[1], 'taken')
return 1
"""
_CLAIM_KEY = "ingest:trial"
_DATABASES = 16  # what a server has unless it is told otherwise


class RedisSink(Sink[Batch | None]):
    """`redis://[user:password@]host[:port][/db]`, `rediss://` for TLS, `redis+unix:///path`, or
    `redis+sentinel://host[:port][,host…]/service[/db]`, also with `rediss`.
    """

    scheme: ClassVar[str] = "redis"
    is_prepared_whole: ClassVar[bool] = True
    is_apart: bool = True  # rows expire and may be evicted, checkpoints of old would stay
    options: RedisOptions

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, RedisOptions)
        super().__init__(options)
        self.nodes = RedisNodes(parts, self.options)
        self.keeping = Keeping(self.options.prefix, self.options.recent_limit, self.options.recent_ttl_s)
        self.checkpoints: CheckpointStore = RedisCheckpoints(self.nodes, self.retrier, self.options)
        self._guard = Guard(self.name, self.nodes, self.retrier, self.checkpoints, self.options)
        self._sets = np.empty(0, np.int64)  # the users of the last chunk whose keys are
        self._evicted = ""  # the last warning of it
        # The checkpoints beside the rows are this database's and prefix's anyway.
        server = parts.netloc.rpartition("@")[2] + parts.path
        self.place = Place(server="?".join((server, str(self.options.db or ""), self.options.prefix)).rstrip("?"))
        self.items = RedisItems(self.nodes, self.retrier, self.options.prefix)
        self.forgets = f"a user's key expires {self.options.recent_ttl_s:,} s after its last write"

    async def open(self) -> None:
        await self.retrier.call(self.nodes.meet)
        servers = await self._guard.look()
        if evicted := sum(one.evicted for one in servers):
            self.forgets += f", and {evicted:,} keys were evicted since the server started ({limits_of(servers)})"

    def prepare(self, chunk: Chunk) -> Batch | None:
        rows = chunk.last_of_each_key()
        return Batch.of(chunk.columns, rows) if len(rows) else None

    async def write(self, chunk: Chunk, prepared: Batch | None) -> Written:
        if prepared is None:
            return Written(0)
        pending = prepared
        n_rows = len(pending.rows)
        dead: list[int] = []

        async def attempt() -> None:
            nonlocal pending
            if await self.nodes.refresh():
                await self._guard.look()  # before a new master gets rows
            outcome = await self._exchange_all(pending)
            dead.extend(outcome.dead)
            if len(outcome.again) < len(pending.rows):
                self.retrier.progressed()
            if outcome.fault is not None:
                self.limit.throttled(len(outcome.again) / len(pending.rows))
                pending = pending.only(np.array(outcome.again, np.int64))
                raise outcome.fault

        await self.retrier.call(attempt, moves_rows=True)
        self._sets = await asyncio.to_thread(prepared.sets, dead)
        reason = "The user's key holds something that is no sorted set."
        rows = [chunk.dead_row(row, self.name, "wrong_type", reason) for row in sorted(dead)]
        return Written(n_rows - len(rows), chunk.accepted - n_rows, rows)

    async def _exchange_all(self, batch: Batch) -> "_Outcome":
        """Each node's part of a batch in one round trip, side by side. A node that fails holds up its own part only."""
        outcome = _Outcome()
        parts = await asyncio.to_thread(self.nodes.split, batch)

        async def exchange(node: ConnectionPool, part: Batch) -> None:
            try:
                errors = await self._exchange(node, part)
            except Retry as fault:
                self.nodes.is_stale = True
                outcome.again += part.rows.tolist()
                outcome.fault = fault
                return
            refused, again, code = _sort_out(errors)
            outcome.dead += part.of_users(refused).tolist()
            if again:
                await self.nodes.answered(node, code)
                outcome.again += part.of_users(again).tolist()
                outcome.fault = Retry(f"the server answers {code}", throttled=code == "OOM")

        async with self.limit.slot(), task_group() as exchanges:
            for node, part in parts:
                exchanges.create_task(exchange(node, part))
        return outcome

    async def _exchange(self, node: ConnectionPool, batch: Batch) -> dict[int, str]:
        """All of a batch over one connection: the first error of each user that had one."""
        writing = await asyncio.to_thread(Writing, batch, self.keeping, self.rate, self._sets)
        with errors_translated():
            async with connection_of(node) as connection:
                replies = await connection.exchange(writing.payloads, self.options.timeout_s, self.retrier.answered)
                if self.nodes.replicas:
                    acknowledged = await connection.acknowledged(self.nodes.replicas, self.nodes.wait_ms)
                    await self.nodes.require_replicas(acknowledged)
        return writing.errors(replies)

    async def remove(self, columns: Columns) -> None:
        ready = Batch.of(columns, np.arange(len(columns))).columns  # as they were written
        users, members = ready.texts[ready.schema.owner].to_list(), concatenate(member(ready)).to_list()
        for user, text in zip(users, members, strict=True):
            key = self.keeping.key(user)
            await self.command("EVAL", _REMOVE, 1, key, text, key=key)

    async def command(self, *arguments: str | int, key: str = "") -> object:
        """One command and its reply, retried: at the node that holds the key, or at any."""
        return await self.retrier.call(lambda: self.nodes.command(*arguments, key=key))

    async def survey(self, columns: Columns) -> list[Finding]:
        findings = [await self._guard.survey()]
        if self.nodes.replicas and (servers := await self.retrier.call(self.nodes.about_masters)) is not None:
            fewest = min(one.replicas for one in servers.values())
            text = f"{fewest} are connected, and each write waits for {self.nodes.replicas} (?replicas=)"
            findings.append(Finding("replicas", True, text, warning=fewest < self.nodes.replicas))
        return findings

    async def assure(self) -> None:
        evicted = await self._guard.assure()
        if evicted:
            self.warnings = [one for one in self.warnings if one != self._evicted] + [evicted]
            self._evicted = evicted

    async def epoch(self) -> str:
        return await self._guard.epoch()

    async def check(self, *, create: bool) -> list[Finding]:
        await self.open()
        probe = f"{self.options.prefix}ingest:check:{{probe}}"
        try:
            for arguments in (
                ("ZADD", probe, 1, "x"),
                ("EXPIRE", probe, 1),
                ("ZREMRANGEBYRANK", probe, 0, -1),
            ):
                await self.command(*arguments, key=probe)
        except IngestError as error:
            return [Finding("writes", False, str(error))]
        return [Finding("writes", True, "permitted")]

    def preview(self, columns: Columns) -> list[str]:
        columns = json_safe(columns, but=columns.schema.owner)
        key: list[Piece] = [b"ZADD ", *self.keeping.key_pieces(columns.texts[columns.schema.owner]), b" "]
        return concatenate([*key, decimals(columns.epoch_ms), b" ", *member(columns)]).to_list()

    def tally(self, prices: Path | None) -> Tally:
        from ingest_service.sinks.redis.sizes import RedisTally

        return RedisTally(self.keeping, self._look_at_limits)

    async def _look_at_limits(self) -> tuple[list[About], str]:
        """What the servers say of themselves, and one of its allocator."""
        await self.open()
        servers = await self.retrier.call(self.nodes.about_masters) or {}
        return list(servers.values()), str(await self.command("MEMORY", "MALLOC-STATS"))

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        """Each user's newest, in the order that Redis gives them: by score, then by member."""
        import polars as pl

        from ingest_service.sinks.readback import event_key_of
        from ingest_service.sinks.redis.readback import member_of

        frame = frame.with_columns(event_key_of(schema), member_of(frame, schema), pl.lit(False).alias("expired"))
        frame = frame.with_columns(pl.concat_str("epoch_ms", pl.lit(" "), "member").alias("value"))
        is_crowded = pl.len().over("user_id") > self.options.recent_limit
        if frame.select(is_crowded.any()).item():
            newest = pl.struct("epoch_ms", "member").rank("ordinal", descending=True).over("user_id")
            frame = frame.filter(~is_crowded | (newest <= self.options.recent_limit))
        return frame.drop("member")

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA
        from ingest_service.sinks.redis.readback import stored_frame

        frames = [pl.DataFrame(schema=STORED_SCHEMA)]
        for first in range(0, len(users), _PIECE_USERS):
            piece = users[first : first + _PIECE_USERS]
            keys = [self.keeping.key(user) for user in piece]
            sets = await self.retrier.call(lambda: self.nodes.sorted_sets(keys))  # noqa: B023
            frames.append(await asyncio.to_thread(stored_frame, piece, sets, schema))
        return pl.concat(frames)

    async def recent(self, user_id: UUID | str, limit: int) -> list[VideoInteraction]:
        """A user's newest interactions, newest first."""
        key = self.keeping.key(user_id)
        found = await self.command("ZREVRANGE", key, 0, limit - 1, key=key)
        members = [json.loads(member) for member in cast("list[str]", found)]
        return [interaction_of({"user_id": str(user_id), **member}) for member in members]

    def for_items(self) -> "RedisSink":
        return self

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """An empty database of the same server, claimed by a key, and emptied on leaving.

        A database that holds anything is never taken; what is removed is only what sinks write.
        """
        await self.open()
        if self.nodes.is_cluster:
            raise ConfigurationError(f"{self.name} is a cluster, which has no second database; try on a single server.")
        for number in range(_DATABASES - 1, -1, -1):
            if number == self.nodes.database:
                continue
            sink = RedisSink(trial := with_database(url, number))
            try:
                if await sink.command("EVAL", _CLAIM, 1, sink.options.prefix + _CLAIM_KEY) == 1:
                    try:
                        yield trial
                    finally:
                        await _empty(sink)
                    return
            finally:
                await sink.close()
        raise ConfigurationError(f"{self.name} has no empty database for a trial; name a server of its own for it.")

    async def close(self) -> None:
        await self.nodes.close()


def _sort_out(errors: dict[int, str]) -> tuple[list[int], list[int], str]:
    """Users whose rows are refused for good, users to try again, and the error of one of the latter."""
    refused: list[int] = []
    again: list[int] = []
    code = ""
    for user, error in errors.items():
        if error == "WRONGTYPE":
            refused.append(user)
        elif error in PASSING:
            again.append(user)
            code = error
        else:
            raise refusal(error)
    return refused, again, code


@dataclass(slots=True)
class _Outcome:
    """What became of a batch: rows refused for good and rows to try again, by index in the chunk, and why."""

    dead: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    fault: Retry | None = None


async def _empty(sink: RedisSink) -> None:
    """Remove everything that sinks write from a database that was claimed for a trial, and the claim last."""
    for pattern in ("recent:*", "item:*", "ingest:checkpoint:*", "ingest:evicted", _CLAIM_KEY):
        keys = sorted(await sink.nodes.keys(sink.options.prefix + pattern))
        for first in range(0, len(keys), _PIECE_USERS):
            await sink.command("DEL", *keys[first : first + _PIECE_USERS])
