"""Redis: each user's newest interactions in a sorted set, written in pipelines grouped by user."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast
from uuid import UUID

import numpy as np

from ingest_service.errors import ConfigurationError
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import Piece, concatenate, decimals
from ingest_service.sinks.base import Written
from ingest_service.sinks.checkpoints import Place
from ingest_service.sinks.fields import interaction_of, json_safe
from ingest_service.sinks.redis.about import About
from ingest_service.sinks.redis.address import RedisOptions as RedisOptions
from ingest_service.sinks.redis.address import with_database
from ingest_service.sinks.redis.commands import Batch, Keeping, member
from ingest_service.sinks.redis.items import RedisItems
from ingest_service.sinks.redis.server import ServerSink
from ingest_service.sinks.redis.writing import Writing
from ingest_service.sinks.sizes import Tally
from ingest_service.sinks.urls import parse_options

if TYPE_CHECKING:
    import polars as pl

_FOREIGN = "The user's key holds something that is no sorted set."
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


class RedisSink(ServerSink[Batch | None]):
    """`redis://[user:password@]host[:port][/db]`, `rediss://` for TLS, `redis+unix:///path`, or
    `redis+sentinel://host[:port][,host…]/service[/db]`, also with `rediss`.
    """

    scheme: ClassVar[str] = "redis"
    probes = (("ZADD", 1, "x"), ("EXPIRE", 1), ("ZREMRANGEBYRANK", 0, -1))
    options: RedisOptions

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, RedisOptions)
        super().__init__(parts, options, options.prefix)
        self.keeping = Keeping(self.options.prefix, self.options.recent_limit, self.options.recent_ttl_s)
        self._sets = np.empty(0, np.int64)  # the users of the last chunk whose keys are
        # The checkpoints beside the rows are this database's and prefix's anyway.
        self.place = Place(server="?".join((self.server, self.options.prefix)).rstrip("?"))
        self.items = RedisItems(self.nodes, self.retrier, self.options.prefix)
        self.forgets = f"a user's key expires {self.options.recent_ttl_s:,} s after its last write"

    def prepare(self, chunk: Chunk) -> Batch | None:
        rows = chunk.last_of_each_key()
        return Batch.of(chunk.columns, rows) if len(rows) else None

    async def write(self, chunk: Chunk, prepared: Batch | None) -> Written:
        if prepared is None:
            return Written(0)
        dead = await self.send(prepared)
        self._sets = await asyncio.to_thread(prepared.sets, dead)
        n_rows = len(prepared.rows)
        rows = [chunk.dead_row(row, self.name, "wrong_type", _FOREIGN) for row in dead]
        return Written(n_rows - len(rows), chunk.accepted - n_rows, rows)

    def writing(self, batch: Batch) -> Writing:
        return Writing(batch, self.keeping, self.rate, self._sets)

    async def remove(self, columns: Columns) -> None:
        ready = Batch.of(columns, np.arange(len(columns))).columns  # as they were written
        users, members = ready.texts[ready.schema.owner].to_list(), concatenate(member(ready)).to_list()
        for user, text in zip(users, members, strict=True):
            key = self.keeping.key(user)
            await self.command("EVAL", _REMOVE, 1, key, text, key=key)

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


async def _empty(sink: RedisSink) -> None:
    """Remove everything that sinks write from a database that was claimed for a trial, and the claim last."""
    for pattern in ("recent:*", "item:*", "ingest:checkpoint:*", "ingest:evicted", _CLAIM_KEY):
        keys = sorted(await sink.nodes.keys(sink.options.prefix + pattern))
        for first in range(0, len(keys), _PIECE_USERS):
            await sink.command("DEL", *keys[first : first + _PIECE_USERS])
