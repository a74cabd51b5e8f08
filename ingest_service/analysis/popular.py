"""The items with the most interactions in a window of time, counted from sources, kept under one key of Redis."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from ingest_service.analysis.reading import chunks_of, keys_of
from ingest_service.analysis.spill import Spill
from ingest_service.errors import ConfigurationError
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.run import opened
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.distinct import distinct
from ingest_service.rows.interaction import EPOCH, micros_of
from ingest_service.sinks.redis.sink import RedisSink

WHEN_STOPPED = "the list is as it was"
_DAY_US = 86_400_000_000

Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Interactions in (as_of - days, as_of]; `as_of` is that of the newest where it is None.

    Each counts as one, or with `half_life_days` as half as much for every so many days before `as_of`.
    """

    as_of: datetime | None
    days: float
    half_life_days: float | None
    limit: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Under which key, and how: an empty list leaves the old one alone unless `allow_empty`."""

    key: str
    allow_empty: bool
    expire_s: int | None


@dataclass(frozen=True, slots=True)
class Popular:
    """The most popular item first; `scores` are what each counts. `stored`: whether the list was replaced."""

    as_of: datetime
    items: list[str]
    scores: list[float]
    stored: bool

    def as_json(self) -> dict[str, Any]:
        lists = {"items": self.items, "scores": self.scores}
        return {"as_of": self.as_of.isoformat(), **lists, "stored": self.stored}


async def popular(
    jobs: Sequence[Job], redis: RedisSink, wanted: Wanted, kept: Kept, stop: asyncio.Event, progress: Progress
) -> Popular:
    """Count, and replace the key as a whole. ConfigurationError where the newest row's time is wanted and none is.

    A key that comes again counts once, wherever it stands. Items that count the same come in the order of their ids.
    """
    async with opened([redis]):  # what is wrong there is said before the sources are read
        counting = _Counting(jobs, stop, progress)
        as_of = await asyncio.to_thread(counting.newest) if wanted.as_of is None else wanted.as_of
        items, scores = await asyncio.to_thread(counting.most, as_of, wanted)
        stored = bool(items) or kept.allow_empty
        if stored:
            expiry: list[Any] = [] if kept.expire_s is None else ["EX", kept.expire_s]
            key = redis.options.prefix + kept.key
            await redis.command("SET", key, json.dumps(items), *expiry, key=key)
    return Popular(as_of, items, scores, stored)


class _Counting:
    """Passes over the sources. Blocks the caller."""

    def __init__(self, jobs: Sequence[Job], stop: asyncio.Event, progress: Progress) -> None:
        self._jobs = jobs
        self._stop = stop
        self._progress = progress

    def newest(self) -> datetime:
        newest = max((int(columns.times.max()) for columns in self._columns("looking for the newest")), default=None)
        if newest is None:
            raise ConfigurationError("The sources have no rows, and so no newest one; name a time with --as-of.")
        return EPOCH + timedelta(microseconds=newest)

    def most(self, as_of: datetime, wanted: Wanted) -> tuple[list[str], list[float]]:
        until = micros_of(as_of.astimezone(UTC))
        since = until - round(wanted.days * _DAY_US)
        places: dict[str, int] = {}  # of each item in `scores`
        with Spill(None) as spill:
            for columns in self._columns("counting"):
                rows = np.flatnonzero((columns.times > since) & (columns.times <= until))
                if len(rows):
                    spill.add(_seen(columns.take(rows), places))
            scores = np.zeros(len(places))
            for seen in spill:
                once = seen.unique(["user_id", "key"], keep="last", maintain_order=True)
                ages_us = until - once["time"].to_numpy()
                half_life_us = None if wanted.half_life_days is None else wanted.half_life_days * _DAY_US
                weights = None if half_life_us is None else np.exp2(-ages_us / half_life_us)
                scores += np.bincount(once["item"].to_numpy(), weights, len(places))
        found = pl.DataFrame({"item": list(places), "score": scores}, schema={"item": pl.String, "score": pl.Float64})
        found = found.filter(pl.col("score") > 0).sort("score", "item", descending=[True, False]).head(wanted.limit)
        return found["item"].to_list(), found["score"].to_list()

    def _columns(self, step: str) -> Iterator[Columns]:
        """Of each chunk that has rows."""
        read = 0
        for job in self._jobs:
            for chunk, _ in chunks_of(job, self._stop, WHEN_STOPPED):
                read += chunk.read
                self._progress(step=step, source=job.source.uri, rows_read=read)
                if chunk.accepted:
                    yield chunk.columns


def _seen(columns: Columns, places: dict[str, int]) -> pl.DataFrame:
    """What tells the interactions apart, their items as numbers, and their times."""
    different, inverse = distinct(columns.texts["video_id"])
    of: Ints = np.array([places.setdefault(item, len(places)) for item in different.to_list()], np.int64)
    return keys_of(columns).with_columns(pl.Series("item", of[inverse]), pl.Series("time", columns.times))
