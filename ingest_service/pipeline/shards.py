"""A source in shards: divided once, loaded by whoever takes one, and brought together at the end.

Workers share the sinks' checkpoints, and the folder of dead letters: the plan is in the checkpoint of the stream, each
shard has its own, with a lease. A shard whose holder is dead is taken over like any load. Sinks that stand elsewhere
than the others, or take no parts side by side, are left to a load of the whole source, which comes last.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from ingest_service.errors import IngestError, LeaseHeld, LocalIOError, Stopped, TooManyRejects
from ingest_service.formats.base import Reader
from ingest_service.pipeline.checkpoint import LEASE_S, Checkpoint, Seen, decode, is_dead
from ingest_service.pipeline.dead_letter import DeadLetters
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.lane import forget_shards
from ingest_service.pipeline.load import Observer, load, open_reader_of, opened_lanes, resume
from ingest_service.pipeline.placed import checkpoint_if_any, checkpoints_of
from ingest_service.pipeline.plan import Plan, Shard, mark_of, shard_bytes_of, starts_within
from ingest_service.pipeline.report import StreamReport
from ingest_service.pipeline.together import bring_together, parts_in
from ingest_service.rows.chunk import Position
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import CheckpointStore

_LOOK_EVERY_S = 0.5  # at shards that others hold
_PLANNERS = 20  # how often others may be met that divide the same source, before one of them is taken for a load


@dataclass(frozen=True, slots=True)
class Divided:
    """A source with a plan, and the sinks that are loaded by it, each with the checkpoint that says so."""

    plan: Plan
    found: list[tuple[AnySink, Checkpoint]]

    @property
    def sinks(self) -> list[AnySink]:
        return [sink for sink, _ in self.found]


async def load_shards(job: Job, sinks: Sequence[AnySink], stop: asyncio.Event, observer: Observer) -> Counter[str]:
    """Take shards until none is left, then bring them together; nothing where the source is not divided.

    Returns the rows that were settled by this worker, by sink. Others may do the same, or have begun it. Errors are
    those of `load`; the first one, where a shard failed by itself.
    """
    rows: Counter[str] = Counter()
    while (divided := await division_of(job, sinks)) is not None:
        await _require(job, divided)
        async for report in _work(job, divided, stop, observer):
            rows.update({name: sink.rows_now for name, sink in report.sinks.items()})
        await bring_together(job, divided.plan, divided.sinks, stop)
    return rows


async def division_of(job: Job, sinks: Sequence[AnySink]) -> Divided | None:
    """How the source is divided, if it is."""
    if job.starts_again:
        return None
    read = [
        (sink, await checkpoint_if_any(job.stream, sink, checkpoints_of(sink, job.checkpoint_dir))) for sink in sinks
    ]
    found = [(sink, checkpoint) for sink, checkpoint in read if checkpoint is not None]
    plan = next((checkpoint.plan for _, checkpoint in found if checkpoint.plan is not None), None)
    if plan is None:
        return None
    return Divided(plan, [(sink, checkpoint) for sink, checkpoint in found if checkpoint.plan == plan])


@dataclass(frozen=True, slots=True)
class Found:
    """A division as it was found: where the source ended, and by sink the checkpoints of its shards."""

    plan: Plan
    length: int
    parts: dict[str, list[Checkpoint | None]]


async def found_of(job: Job, divided: Divided) -> Found:
    _, whole = divided.found[0]
    length = whole.source.size or divided.plan.starts[-1].offset
    parts = {sink.name: await parts_in(job.stream, divided.plan, sink, job.checkpoint_dir) for sink in divided.sinks}
    return Found(divided.plan, length, parts)


async def divide(
    job: Job, sinks: Sequence[AnySink], stop: asyncio.Event, shard_mb: int | None = None
) -> Divided | None:
    """Divide a source among workers where that is possible, unless it is already. Its plan is stored in the sinks.

    LeaseHeld while it is loaded as a whole by another runner.
    """
    for _ in range(_PLANNERS):
        found = await division_of(job, sinks)
        # Features of a row depend on all rows before it, which each shard would have to read.
        if found is not None or job.limit is not None or not job.source.resumable or job.dataset.features:
            return found
        try:
            await _store_plan(job, sinks, stop, shard_mb)
        except LeaseHeld as error:
            held = error
            await asyncio.sleep(random.uniform(0, _LOOK_EVERY_S))
            continue
        return await division_of(replace(job, restart=False), sinks)
    raise held


async def _store_plan(job: Job, sinks: Sequence[AnySink], stop: asyncio.Event, shard_mb: int | None) -> None:
    async with opened_lanes(job, sinks, stop) as (reader, lanes):
        for lane in lanes:
            lane.require(job, reader)
        if job.restart:
            await forget_shards(job, lanes)
            letters = DeadLetters.of(job)
            await finish_in_thread(letters.open, resume_offset=0, anew=True)
            letters.close()
        parted = [lane for lane in lanes if lane.sink.takes_parts]
        lowest = min((lane.found.watermark for lane in parted), key=lambda mark: mark.position.offset, default=None)
        if lowest is not None and lowest.unended is None and reader.is_divisible:
            await finish_in_thread(resume, reader, lowest)
            starts = await finish_in_thread(starts_of, reader, lowest.position, shard_mb)
            there = [lane for lane in parted if lane.found.watermark.position == lowest.position]
            name = f"{secrets.token_hex(4)}-{mark_of(lane.sink.name for lane in there)}"
            for lane in there:
                if lane.found.plan is None and len(starts) > 1:
                    lane.lease.divide(Plan(name, starts))
        for lane in lanes:
            await lane.save(release=True)


def starts_of(reader: Reader[Any], first: Position, shard_mb: int | None) -> tuple[Position, ...]:
    """Where the shards of a source begin, the first one at `first`. Blocks."""
    end = reader.length or first.offset
    size = max(1, reader.source_size or end)
    length = max(1, shard_bytes_of(size, shard_mb) * end // size)  # an offset may be a row
    return starts_within(first, end, length, reader.cut)


async def _require(job: Job, divided: Divided) -> None:
    """ConfigurationError unless rows mean to this worker what they meant to who divided the source."""
    reader = await open_reader_of(job)
    try:
        for _, found in divided.found:
            found.source.require_steps(job.dataset.steps)
            reader.require(found.source.header)
    finally:
        await asyncio.to_thread(reader.close)


async def _work(job: Job, divided: Divided, stop: asyncio.Event, observer: Observer) -> AsyncIterator[StreamReport]:
    """Load one shard after the other. One that fails by itself is left, and said once the others are loaded."""
    claims = _Claims(job, divided)
    failures: list[IngestError] = []
    while (shard := await claims.next(stop)) is not None:
        try:
            yield await load(job.part(shard), divided.sinks, stop, observer, claims.seen)
        except LeaseHeld:
            continue  # another was faster, or has taken it over
        except (TooManyRejects, LocalIOError) as error:
            claims.leave(shard)
            failures.append(type(error)(f"{_named(shard, divided.plan)}: {error}"))
    if stop.is_set():
        raise Stopped.on_request()
    if failures:
        raise failures[0]


def _named(shard: Shard, plan: Plan) -> str:
    end = f"{shard.end.offset:,}" if shard.end else "the end"
    return f"Shard {shard.number + 1} of {len(plan)}, from offset {shard.start.offset:,} to {end}"


@dataclass(slots=True)
class _Claims:
    """Which shards are to be had. Each worker looks from another one on, so that few want the same."""

    _job: Job
    _divided: Divided
    seen: dict[str, Seen] = field(default_factory=dict)  # by sink, of the shard that was given out last
    _watched: dict[tuple[int, str], Seen] = field(default_factory=dict)
    _gone: set[int] = field(default_factory=set)  # complete, or left
    _stores: list[tuple[AnySink, CheckpointStore]] = field(default_factory=list)
    _from: int = 0

    def __post_init__(self) -> None:
        self._stores = [(sink, checkpoints_of(sink, self._job.checkpoint_dir)) for sink in self._divided.sinks]
        self._from = random.randrange(len(self._divided.plan))

    async def next(self, stop: asyncio.Event) -> Shard | None:
        """The next free or abandoned one; waits where others hold what is left, and None once there is nothing left."""
        while not stop.is_set():
            shards = list(self._divided.plan)
            left = [shard for shard in shards[self._from :] + shards[: self._from] if shard.number not in self._gone]
            for shard in left:
                if await self._is_free(shard):
                    self._from = shard.number
                    return shard
            if all(shard.number in self._gone for shard in left) or not await self._is_still_divided():
                return None
            await asyncio.sleep(_LOOK_EVERY_S)
        return None

    def leave(self, shard: Shard) -> None:
        self._gone.add(shard.number)

    async def _is_free(self, shard: Shard) -> bool:
        part = self._job.part(shard)
        seen: dict[str, Seen] = {}
        n_complete = 0
        for sink, store in self._stores:
            text = await store.read(part.stream)
            found = None if text is None else decode(text, part.stream, sink.name)
            if found is None or found.of_plan != shard.plan:
                continue
            n_complete += found.complete
            if found.holder is not None and not is_dead(found.holder):
                key = shard.number, sink.name
                if key not in self._watched or self._watched[key].text != text:
                    self._watched[key] = Seen(text)
                if monotonic() - self._watched[key].since < LEASE_S:
                    return False
                seen[sink.name] = self._watched[key]
        if n_complete == len(self._divided.sinks):
            self._gone.add(shard.number)
            return False
        self.seen = seen
        return True

    async def _is_still_divided(self) -> bool:
        found = await division_of(self._job, self._divided.sinks)
        return found is not None and found.plan == self._divided.plan
