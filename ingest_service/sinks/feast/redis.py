"""Feast in Redis: each owner's newest record as the features of an entity, as Feast's online store has them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from ingest_service.errors import ConfigurationError
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import raws
from ingest_service.sinks.base import Finding, Written
from ingest_service.sinks.checkpoints import Place
from ingest_service.sinks.feast.commands import MAKE_KNOWN, Hashes
from ingest_service.sinks.feast.own_form import OfView
from ingest_service.sinks.feast.values import moment_us
from ingest_service.sinks.feast.view import Chosen, View, ViewOptions
from ingest_service.sinks.pacing import RateLimit
from ingest_service.sinks.redis.address import ServerOptions
from ingest_service.sinks.redis.commands import Batch
from ingest_service.sinks.redis.connection import Replies
from ingest_service.sinks.redis.server import ServerSink
from ingest_service.sinks.urls import parse_options

if TYPE_CHECKING:
    import polars as pl

_FOREIGN = "The entity's key holds something that is no hash."
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
_PIECE_USERS = 1_000  # asked for in one round trip
_PIECE_ROWS = 1 << 13  # made into commands at once: bounds the text in memory, and fits the CPU's cache


class FeastOptions(ViewOptions, ServerOptions):
    project: str = Field(pattern=_NAME, description="Feast's project")
    view: str = Field(pattern=_NAME, description="the feature view")

    @property
    def own(self) -> str:
        """Begins the keys of what is kept about the rows."""
        return f"feast:{self.project}:{self.view}:{self.what}:"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One row an entity, if there is any."""

    batch: Batch | None
    chosen: Chosen


class FeastSink(OfView, ServerSink[Prepared]):
    """`feast+redis://…?project=P&view=V&entity=user_id:INT64&features=a,b:FLOAT`, the rest as of `redis://`."""

    scheme: ClassVar[str] = "feast"
    takes_parts: ClassVar[bool] = False  # of two rows of one time the later one wins, whatever their keys
    probes = (("HSET", "x", 1), ("HGET", "x"), ("DEL",))
    options: FeastOptions

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, FeastOptions)
        parts = parts._replace(scheme=parts.scheme.removeprefix(f"{self.scheme}+"))
        super().__init__(parts, options, options.own)
        self.view = View(options.entity, options.features)
        self.hashes = Hashes(options.project, options.view, self.view)
        self.place = Place(options.own, self.server)

    async def open(self) -> None:
        await super().open()
        if self.nodes.is_cluster:
            raise ConfigurationError(f"{self.name} writes to a single Redis, and this one is a cluster.")

    async def survey(self, columns: Columns) -> list[Finding]:
        found = self.view.check(columns)
        return [*found, *await super().survey(columns)] if found[0].ok else found

    def prepare(self, chunk: Chunk) -> Prepared:
        chosen = self.view.chosen(chunk.columns)
        rows = chosen.newest
        return Prepared(Batch(chunk.columns.take(rows), rows, np.arange(len(rows))) if len(rows) else None, chosen)

    async def write(self, chunk: Chunk, prepared: Prepared) -> Written:
        batch = prepared.batch
        foreign = await self.send(batch) if batch is not None else []
        dead = prepared.chosen.dead(chunk, self.name)
        dead += [chunk.dead_row(row, self.name, "wrong_type", _FOREIGN) for row in foreign]
        n_written = len(prepared.chosen.newest) - len(foreign)
        return Written(n_written, chunk.accepted - n_written - len(dead), dead)

    # --- reading ------------------------------------------------------------------------------------

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.feast.readback import ids_of, stored_frame

        rows: list[tuple[str, int | None, list[bytes | None]]] = []
        for first in range(0, len(users), _PIECE_USERS):
            piece = users[first : first + _PIECE_USERS]
            keys = raws(self.hashes.keys_of(ids_of(self.view, piece)))
            found = await self.retrier.call(lambda: self.nodes.hashes(keys, self.hashes.fields))  # noqa: B023
            rows += [
                (user, moment_us(time), values)
                for user, (time, *values) in zip(piece, found, strict=True)
                if time is not None or any(value is not None for value in values)
            ]
        return await asyncio.to_thread(stored_frame, rows)

    # --- on the way ---------------------------------------------------------------------------------

    def writing(self, batch: Batch) -> "Writing":
        return Writing(batch, self.hashes, self.rate)


@dataclass(frozen=True, slots=True)
class Writing:
    """Commands of a batch, made a piece at a time while earlier ones are on their way. The first is about no entity."""

    batch: Batch
    hashes: Hashes
    rate: RateLimit

    async def payloads(self, replies: Replies) -> AsyncIterator[tuple[memoryview, int]]:
        yield memoryview(MAKE_KNOWN), 1
        for first, last in self.batch.pieces(self.rate.piece(_PIECE_ROWS)):
            await self.rate.take(last - first)
            columns = self.batch.columns.take(slice(first, last))
            commands = await asyncio.to_thread(self.hashes.commands, columns)
            yield commands.data, last - first

    def errors(self, replies: Replies) -> dict[int, str]:
        return {max(reply - 1, 0): error for reply, error in sorted(replies.errors.items(), reverse=True)}
