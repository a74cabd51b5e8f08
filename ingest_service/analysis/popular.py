"""The items with the most interactions in a window of time, counted from sources, kept under one key of Redis."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from ingest_service.analysis.interactions import DAY_US, Interactions, Kept, Progress, Window, items_of
from ingest_service.analysis.reading import keys_of
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.run import opened
from ingest_service.rows.interaction import micros_of
from ingest_service.rows.spill import Spill
from ingest_service.sinks.redis.sink import RedisSink


@dataclass(frozen=True, slots=True)
class Wanted:
    """At most `limit` items. Each interaction counts as one, or less by its age.

    With `half_life_days` it counts half as much for every so many days before the window's end.
    """

    window: Window
    half_life_days: float | None
    limit: int


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
        interactions = Interactions(jobs, stop, progress)
        as_of = await asyncio.to_thread(interactions.end_of, wanted.window)
        items, scores = await asyncio.to_thread(_most, interactions, as_of, wanted)
        stored = bool(items) or kept.allow_empty
        if stored:
            expiry: list[Any] = [] if kept.expire_s is None else ["EX", kept.expire_s]
            key = redis.options.prefix + kept.key
            await redis.command("SET", key, json.dumps(items), *expiry, key=key)
    return Popular(as_of, items, scores, stored)


def _most(interactions: Interactions, as_of: datetime, wanted: Wanted) -> tuple[list[str], list[float]]:
    until = micros_of(as_of.astimezone(UTC))
    places: dict[str, int] = {}  # of each item in `scores`
    with Spill(None) as spill:
        for columns in interactions.within(as_of, wanted.window.days):
            item, time = pl.Series("item", items_of(columns, places)), pl.Series("time", columns.times)
            spill.add(keys_of(columns).with_columns(item, time))
        scores = np.zeros(len(places))
        for seen in spill:
            once = seen.unique(["user_id", "key"], keep="last", maintain_order=True)
            ages_us = until - once["time"].to_numpy()
            half_life_us = None if wanted.half_life_days is None else wanted.half_life_days * DAY_US
            weights = None if half_life_us is None else np.exp2(-ages_us / half_life_us)
            scores += np.bincount(once["item"].to_numpy(), weights, len(places))
    found = pl.DataFrame({"item": list(places), "score": scores}, schema={"item": pl.String, "score": pl.Float64})
    found = found.filter(pl.col("score") > 0).sort("score", "item", descending=[True, False]).head(wanted.limit)
    return found["item"].to_list(), found["score"].to_list()
