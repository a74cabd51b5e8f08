"""Who writes a stream into a sink, rows or dead letters: its lease is taken, renewed and given back here."""

import asyncio
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ingest_service.errors import CheckpointDamaged, IngestError, LineContinued, RowsGone, SourceChanged
from ingest_service.formats.base import Reader
from ingest_service.pipeline.checkpoint import Checkpoint, Fingerprint, Lease, Seen, decode
from ingest_service.pipeline.continued import is_continued
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.ordering import KeyOrder
from ingest_service.pipeline.placed import checkpoint_if_any, checkpoints_of, is_apart
from ingest_service.pipeline.plan import mark_of, part_of
from ingest_service.pipeline.tracker import Tracker, Watermark
from ingest_service.rows.chunk import Chunk
from ingest_service.runtime import fault
from ingest_service.runtime.queues import BoundedQueue
from ingest_service.runtime.tasks import finish_in_thread, task_group
from ingest_service.runtime.tracing import span
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import CheckpointStore

fault.declare({"lease-taken": "the sink's lease is taken, nothing is read"})

QUEUE_CHUNKS = 1  # a queue only has to bridge the moment between two chunks; more would hide a slow sink
CHECKPOINT_EVERY_S = 1.0
_DOUBT_S = 5.0  # without a save; much less than it takes others to judge a holder dead
_RELEASE_S = 3.0
_LAST_TRY_S = 1.0  # the same where the end is near already: the sink was given up, or its process is to stop


@dataclass(slots=True)
class Held(ABC):
    """A stream in an open sink, by its lease; `found` is the checkpoint that was met."""

    sink: AnySink
    lease: Lease
    found: Checkpoint

    @abstractmethod
    async def save(self, *, release: bool = False) -> None:
        """Save how it stands, which renews the lease or ends it. LeaseHeld where another runner has it by now."""


async def beat(held: Held) -> None:
    """Save every second, progress or not: it is the lease's heartbeat too."""
    while True:
        await asyncio.sleep(CHECKPOINT_EVERY_S)
        await held.save()


@asynccontextmanager
async def beating(*all_held: Held) -> AsyncIterator[None]:
    """With a heartbeat for each, while what is inside goes on."""
    async with task_group() as tasks:
        beats = [tasks.create_task(beat(held)) for held in all_held]
        yield
        for one in beats:
            one.cancel()


async def give_up(all_held: Sequence[Held], stop: asyncio.Event) -> None:
    """Where a sink still answers: keep what it has settled, if that is there; the next run may begin.

    Side by side, since each may be one that has fallen silent. A process that is gone holds no lease anyway.
    """

    async def one(held: Held) -> None:
        hurries = stop.is_set() or held.sink.retrier.is_spent
        with suppress(IngestError, TimeoutError):
            async with asyncio.timeout(_LAST_TRY_S if hurries else _RELEASE_S):
                try:
                    await held.save(release=True)
                except RowsGone:
                    await held.lease.give_back()

    async with task_group() as tasks:
        for held in all_held:
            if not held.lease.is_released:
                tasks.create_task(one(held))


@dataclass(slots=True)
class Lane(Held):
    """One sink's way in a load: what is queued (and prepared for it), in flight, settled and checkpointed."""

    job: Job
    reader: Reader[Any]
    tracker: Tracker
    # Chunks with what the sink has prepared of them.
    queue: BoundedQueue[tuple[Chunk, Any]] = field(default_factory=lambda: BoundedQueue(QUEUE_CHUNKS))
    order: KeyOrder = field(default_factory=KeyOrder)
    in_flight_rows: int = 0
    _saved_s: float = field(default_factory=lambda: time.monotonic())  # noqa: PLW0108 - as the clock is then

    @classmethod
    async def open(cls, job: Job, sink: AnySink, reader: Reader[Any], seen: Seen | None = None) -> "Lane":
        """Take the lease, to go on from the checkpoint; `seen` is how that was met before."""
        store = checkpoints_of(sink, job.checkpoint_dir)
        epoch, place = (await sink.epoch(), sink.place) if is_apart(sink, job.checkpoint_dir) else ("", None)
        lease = Lease(store, job.stream, sink.name, epoch, place)
        found = await lease.acquire(
            _fingerprint(job, reader),
            Watermark(job.shard.start if job.shard else reader.first),
            restart=job.starts_again,
            of_plan=job.shard.plan if job.shard else "",
            seen=seen,
            is_another=sink.keeps_spans and job.starts_again and await _is_another(job, sink, store),
        )
        if found.watermark.position.offset < reader.first.offset:
            # The header had no line end yet when an earlier run saw it.
            found = replace(found, watermark=Watermark(reader.first))
        row = found.watermark.position.row
        fault.point("lease-taken", sink.name, row, row)
        lane = cls(sink, lease, found, job, reader, Tracker(found.watermark))
        if not sink.is_fenced:
            sink.rate.guard = lane.assure_lease
        return lane

    async def assure_lease(self) -> None:
        """Before rows are sent, where a process that slept may have lost the lease: LeaseHeld if it has."""
        if time.monotonic() - self._saved_s > _DOUBT_S:
            await self.lease.assure()

    def require(self, job: Job, reader: Reader[Any]) -> None:
        """ConfigurationError unless rows mean now what they meant to the runs before, and it is for `load` to write."""
        self.found.source.require_steps(job.dataset.steps)
        reader.require(self.found.source.header)

    @property
    def is_complete(self) -> bool:
        """Whether the sink has all rows of the source as it was at the end of this run."""
        position = self.tracker.watermark.position
        if position == self.found.watermark.position and not self.reader.reached_end:
            return self.found.complete
        return self.reader.reached_end and position.offset == self.reader.position.offset

    async def begin(self) -> None:
        """Before a row is sent: the sink learns where they go on."""
        offset = self.found.watermark.position.offset
        async with beating(self):
            await self.sink.begin(self.found.written_as, offset if offset > self.reader.first.offset else 0)

    async def save(self, *, release: bool = False, takes_back: bool = False) -> None:
        """The watermark, and at the end whether the sink has all."""
        watermark = self.tracker.watermark
        complete = release and self.is_complete
        with span("checkpoint", sink=self.sink.name, offset=watermark.position.offset):
            await self._assure_rows()
            # A run that is refused for its columns or steps gives the lease back, and leaves those of the rows.
            now = self.job.source
            source = replace(self.found.source, uri=now.uri, size=self.reader.length, etag=now.etag)
            await self.lease.save(source, watermark, complete=complete, release=release, takes_back=takes_back)
            self._saved_s = time.monotonic()
            if release:
                self.sink.rate.guard = None

    async def fall_back(self, to: Watermark) -> None:
        """Rows from there on were taken back."""
        self.found = replace(self.found, watermark=to, complete=False)
        self.tracker = Tracker(to)
        await self.save(takes_back=True)

    async def _assure_rows(self) -> None:
        """Before a checkpoint says so: what was written is there; if kept elsewhere, durable and of this place, too."""
        await self.sink.assure()
        if is_apart(self.sink, self.job.checkpoint_dir):
            await self.sink.flush()
            self.lease.require_epoch(await self.sink.epoch())


async def forget_shards(job: Job, lanes: Sequence[Lane]) -> None:
    """Of a stream that is not divided, or begins again: remove what shards had noted here for just these sinks."""
    mark = mark_of(lane.sink.name for lane in lanes if lane.sink.takes_parts)
    folders = [one for one in await asyncio.to_thread(job.shards_folders) if one.name.endswith(mark)]
    if folders and not job.starts_again:
        stream = part_of(job.stream, 0)
        stores = [(lane.sink, checkpoints_of(lane.sink, job.checkpoint_dir)) for lane in lanes]
        parts = [await checkpoint_if_any(stream, sink, store) for sink, store in stores]
        served = [job.shards_folder(part.of_plan) for part in parts if part is not None and part.of_plan]
        folders = [one for one in folders if one in served]
    for folder in folders:
        if job.mirror is not None:
            await asyncio.to_thread(job.mirror.forget, folder)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _fingerprint(job: Job, reader: Reader[Any]) -> Fingerprint:
    return Fingerprint(job.source.uri, reader.rows.recipe, reader.length, job.source.etag, job.dataset.steps)


async def _is_another(job: Job, sink: AnySink, store: CheckpointStore) -> bool:
    """Whether the source is not the one that was loaded under its name before. Standard input is another each time."""
    text = await store.read(job.stream)
    if text is None or not job.source.resumable:
        return text is not None
    try:
        mark = decode(text, job.stream, sink.name).watermark
        await finish_in_thread(is_continued, job, mark)
    except (SourceChanged, CheckpointDamaged, LineContinued) as error:
        return isinstance(error, SourceChanged)
    return False
