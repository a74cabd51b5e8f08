"""For each item those that the same users came to as well, counted exactly from sources, in one hash of Redis.

interactions → set aside by user → each user's newest items → pairs → set aside by item → of each item the most

Only sums of pairs are set aside, so that memory follows from neither the users nor the pairs.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl

from ingest_service.analysis.interactions import WHEN_STOPPED, Interactions, Kept, Progress, Window, items_of
from ingest_service.errors import SinkUnavailable, Stopped
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.run import opened
from ingest_service.rows.arrays import Ints
from ingest_service.rows.spill import Spill
from ingest_service.sinks.redis.sink import RedisSink

_PAIRS_AT_ONCE = 2_000_000
_LISTS_A_COMMAND = 500
_UNFINISHED_S = 3_600  # after which Redis drops lists that were not completed
# The lists take their place only if all are there: a server that is full may have dropped the key meanwhile.
_REPLACE = """
if redis.call('HLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
if ARGV[2] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('EXPIRE', KEYS[1], ARGV[2]) end
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """At most `limit` items for each; of each user the `per_user` items that he came to last."""

    window: Window
    per_user: int
    limit: int


@dataclass(frozen=True, slots=True)
class Covisited:
    """How many items have a list. `stored`: whether the old lists were replaced."""

    as_of: datetime
    lists: int
    stored: bool

    def as_json(self) -> dict[str, Any]:
        return {"as_of": self.as_of.isoformat(), "lists": self.lists, "stored": self.stored}


async def covisited(
    jobs: Sequence[Job], redis: RedisSink, wanted: Wanted, kept: Kept, stop: asyncio.Event, progress: Progress
) -> Covisited:
    """Count, and replace the hash as a whole. A user counts once for two items, however often he came to either.

    Items that as many users came to come in the order of their ids, and so do those that a user came to at one time.
    """
    async with opened([redis]):  # what is wrong there is said before the sources are read
        interactions = Interactions(jobs, stop, progress)
        as_of = await asyncio.to_thread(interactions.end_of, wanted.window)
        lists = _lists(interactions, as_of, wanted, stop, progress)
        n_lists = await _replace(redis, redis.options.prefix + kept.key, lists, kept)
    return Covisited(as_of, n_lists, bool(n_lists) or kept.allow_empty)


async def _replace(redis: RedisSink, key: str, lists: Iterator[list[str]], kept: Kept) -> int:
    """Write the lists, an item and its others as JSON, beside the old ones, and put them in their place at once."""
    new = f"{key}:{uuid4().hex}" if "{" in key else f"{{{key}}}:{uuid4().hex}"  # in a cluster, at the same node
    n_lists = 0
    while (some := await asyncio.to_thread(next, lists, None)) is not None:
        for first in range(0, len(some), 2 * _LISTS_A_COMMAND):
            await redis.command("HSET", new, *some[first : first + 2 * _LISTS_A_COMMAND], key=new)
            await redis.command("EXPIRE", new, _UNFINISHED_S, key=new)
        n_lists += len(some) // 2
    if n_lists:
        expire_s = "" if kept.expire_s is None else kept.expire_s
        if await redis.command("EVAL", _REPLACE, 2, new, key, n_lists, expire_s, key=key) != 1:
            raise SinkUnavailable(f"{redis.name} dropped the new lists before they were complete; the old ones stay.")
    elif kept.allow_empty:
        await redis.command("UNLINK", key, key=key)
    return n_lists


def _lists(
    interactions: Interactions, as_of: datetime, wanted: Wanted, stop: asyncio.Event, progress: Progress
) -> Iterator[list[str]]:
    """Items, each followed by its list, some at a time. Blocks the caller."""
    places: dict[str, int] = {}
    rows = 0
    with Spill(None) as by_user:
        for columns in interactions.within(as_of, wanted.window.days):
            rows += len(columns)
            item, time = pl.Series("item", items_of(columns, places)), pl.Series("time", columns.times)
            by_user.add(pl.DataFrame([pl.Series("user_id", columns.owner_hashes()), item, time]))
        ids = sorted(places)
        ranks = np.argsort(np.array([places[item] for item in ids], np.int64))  # of each place
        with Spill(rows * wanted.per_user, by=pl.col("item")) as by_item:
            for number, seen in enumerate(by_user):
                progress(step="pairing", part=number)
                for pairs in _pairs(_newest(seen, ranks, wanted.per_user), len(ids)):
                    if stop.is_set():
                        raise Stopped.on_request(WHEN_STOPPED)
                    by_item.add(pairs)
            for pairs in by_item:
                if stop.is_set():
                    raise Stopped.on_request(WHEN_STOPPED)
                yield _most(pairs, ids, wanted.limit)


def _newest(seen: pl.DataFrame, ranks: Ints, per_user: int) -> pl.DataFrame:
    """The items that each user came to last, by number in the order of their ids; users one after the other."""
    seen = seen.with_columns(pl.Series("item", ranks[seen["item"].to_numpy()]))
    once = seen.group_by("user_id", "item").agg(pl.col("time").max())
    once = once.sort("user_id", "time", "item", descending=[False, True, False])
    return once.filter(pl.int_range(pl.len()).over("user_id") < per_user)


def _pairs(newest: pl.DataFrame, n_items: int) -> Iterator[pl.DataFrame]:
    """Each two items of a user, both ways round, as sums over some users at a time."""
    items = newest["item"].to_numpy()
    sizes = newest["user_id"].rle().struct.field("len").to_numpy().astype(np.int64)
    firsts = np.cumsum(sizes) - sizes
    group = np.cumsum(sizes * sizes) // _PAIRS_AT_ONCE
    for users in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(group)) + 1):
        of_row = np.repeat(users, sizes[users])
        rows = firsts[users[0]] + np.arange(len(of_row))
        times = sizes[of_row]
        left = np.repeat(rows, times)
        right = np.repeat(firsts[of_row], times) + np.arange(len(left)) - np.repeat(np.cumsum(times) - times, times)
        both = left != right
        codes, n = np.unique(items[left[both]] * n_items + items[right[both]], return_counts=True)
        if len(codes):
            item, other = np.divmod(codes, n_items)
            yield pl.DataFrame({"item": item, "other": other, "users": n.astype(np.int64)})


def _most(pairs: pl.DataFrame, ids: Sequence[str], limit: int) -> list[str]:
    summed = pairs.group_by("item", "other").agg(pl.col("users").sum())
    summed = summed.sort("item", "users", "other", descending=[False, True, False])
    lists = summed.group_by("item", maintain_order=True).agg(pl.col("other").head(limit))
    return [
        text for item, others in lists.iter_rows() for text in (ids[item], json.dumps([ids[other] for other in others]))
    ]
