"""The watermark invariants of one sink, through crashes, restarts, lost replies and a second runner."""

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ingest_service.errors import LeaseHeld
from ingest_service.pipeline.checkpoint import Checkpoint, Fingerprint, Lease, decode
from ingest_service.pipeline.tracker import Counts, Tracker, Watermark
from ingest_service.rows.chunk import Position
from tests.pipeline.test_checkpoint import MemoryCheckpoints

T = TypeVar("T")

SOURCE = Fingerprint("file:///a.csv", "user,item,timestamp", 1000, "")
BEGIN = Watermark(Position(20, 0, 1, "begin"))


def span(start: Position, length: int, rows: int) -> Position:
    return Position(start.offset + length, start.row + rows, start.line + rows, f"hash{start.offset + length}")


def counts(rows: int, rejected: int, dead: int, merged: int) -> Counts:
    accepted = rows - rejected
    dead = min(dead, accepted)
    merged = min(merged, accepted - dead)
    return Counts(rows, accepted, rejected, accepted - dead - merged, merged, dead)


# --- plain properties -------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), seed=st.randoms(use_true_random=False))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_any_order_of_settling_gives_the_longest_unbroken_run(lengths: list[int], seed: random.Random) -> None:
    """At each step the watermark is the start of the lowest unsettled span; in the end it has all counts."""
    tracker = Tracker(BEGIN)
    spans = []
    at = BEGIN.position
    for length in lengths:
        end = span(at, length, length)
        tracker.expect(at, end)
        spans.append((at, end, counts(length, length % 2, length % 3, length % 4)))
        at = end
    order = list(spans)
    seed.shuffle(order)
    open_starts = {start.offset for start, _, _ in spans}
    for start, _, fate in order:
        tracker.settle(start, fate)
        open_starts.remove(start.offset)
        assert tracker.watermark.position.offset == min(open_starts, default=at.offset)
        assert tracker.outstanding == len(open_starts)
        done = [fate for _, end, fate in spans if end.offset <= tracker.watermark.position.offset]
        assert tracker.watermark.counts == sum(done, Counts())
    assert tracker.watermark.position == at


def test_settling_twice_changes_nothing() -> None:
    """A span settled again, before or after the watermark passed it, is no change."""
    tracker = Tracker(BEGIN)
    first, second = span(BEGIN.position, 5, 1), span(span(BEGIN.position, 5, 1), 5, 1)
    tracker.expect(BEGIN.position, first)
    tracker.expect(first, second)
    one = Counts(1, 1, 0, 1)
    tracker.settle(first, one)
    tracker.settle(first, one)
    assert tracker.watermark == BEGIN
    tracker.settle(BEGIN.position, one)
    tracker.settle(BEGIN.position, one)
    tracker.settle(first, one)
    assert tracker.watermark == Watermark(second, Counts(2, 2, 0, 2))


def test_what_makes_no_sense_is_refused() -> None:
    """Gaps, overlaps, empty or unknown spans and counts that do not add up are errors, and change nothing."""
    tracker = Tracker(BEGIN)
    end = span(BEGIN.position, 5, 1)
    for start, stop in ((end, span(end, 1, 1)), (Position(19), end), (BEGIN.position, BEGIN.position)):
        with pytest.raises(ValueError, match="does not follow"):
            tracker.expect(start, stop)
    tracker.expect(BEGIN.position, end)
    with pytest.raises(ValueError, match="does not follow"):
        tracker.expect(BEGIN.position, end)
    with pytest.raises(ValueError, match="never expected"):
        tracker.settle(end, Counts())
    with pytest.raises(ValueError, match="never expected"):
        tracker.settle(Position(22), Counts())
    for wrong in (Counts(2, 1, 0, 1), Counts(1, 1, 0, 0), Counts(1, 1, 0, 1, 1), Counts(1, 0, 0)):
        with pytest.raises(ValueError, match="do not add up"):
            tracker.settle(BEGIN.position, wrong)
    assert tracker.watermark == BEGIN
    assert tracker.outstanding == 1


# --- the machine ------------------------------------------------------------------------------------


@dataclass
class Runner:
    """A process: what it holds in memory dies with it."""

    lease: Lease
    tracker: Tracker
    found: Checkpoint
    expected_to: int  # index of the next span that it reads
    open: set[int]


class Watermarks(RuleBasedStateMachine):
    """The source is a list of spans. A sink applies a span (durably) before it is settled; a span's rejects and dead
    letters are durable before that too. Runners come and go; the store may lose the reply to a swap."""

    runners = Bundle("runners")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryCheckpoints()
        self.spans: list[tuple[Position, Position, Counts]] = []
        self.durable: set[int] = set()  # spans whose rows are all in the sink or in the dead letters
        self.stored = BEGIN
        self.alive: list[Runner] = []
        self.owner: Runner | None = None
        self.fence = 0

    def teardown(self) -> None:
        self.loop.close()

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(job)

    @initialize(fates=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 3)), max_size=8))
    def write_source(self, fates: list[tuple[int, int, int]]) -> None:
        at = BEGIN.position
        for rows, rejected, dead in fates:
            end = span(at, 7 * rows, rows)
            self.spans.append((at, end, counts(rows, min(rejected, rows), dead, 1)))
            at = end

    @rule(target=runners, lost=st.booleans())
    def start(self, lost: bool) -> Runner:
        """A first start, a restart after a crash, or a second runner that takes a lease over after its time."""
        return self.new_runner(lost=lost)

    def new_runner(self, *, lost: bool) -> Runner:
        self.store.lose_reply = lost
        lease = Lease(self.store, "s", "sink")
        found = self.run(lease.acquire(SOURCE, BEGIN, restart=False, lease_s=0))
        assert found.fence > self.fence
        assert found.watermark == self.stored
        self.fence = found.fence
        index = (
            [start.offset for start, _, _ in self.spans].index(found.watermark.position.offset)
            if (found.watermark.position.offset != self.end.offset)
            else len(self.spans)
        )
        runner = Runner(lease, Tracker(found.watermark), found, index, set())
        self.owner = runner
        self.alive.append(runner)
        return runner

    @property
    def end(self) -> Position:
        return self.spans[-1][1] if self.spans else BEGIN.position

    @rule(runner=runners, n=st.integers(1, 4))
    def read(self, runner: Runner, n: int) -> None:
        for _ in range(n):
            if runner in self.alive and runner.expected_to < len(self.spans):
                start, end, _ = self.spans[runner.expected_to]
                runner.tracker.expect(start, end)
                runner.open.add(runner.expected_to)
                runner.expected_to += 1

    @rule(runner=runners, which=st.randoms(use_true_random=False), acknowledged=st.booleans())
    def write(self, runner: Runner, which: random.Random, acknowledged: bool) -> None:
        """The sink has all of a span; it is settled only if the answer came."""
        if runner in self.alive and runner.open:
            index = which.choice(sorted(runner.open))
            self.durable.add(index)
            if acknowledged:
                runner.open.remove(index)
                runner.tracker.settle(self.spans[index][0], self.spans[index][2])

    @rule(runner=runners, lost=st.booleans(), complete=st.booleans())
    def persist(self, runner: Runner, lost: bool, complete: bool) -> None:
        if runner not in self.alive:
            return
        self.store.lose_reply = lost
        mark = runner.tracker.watermark
        if runner is self.owner:
            self.run(runner.lease.save(SOURCE, mark, complete=complete))
            self.stored = mark
        else:
            with pytest.raises(LeaseHeld):
                self.run(runner.lease.save(SOURCE, mark, complete=complete))
            self.alive.remove(runner)

    @rule(runner=runners)
    def persist_fails(self, runner: Runner) -> None:
        """A save that never arrives changes nothing on either side."""
        if runner in self.alive and runner is self.owner:
            self.store.refuse = True
            with pytest.raises(ConnectionError):
                self.run(runner.lease.save(SOURCE, runner.tracker.watermark, complete=False))
            self.store.refuse = False

    @rule(runner=runners)
    def crash(self, runner: Runner) -> None:
        if runner in self.alive:
            self.alive.remove(runner)

    @precondition(lambda self: self.owner is not None)
    @rule()
    def faults_stop(self) -> None:
        """From here a runner finishes in finite steps, and every row is accounted for."""
        runner = self.new_runner(lost=False)
        self.read(runner, n=len(self.spans))
        for index in sorted(runner.open, reverse=True):
            self.durable.add(index)
            runner.open.remove(index)
            runner.tracker.settle(self.spans[index][0], self.spans[index][2])
        self.persist(runner, lost=False, complete=True)
        assert runner.tracker.outstanding == 0
        assert self.stored.position == self.end
        assert self.stored.counts == sum((fate for _, _, fate in self.spans), Counts())
        assert self.stored.counts.balanced
        assert self.durable == set(range(len(self.spans)))

    @invariant()
    def watermarks_are_safe_and_maximal(self) -> None:
        for runner in self.alive:
            mark = runner.tracker.watermark
            first_open = min(runner.open, default=runner.expected_to)
            expected = self.spans[first_open][0] if first_open < len(self.spans) else self.end
            assert mark.position == expected
            before = [i for i, (_, end, _) in enumerate(self.spans) if end.offset <= mark.position.offset]
            assert set(before) <= self.durable
            assert mark.counts == sum((self.spans[i][2] for i in before), Counts())
            assert mark.position.offset >= runner.found.watermark.position.offset
            assert runner.tracker.outstanding == len(runner.open)

    @invariant()
    def the_stored_watermark_is_the_one_saved_last(self) -> None:
        text = self.store.texts.get("s")
        if text is not None:
            found = decode(text, "s", "sink")
            assert found.watermark == self.stored
            assert found.fence == self.fence
            if self.owner is not None:
                assert found.watermark.position.offset <= self.owner.tracker.watermark.position.offset

    @invariant()
    def it_never_falls(self) -> None:
        last = getattr(self, "last_stored", 0)
        assert self.stored.position.offset >= last
        self.last_stored = self.stored.position.offset


TestWatermarks = Watermarks.TestCase
TestWatermarks.settings = settings(max_examples=150, stateful_step_count=40, derandomize=True, deadline=None)
