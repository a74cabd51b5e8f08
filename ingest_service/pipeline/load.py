"""START HERE: one source flows into its sinks.

    source → blocks → chunks → one bounded queue a sink → consumers → settled spans → watermark → checkpoint
                         └→ refused rows become dead letters first

`load` wires it; every stage is a short function below it. What may block runs in a thread; asyncio only moves chunks.
A stage that fails fails the run: the task group cancels the others, so nothing waits for a stage that is gone.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ingest_service.errors import IngestError, LeaseHeld, LineContinued, SourceChanged, Stopped, TooManyRejects
from ingest_service.formats.base import Block, Reader
from ingest_service.formats.memory import waiting_bytes_within
from ingest_service.pipeline.checkpoint import Seen
from ingest_service.pipeline.continued import is_continued, take_back
from ingest_service.pipeline.dead_letter import DeadLetters
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.keys import KeyFile
from ingest_service.pipeline.lane import Lane, beat, beating, forget_shards, give_up
from ingest_service.pipeline.rejects import FIRST_ROWS, Refusals, rejected_among_first
from ingest_service.pipeline.report import SinkReport, StreamReport
from ingest_service.pipeline.tracker import Counts, Watermark
from ingest_service.rows.chunk import Chunk, DeadRow, Position
from ingest_service.runtime import fault
from ingest_service.runtime.queues import Closed
from ingest_service.runtime.tasks import finish_in_thread, task_group
from ingest_service.runtime.tracing import span
from ingest_service.sinks.base import AnySink, Stored, Written
from ingest_service.sources.base import Source

fault.declare(
    {
        "before-write": "a chunk is about to be written to a sink",
        "after-write": "the sink has acknowledged the chunk, it is not settled",
        "settled": "the chunk is settled, no checkpoint says so",
    }
)


@dataclass(slots=True)
class State:
    """What the metrics look at while a source is loaded."""

    job: Job
    reader: Reader[Any]
    lanes: list[Lane]
    dead_letters: DeadLetters
    keys: KeyFile | None
    started: float = field(default_factory=time.monotonic)
    read_to: Position = field(default_factory=Position)
    first_stored: int = 0  # where in the stored bytes this run began, for its ETA
    rejected: int = 0  # in this run, as are `filtered` and `dead`
    filtered: int = 0
    dead: int = 0
    rejected_first: int = 0  # of the source's first rows, by which it is judged
    refusals: Refusals = field(default_factory=Refusals)
    writing_dead_letters: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def rows_rejected(self) -> int:
        """Rows refused before any sink so far, those of earlier runs included."""
        return self._start.counts.rejected + self.rejected

    @property
    def rows_filtered(self) -> int:
        """Rows passed over by the data set's filters so far, those of earlier runs included."""
        return self._start.counts.filtered + self.filtered

    @property
    def _start(self) -> Watermark:
        return min((lane.found.watermark for lane in self.lanes), key=lambda mark: mark.position.offset)

    @property
    def refused(self) -> int:
        """Rows refused anywhere so far."""
        return self.rows_rejected + max(lane.found.watermark.counts.dead for lane in self.lanes) + self.dead


class Observer(Protocol):
    """Is told what a sink warns of before a row is sent, shown the state every so often, and the report at the end."""

    every_s: float

    def warning(self, sink: str, text: str) -> None: ...

    def progress(self, state: State) -> None: ...

    def report(self, report: StreamReport) -> None: ...


async def load(
    job: Job, sinks: Sequence[AnySink], stop: asyncio.Event, observer: Observer, seen: Mapping[str, Seen] | None = None
) -> StreamReport:
    """Load one source, or a shard of it, into open sinks, going on from each sink's checkpoint.

    `seen`: how these were met before, by sink.

    Stopped if `stop` was set before the end; any other IngestError if a stage failed. In each case what was settled is
    checkpointed, and another call goes on from there.
    """
    async with AsyncExitStack() as opened:
        opened.enter_context(span("load", source=job.source.uri, stream=job.stream))
        for sink in sinks:
            sink.hold_at_most(waiting_bytes_within(job.block_bytes, len(sinks)))
        reader, lanes = await opened.enter_async_context(opened_lanes(job, sinks, stop, seen))
        for lane in lanes:
            lane.require(job, reader)
            if lane.found.plan is not None:
                raise LeaseHeld("Workers have divided this source by now; run the same command again to join them.")
        await forget_shards(job, lanes)
        if job.shard is not None and all(lane.found.complete for lane in lanes):
            raise LeaseHeld("Another worker has loaded this shard by now.")
        await _take_back_continued(lanes, job, reader)
        mark = _lowest(lanes)
        start = mark.position
        dead_letters = DeadLetters.of(job)
        await finish_in_thread(dead_letters.open, resume_offset=start.offset, anew=job.starts_again)
        opened.callback(dead_letters.close)
        await _go_on(reader, mark, lanes, stop)
        for lane in lanes:
            await lane.begin()
        keys = KeyFile.of(job)
        if keys is not None:
            opened.callback(keys.close)
        state = State(job, reader, lanes, dead_letters, keys, read_to=start, first_stored=reader.stored_position())
        state.rejected_first = min(state.rows_rejected, start.row) if start.row < FIRST_ROWS else 0
        await _run_stages(state, stop, observer)
        for lane in lanes:
            _refuse_wrong_sink(state, lane, at_end=reader.is_done)
            await lane.save(release=True)
        report = _report(state)
        observer.report(report)
        if stop.is_set() and not reader.is_done:
            raise Stopped.on_request()
        if not report.balanced:
            raise IngestError("The rows do not add up; please report this with the report above.")
        return report


@asynccontextmanager
async def opened_lanes(
    job: Job, sinks: Sequence[AnySink], stop: asyncio.Event, seen: Mapping[str, Seen] | None = None
) -> AsyncIterator[tuple[Reader[Any], list[Lane]]]:
    """The source, and each sink's lease; what is not given back inside is given up. `seen` is that of `load`."""
    async with AsyncExitStack() as opened:
        with span("open source"):
            reader = await open_reader_of(job)
        opened.push_async_callback(asyncio.to_thread, reader.close)
        lanes: list[Lane] = []
        opened.push_async_callback(give_up, lanes, stop)
        for sink in sinks:
            lane = await Lane.open(job, sink, reader, (seen or {}).get(sink.name))
            lanes.append(lane)  # one by one: those that are open are given up if the next one cannot be
        yield reader, lanes


async def _run_stages(state: State, stop: asyncio.Event, observer: Observer) -> None:
    async with task_group() as stages:
        helpers = [stages.create_task(_show(state, observer))]
        helpers += [stages.create_task(beat(lane)) for lane in state.lanes]
        consumers = [
            stages.create_task(_consume(state, lane))
            for lane in state.lanes
            for _ in range(lane.sink.options.consumers)
        ]
        await _produce(state, stop)
        for lane in state.lanes:
            await lane.queue.close()
        await asyncio.wait(consumers)
        if past := state.reader.rows.dataset.past:
            await finish_in_thread(past.keep)
        for helper in helpers:
            helper.cancel()


async def open_reader_of(job: Job) -> Reader[Any]:
    opening = asyncio.create_task(asyncio.to_thread(job.open_reader, limit=job.limit, keeps_past=True))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        job.source.interrupt()  # standard input may stay silent for as long as it likes
        await asyncio.wait((opening,))
        if opening.exception() is None:
            opening.result().close()
        raise


def _lowest(lanes: Sequence[Lane]) -> Watermark:
    """Where to begin to read."""
    return min((lane.found.watermark for lane in lanes), key=lambda mark: mark.position.offset)


def resume(reader: Reader[Any], mark: Watermark) -> None:
    try:
        reader.resume(mark.position, was_unended=mark.unended is not None)
    except LineContinued:
        if mark.unended is None:
            raise
        raise Stopped("The source went on while it was opened; run the same command again to go on.") from None


async def _go_on(reader: Reader[Any], mark: Watermark, lanes: Sequence[Lane], stop: asyncio.Event) -> None:
    """At the watermark, knowing what features need of the rows before."""
    await finish_in_thread(resume, reader, mark)
    past = reader.rows.dataset.past
    if past is not None:
        async with beating(*lanes):
            while not stop.is_set() and await finish_in_thread(past.recall, mark.position):
                pass  # a block at a time, so that a stop need not wait


async def _take_back_continued(lanes: Sequence[Lane], job: Job, reader: Reader[Any]) -> None:
    """Fall back, in each sink, to before a last row that had no end and went on since."""
    start = _lowest(lanes).position
    for lane in lanes:
        mark = lane.found.watermark
        if mark.position == start and mark.unended is None:
            continue  # resuming looks at it
        if mark.position.offset <= reader.first.offset or not await finish_in_thread(is_continued, job, mark):
            continue
        assert mark.unended is not None
        async with beating(lane):
            await take_back(job, lane.sink, mark)
        await lane.fall_back(mark.unended)


async def _produce(state: State, stop: asyncio.Event) -> None:
    """Read blocks, each while the one before is parsed and passed on."""
    async with asyncio.TaskGroup() as workers:
        reading = workers.create_task(_read(state.reader))
        while (block := await _unless_stopped(reading, state.job.source, stop)) is not None:
            reading = workers.create_task(_read(state.reader))
            for lane in state.lanes:  # a chunk takes several times the memory of its block, so it is not made to wait
                await lane.queue.room()
            await _pass_on(state, await _parse(block, state.reader))
    if state.reader.is_done:
        _refuse_too_many(state, at_end=True)
        _refuse_lost_end(state)
        _refuse_another_end(state)


async def _read(reader: Reader[Any]) -> Block | None:
    with span("read"):
        return await finish_in_thread(reader.next)


async def _parse(block: Block, reader: Reader[Any]) -> Chunk:
    with span("parse") as parsing:
        chunk = await asyncio.to_thread(reader.chunk, block)
        parsing.set(offset=chunk.start.offset, rows=chunk.read, rejected=len(chunk.rejects))
        return chunk


async def _unless_stopped(reading: asyncio.Task[Block | None], source: Source, stop: asyncio.Event) -> Block | None:
    """The block being read, or None once a stop was asked for."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            source.interrupt()
            await asyncio.wait((reading,))
            return None
        return reading.result()
    finally:
        stopping.cancel()


async def _pass_on(state: State, chunk: Chunk) -> None:
    """Make the refused rows durable, then offer the chunk to every sink; the slowest one sets the pace."""
    await _keep(state, chunk.rejects)
    if state.keys is not None:
        await finish_in_thread(state.keys.append, chunk)
    state.rejected_first += await asyncio.to_thread(rejected_among_first, chunk)
    chunk = chunk.without_rejects()
    state.rejected += chunk.rejected
    state.filtered += len(chunk.filtered)
    state.read_to = chunk.end
    _refuse_too_many(state)
    for lane in state.lanes:
        watermark = lane.found.watermark.position
        if chunk.end.offset == watermark.offset and chunk.end.tail_hash != watermark.tail_hash:
            raise SourceChanged(
                f"The source's bytes before {watermark.offset} are not those that {lane.sink.name} has; "
                "use --restart to start it again."
            )
        needed = chunk.after(watermark)
        if needed is not None:
            lane.tracker.expect(needed.start, needed.end, is_unended=needed.is_unended)
            prepared = await asyncio.to_thread(lane.sink.prepare, needed)
            if lane.sink.is_prepared_whole:
                needed = replace(needed, columns=needed.columns.identity_alone())
            await lane.queue.put((needed, prepared))


async def _consume(state: State, lane: Lane) -> None:
    """Write chunks until the queue ends. Those that the sink has only taken to be stored are waited for beside it."""
    async with task_group() as storing:
        while True:
            try:
                chunk, prepared = await lane.queue.get()
            except Closed:
                await lane.sink.end()
                return
            lane.in_flight_rows += chunk.accepted
            async with lane.order.turn(chunk):
                fault.point("before-write", lane.sink.name, chunk.start.row, chunk.end.row)
                written = await _write(lane.sink, chunk, prepared)
                await _keep(state, written.dead)
            settling = _settle(state, lane, chunk.start, chunk.end, _counts(chunk, written), written.stored)
            if written.stored is None:
                await settling
            else:
                storing.create_task(settling)
            del chunk, prepared, settling  # rather than hold them while waiting for the next


async def _settle(
    state: State, lane: Lane, start: Position, end: Position, counts: Counts, stored: Stored | None
) -> None:
    """A chunk is settled when each of its rows is stored or kept as a dead letter."""
    if stored is not None:
        await stored()
    fault.point("after-write", lane.sink.name, start.row, end.row)
    lane.in_flight_rows -= counts.n_records
    state.dead += counts.dead
    lane.tracker.settle(start, counts)
    fault.point("settled", lane.sink.name, start.row, end.row)
    _refuse_too_many(state)
    _refuse_wrong_sink(state, lane)


def _counts(chunk: Chunk, written: Written) -> Counts:
    return Counts(
        chunk.read,
        chunk.accepted_rows,
        chunk.rejected,
        written.written,
        written.merged,
        len(written.dead),
        None if chunk.row_offsets is None else chunk.accepted,
        len(chunk.filtered),
    )


async def _write(sink: AnySink, chunk: Chunk, prepared: Any) -> Written:
    with span("write", sink=sink.name, offset=chunk.start.offset, rows=chunk.accepted) as writing:
        written = await sink.write(chunk, prepared)
        writing.set(written=written.written, merged=written.merged, dead=len(written.dead))
        return written


async def _keep(state: State, rows: Sequence[DeadRow]) -> None:
    if rows:
        async with state.writing_dead_letters:
            await finish_in_thread(state.dead_letters.append, rows)
            await asyncio.to_thread(state.refusals.add, rows)


async def _show(state: State, observer: Observer) -> None:
    while True:
        await asyncio.sleep(observer.every_s)
        observer.progress(state)


def _refuse_too_many(state: State, *, at_end: bool = False) -> None:
    read = state.read_to.row
    refused = state.refused
    if state.job.max_rejects.exceeded(refused, read, at_end=at_end):
        raise TooManyRejects(
            f"{refused} of {read} rows were refused, more than --max-rejects allows; "
            f"they are in {state.dead_letters.path}."
        )
    limit, rejected = state.job.max_rejects, state.rows_rejected
    if limit.is_wrong_source(state.rejected_first, rejected, read, at_end=at_end):
        row = state.refusals.commonest()
        why = f", most for this: line {row.line}: {row.reason} {state.reader.rows.advice(row)}" if row else "."
        raise TooManyRejects(f"{rejected:,} of {read:,} rows are refused{why} {_despite(state)}")


def _refuse_wrong_sink(state: State, lane: Lane, *, at_end: bool = False) -> None:
    counts = lane.tracker.watermark.counts
    if state.job.max_rejects.is_wrong_sink(counts, at_end=at_end):
        row = state.refusals.commonest(lane.sink.name)
        why = f", most for this: line {row.line}: {row.reason}" if row else "."
        raise TooManyRejects(
            f"{lane.sink.name} refuses all {counts.dead:,} rows that it was given{why} "
            f"`check` says more of the place. {_despite(state)}"
        )


def _despite(state: State) -> str:
    return f"They are in {state.dead_letters.path}; with --max-rejects 100% a run goes on all the same."


def _refuse_lost_end(state: State) -> None:
    for lane in state.lanes:
        if state.reader.reached_end and lane.found.watermark.position.offset > state.read_to.offset:
            raise SourceChanged(
                f"The source ends before byte {lane.found.watermark.position.offset}, up to which {lane.sink.name} "
                "has it; use --restart to start it again."
            )


def _refuse_another_end(state: State) -> None:
    """What a shard ends with is what the next one begins after."""
    end = state.job.shard.end if state.job.shard else None
    if end is not None and (state.reader.position.offset, state.reader.position.tail_hash) != (
        end.offset,
        end.tail_hash,
    ):
        raise SourceChanged("The source is not what it was when it was divided; use --restart to start it again.")


def _report(state: State) -> StreamReport:
    reports = {}
    for lane in state.lanes:
        watermark = lane.tracker.watermark
        reports[lane.sink.name] = SinkReport(
            watermark.counts,
            watermark.position.offset,
            lane.is_complete,
            watermark.counts.read - lane.found.watermark.counts.read,
            lane.sink.retrier.retries,
            lane.sink.retrier.throttled,
            list(lane.sink.warnings),
        )
    elapsed_s = time.monotonic() - state.started
    return StreamReport(
        state.job.source.uri,
        state.job.stream,
        elapsed_s,
        str(state.dead_letters.path),
        reports,
        [*state.reader.warnings, *(past.warnings if (past := state.reader.rows.dataset.past) else ())],
    )
