"""Feast: each owner's newest record as the features of an entity, as Feast's online store in Redis has them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ingest_service.errors import ConfigurationError, declare_codes
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.sinks.base import Finding, Written
from ingest_service.sinks.checkpoints import Place
from ingest_service.sinks.feast.view import MAKE_KNOWN, FeastOptions, View, newest
from ingest_service.sinks.pacing import RateLimit
from ingest_service.sinks.redis.commands import Batch
from ingest_service.sinks.redis.connection import Replies
from ingest_service.sinks.redis.server import ServerSink
from ingest_service.sinks.urls import parse_options

declare_codes(
    {
        "out_of_range": "a number that the type of its feature cannot hold",
    }
)

_FOREIGN = "The entity's key holds something that is no hash."
_UNFIT = "A number does not fit into its type, INT32 or FLOAT; INT64 and DOUBLE hold it."
_PIECE_ROWS = 1 << 13  # made into commands at once: bounds the text in memory, and fits the CPU's cache


@dataclass(frozen=True, slots=True)
class Prepared:
    """One row an entity, if there is any, and the rows that cannot be written."""

    batch: Batch | None
    unfit: Ints


class FeastSink(ServerSink[Prepared]):
    """`feast+redis://…?project=P&view=V&entity=user_id:INT64&features=a,b:FLOAT`, the rest as of `redis://`."""

    scheme: ClassVar[str] = "feast"
    takes_parts: ClassVar[bool] = False  # of two rows of one time the later one wins, whatever their keys
    probes = (("HSET", "x", 1), ("HGET", "x"), ("DEL",))
    options: FeastOptions

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, FeastOptions)
        parts = parts._replace(scheme=parts.scheme.removeprefix(f"{self.scheme}+"))
        super().__init__(parts, options, options.own)
        self.view = View(options.project, options.view, options.entity, options.features)
        self.place = Place(options.own, self.server)

    async def open(self) -> None:
        await super().open()
        if self.nodes.is_cluster:
            raise ConfigurationError(f"{self.name} writes to a single Redis, and this one is a cluster.")

    async def survey(self, columns: Columns) -> list[Finding]:
        try:
            self.view.require(columns)
        except ConfigurationError as error:
            return [Finding("features", False, str(error))]
        return [Finding("features", True, "all can be written"), *await super().survey(columns)]

    def prepare(self, chunk: Chunk) -> Prepared:
        self.view.require(chunk.columns)
        unfit = self.view.unfit(chunk.columns)
        rows = newest(chunk.columns, np.flatnonzero(~unfit))
        batch = Batch(chunk.columns.take(rows), rows, np.arange(len(rows))) if len(rows) else None
        return Prepared(batch, np.flatnonzero(unfit))

    async def write(self, chunk: Chunk, prepared: Prepared) -> Written:
        batch = prepared.batch
        foreign = await self.send(batch) if batch is not None else []
        dead = [chunk.dead_row(row, self.name, "out_of_range", _UNFIT) for row in prepared.unfit.tolist()]
        dead += [chunk.dead_row(row, self.name, "wrong_type", _FOREIGN) for row in foreign]
        n_written = (len(batch.rows) if batch is not None else 0) - len(foreign)
        return Written(n_written, chunk.accepted - n_written - len(dead), dead)

    def writing(self, batch: Batch) -> "Writing":
        return Writing(batch, self.view, self.rate)


@dataclass(frozen=True, slots=True)
class Writing:
    """Commands of a batch, made a piece at a time while earlier ones are on their way. The first is about no entity."""

    batch: Batch
    view: View
    rate: RateLimit

    async def payloads(self, replies: Replies) -> AsyncIterator[tuple[memoryview, int]]:
        yield memoryview(MAKE_KNOWN), 1
        for first, last in self.batch.pieces(self.rate.piece(_PIECE_ROWS)):
            await self.rate.take(last - first)
            columns = self.batch.columns.take(slice(first, last))
            commands = await asyncio.to_thread(self.view.commands, columns)
            yield commands.data, last - first

    def errors(self, replies: Replies) -> dict[int, str]:
        return {max(reply - 1, 0): error for reply, error in sorted(replies.errors.items(), reverse=True)}
