"""Who may load a shard: workers come, die, sleep past their lease and wake, in any order, by a clock of the test."""

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import LeaseHeld
from ingest_service.pipeline import checkpoint, shards
from ingest_service.pipeline.checkpoint import LEASE_S, Checkpoint, Fingerprint, Holder, Lease, decode
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.plan import Plan, Shard
from ingest_service.pipeline.shards import Divided, _Claims, division_of
from ingest_service.pipeline.together import _complete, _whole, parts_in
from ingest_service.pipeline.tracker import Counts, Watermark
from ingest_service.rows.chunk import Position
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import Place
from ingest_service.sources.local import FileSource
from tests.pipeline.test_checkpoint import MemoryCheckpoints

SOURCE = Fingerprint("file:///s.csv", "user,item,timestamp", 400, "")
ROW_BYTES, ROWS, SHARDS = 10, 4, 3  # of a row, a shard, a source
STREAM = "s"
T = TypeVar("T")


def position(shard: int, rows: int) -> Position:
    """After so many rows of a shard, which counts them from its beginning."""
    return Position((ROWS * shard + rows) * ROW_BYTES, rows, rows + 1, f"{shard}.{rows}")


PLAN = Plan("plan", tuple(position(number, 0) for number in range(SHARDS)))
WHOLE = Checkpoint(STREAM, "memory", SOURCE, Watermark(PLAN.starts[0]), plan=PLAN)


@dataclass(eq=False)
class Worker:
    """A process. `wants`: the shard that it has found to be free; then `lease` is that of the shard, or of all."""

    holder: Holder
    claims: _Claims
    wants: Shard | None = None
    shard: Shard | None = None
    lease: Lease | None = None
    found: Checkpoint | None = None
    rows: int = 0  # of its shard
    sleeps: bool = False
    lost: list[str] = field(default_factory=list)

    def drop(self) -> None:
        self.wants = self.shard = self.lease = self.found = None


class Workers(RuleBasedStateMachine):
    """Rows are in the sink once they are written, whoever does it; what a checkpoint says of them is fenced."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryCheckpoints()
        self.sink = cast("AnySink", SimpleNamespace(name="memory", place=Place(), checkpoints=self.store))
        self.job = Job(FileSource(Path("s.csv")), STREAM, MICROLENS, Path("state"))
        self.clock = 1000.0
        self.n_workers = 0
        self.known_dead: set[str] = set()
        self.stored: set[tuple[int, int]] = set()
        self.owner: dict[str, Worker] = {}  # of each stream, who took its lease last
        self.marks: dict[str, int] = {}
        self.acting: Worker | None = None
        self.is_together = False
        self.patch = pytest.MonkeyPatch()
        for module in (checkpoint, shards):
            self.patch.setattr(module, "is_dead", lambda holder: holder.id in self.known_dead)
        self.patch.setattr(shards, "monotonic", lambda: self.clock)
        self.patch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: self.clock))
        self.patch.setattr(checkpoint, "asyncio", SimpleNamespace(sleep=self.wait))
        self.patch.setattr(checkpoint, "_this_process", lambda: cast("Worker", self.acting).holder)
        self.workers = [self.new_worker() for _ in range(3)]

    async def wait(self, seconds: float) -> None:
        self.clock += seconds

    def new_worker(self) -> Worker:
        self.n_workers += 1
        holder = Holder("host", "boot", self.n_workers, "1", f"worker {self.n_workers}")
        return Worker(holder, _Claims(self.job, Divided(PLAN, [(self.sink, WHOLE)])))

    def run(self, worker: Worker, job: Coroutine[Any, Any, T]) -> T:
        self.acting = worker
        return self.loop.run_until_complete(job)

    @initialize(seed=st.integers(0, 1 << 16))
    def divide(self, seed: int) -> None:
        random.seed(seed)
        lease = Lease(self.store, STREAM, "memory")
        first = self.workers[0]
        self.run(first, lease.acquire(SOURCE, Watermark(PLAN.starts[0]), restart=False))
        lease.divide(PLAN)
        self.run(first, lease.save(SOURCE, Watermark(PLAN.starts[0]), complete=False, release=True))

    # --- what a worker does -----------------------------------------------------------------------

    @rule(n=st.integers(0, 2))
    def look(self, n: int) -> None:
        """For a shard that is free; if all are complete, it takes the whole stream."""
        worker = self.workers[n]
        if worker.sleeps or worker.lease or worker.wants:
            return
        for shard in PLAN:
            if shard.number not in worker.claims._gone and self.run(worker, worker.claims._is_free(shard)):
                worker.wants = shard
                return
        if len(worker.claims._gone) == SHARDS and self.run(worker, division_of(self.job, [self.sink])):
            self.take_whole(worker)

    @rule(n=st.integers(0, 2))
    def take(self, n: int) -> None:
        """The shard that it wants, which another may have by now."""
        worker = self.workers[n]
        if worker.sleeps or worker.wants is None:
            return
        shard, worker.wants = worker.wants, None
        stream = shard.stream_of(STREAM)
        lease = Lease(self.store, stream, "memory")
        seen = worker.claims.seen.get("memory")
        try:
            found = self.run(
                worker,
                lease.acquire(SOURCE, Watermark(shard.start), restart=False, of_plan=PLAN.id, seen=seen),
            )
        except LeaseHeld:
            return
        self.owner[stream] = worker
        worker.shard, worker.lease, worker.found = shard, lease, found
        worker.rows = found.watermark.position.row
        if found.complete:  # as `load` does
            self.save(worker, complete=True, release=True)

    def take_whole(self, worker: Worker) -> None:
        lease = Lease(self.store, STREAM, "memory")
        try:
            found = self.run(worker, lease.acquire(SOURCE, Watermark(PLAN.starts[0]), restart=False))
        except LeaseHeld:
            return
        self.owner[STREAM] = worker
        worker.lease, worker.found = lease, found

    @rule(n=st.integers(0, 2), rows=st.integers(0, ROWS), saves=st.booleans())
    def write(self, n: int, rows: int, saves: bool) -> None:
        """Some rows, which are there whether it may still save or not; at the end of the shard it is complete."""
        worker = self.workers[n]
        if worker.sleeps or worker.shard is None:
            return
        for _ in range(min(rows, ROWS - worker.rows)):
            self.stored.add((worker.shard.number, worker.rows))
            worker.rows += 1
        if saves or worker.rows == ROWS:
            self.save(worker, complete=worker.rows == ROWS, release=worker.rows == ROWS)

    def save(self, worker: Worker, *, complete: bool, release: bool) -> None:
        assert worker.shard is not None and worker.lease is not None
        stream, number = worker.shard.stream_of(STREAM), worker.shard.number
        mark = Watermark(position(number, worker.rows), Counts(worker.rows, worker.rows, 0, worker.rows))
        try:
            self.run(worker, worker.lease.save(SOURCE, mark, complete=complete, release=release))
        except LeaseHeld:
            assert self.owner[stream] is not worker, "nobody has taken it over"
            worker.drop()
            return
        assert self.owner[stream] is worker, "it was taken over"
        assert self.stored >= {(number, row) for row in range(worker.rows)}
        if release:
            worker.drop()

    @rule(n=st.integers(0, 2))
    def bring_together(self, n: int) -> None:
        """Where it has the lease of the whole: as `together`, once it has looked again."""
        worker = self.workers[n]
        if worker.sleeps or worker.lease is None or worker.shard is not None:
            return
        assert worker.found is not None
        mark = worker.found.watermark
        is_first = worker.found.plan == PLAN
        if is_first:
            parts = _complete(self.run(worker, parts_in(STREAM, PLAN, self.sink, None)))
            mark = _whole(mark, PLAN, parts)
            worker.lease.divide(None)
        try:
            self.run(worker, worker.lease.save(SOURCE, mark, complete=True, release=True))
        except LeaseHeld:
            assert self.owner[STREAM] is not worker
        else:
            assert self.owner[STREAM] is worker
            assert is_first is not self.is_together
            self.is_together = True
            assert len(self.stored) == SHARDS * ROWS
            assert mark.counts.read == mark.counts.written == mark.position.row == SHARDS * ROWS
            assert mark.position.offset == SHARDS * ROWS * ROW_BYTES
        worker.drop()

    # --- what happens to it -----------------------------------------------------------------------

    @rule(n=st.integers(0, 2), is_known=st.booleans())
    def die(self, n: int, is_known: bool) -> None:
        """Another comes; whether its host can tell that it is dead, or only its silence."""
        if is_known:
            self.known_dead.add(self.workers[n].holder.id)
        self.workers[n] = self.new_worker()

    @rule(n=st.integers(0, 2), seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1]))
    def sleep_or_wake(self, n: int, seconds: float) -> None:
        self.workers[n].sleeps = not self.workers[n].sleeps
        self.clock += seconds

    @invariant()
    def no_watermark_falls(self) -> None:
        for stream, text in self.store.texts.items():
            offset = decode(text, stream, "memory").watermark.position.offset
            assert offset >= self.marks.get(stream, 0)
            self.marks[stream] = offset

    @precondition(lambda self: self.is_together)
    @invariant()
    def what_is_together_stays(self) -> None:
        found = decode(self.store.texts[STREAM], STREAM, "memory")
        assert found.plan is None and found.complete

    def teardown(self) -> None:
        """One more worker, whatever the others do or leave, brings it to an end."""
        try:
            self.workers = [self.new_worker()]
            for _ in range(20 * SHARDS):
                if STREAM not in self.store.texts or self.is_together:
                    break
                self.look(0)
                self.take(0)
                self.write(0, ROWS, saves=True)
                self.bring_together(0)
                self.clock += LEASE_S / 2
            else:
                pytest.fail("it does not come to an end")
        finally:
            self.patch.undo()
            self.loop.close()


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=150, stateful_step_count=50, derandomize=True, deadline=None)
