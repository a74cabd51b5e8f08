"""The end of a divided load: what the shards' checkpoints and dead letters say becomes that of the whole source.

After it nothing tells the load from one by a single run: one checkpoint a sink, and one file of dead letters in the
order of the source. Whatever is done here can be done again after a crash, and what the shards had is removed by the
load that comes next.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingest_service.errors import IngestError, LeaseHeld, LocalIOError, Stopped
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.checkpoint import Checkpoint
from ingest_service.pipeline.dead_letter import DeadLetters
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.lane import beating
from ingest_service.pipeline.load import opened_lanes
from ingest_service.pipeline.placed import checkpoint_if_any, checkpoints_of
from ingest_service.pipeline.plan import Plan
from ingest_service.pipeline.repeated import SHARE, write_repeated
from ingest_service.pipeline.tracker import Counts, Tracker, Watermark
from ingest_service.rows.chunk import DeadRow, Position
from ingest_service.runtime import fault
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.base import AnySink

fault.declare(
    {
        "shards-repeated": "rows whose key is in two shards are written again, the checkpoint does not know",
        "shards-letters": "the shards' dead letters are in the stream's file, the checkpoint does not know",
    }
)

_LOOK_EVERY_S = 0.5


async def bring_together(job: Job, plan: Plan, sinks: Sequence[AnySink], stop: asyncio.Event) -> None:
    """All shards of a plan are loaded: returns once the streams' checkpoints say so, by this or by another worker."""
    while not stop.is_set():
        try:
            await _bring_together(job, plan, sinks, stop)
            return
        except LeaseHeld:
            await asyncio.sleep(_LOOK_EVERY_S)
    raise Stopped.on_request()


async def _bring_together(job: Job, plan: Plan, sinks: Sequence[AnySink], stop: asyncio.Event) -> None:
    async with opened_lanes(job, sinks, stop) as (_, lanes):
        undone = [lane for lane in lanes if lane.found.plan == plan]
        if not undone:
            return  # another was faster
        async with beating(*lanes):
            folder = job.checkpoint_dir
            found = {lane.sink.name: await parts_in(job.stream, plan, lane.sink, folder) for lane in undone}
            parts = {name: _complete(checkpoints) for name, checkpoints in found.items()}
            first = undone[0].sink.name
            if not job.dataset.schema.follows_from_key:
                await write_repeated(job, plan, [lane.sink for lane in undone])
            fault.point("shards-repeated")
            letters = DeadLetters.of(job)
            await finish_in_thread(_gather_letters, job, plan, first, parts[first], letters)
            fault.point("shards-letters")
        for lane in undone:
            lane.tracker = Tracker(_whole(lane.found.watermark, plan, parts[lane.sink.name]))
            lane.lease.divide(None)
            await lane.save(release=True)


async def parts_in(stream: str, plan: Plan, sink: AnySink, folder: Path | None) -> list[Checkpoint | None]:
    """The checkpoints of all shards of a stream in an open sink, or for it in `folder`; None of one not begun."""
    store = checkpoints_of(sink, folder)
    found = [await checkpoint_if_any(shard.stream_of(stream), sink, store) for shard in plan]
    return [part if part is not None and part.of_plan == plan.id else None for part in found]


def _complete(parts: Sequence[Checkpoint | None]) -> list[Checkpoint]:
    """IngestError if one is not: then nothing may be said of the whole."""
    for number, part in enumerate(parts, 1):
        if part is None or not part.complete:
            raise IngestError(f"Shard {number} of {len(parts)} is not complete; run the same command again.")
    return [part for part in parts if part is not None]


def _whole(base: Watermark, plan: Plan, parts: Sequence[Checkpoint]) -> Watermark:
    """The watermark of the whole source, which a run had loaded up to `base` before it was divided."""
    counts, row, line = base.counts, 0, 0
    for shard, part in zip(plan, parts[:-1], strict=False):
        counts += part.watermark.counts
        row += part.watermark.position.row - shard.start.row
        line += part.watermark.position.line - shard.start.line
    return _after(parts[-1].watermark, counts, *_counted_from(plan, row, line))


def _counted_from(plan: Plan, row: int, line: int) -> tuple[int, int]:
    """What to add to the last shard's rows and lines, where so many are before it: it may count from the beginning."""
    first, last = plan.starts[0], plan.starts[-1]
    return first.row + row - last.row, first.line + line - last.line


def _after(mark: Watermark, counts: Counts, row: int, line: int) -> Watermark:
    at = mark.position
    unended = None if mark.unended is None else _after(mark.unended, counts, row, line)
    position = Position(at.offset, at.row + row, at.line + line, at.tail_hash)
    return Watermark(position, counts + mark.counts, unended)


# --- dead letters -----------------------------------------------------------------------------------


def _gather_letters(job: Job, plan: Plan, sink: str, parts: Sequence[Checkpoint], letters: DeadLetters) -> None:
    """Put the shards' letters into the stream's file, with their lines counted from its beginning. Blocks."""
    letters.open(resume_offset=plan.starts[0].offset)
    try:
        line = plan.starts[0].line
        for shard, part in zip(plan, parts, strict=True):
            mine = job.part(shard)
            dead_letter.bring(mine)
            path = mine.folder / dead_letter.FILE_NAME
            n_missing = part.watermark.counts.rejected + part.watermark.counts.dead - _n_kept(path, sink)
            if n_missing > 0:
                raise LocalIOError(
                    f"{n_missing:,} refused rows of shard {shard.number + 1} are not in {mine.state_dir}; {SHARE}"
                )
            before = line - shard.start.line
            for some in dead_letter.in_slices(dead_letter.read(path, missing_ok=True)):
                letters.append([_row(letter, before) for letter in some])
            line += part.watermark.position.line - shard.start.line
    finally:
        letters.close()


def _n_kept(path: Path, sink: str) -> int:
    """How many rows that were refused before any sink, and records that this one refused, have a letter."""
    rows, n_records = set[int](), 0
    for letter in dead_letter.read(path, missing_ok=True):
        if letter["stage"] in dead_letter.ROW_STAGES:
            rows.add(letter["offset"])
        n_records += letter["stage"] == sink
    return len(rows) + n_records


def _row(letter: dict[str, Any], before: int) -> DeadRow:
    raw = dead_letter.raw_of(letter)
    return DeadRow(
        letter["offset"], letter["line"] + before, raw, letter["stage"], letter["code"], letter.get("reason", "")
    )
