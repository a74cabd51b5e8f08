"""Dead letters tried again, after the user has edited them or mended the sink.

A slice of letters at a time: parsed as rows of their source, written to the sinks that miss them, and only when these
have them for good noted in `replayed.jsonl`. What did not land goes into a new file of dead letters, with its new
reason, which takes the old one's place at the end. A crash at any moment leaves the old file: trying again is harmless,
since writes are idempotent.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ingest_service.audit.chosen import ALL, Chosen
from ingest_service.audit.letters import chunk_of_letters
from ingest_service.config import stream_named
from ingest_service.datasets.base import Dataset
from ingest_service.errors import (
    ConfigurationError,
    IngestError,
    RowError,
    SourceNotFound,
    Stopped,
    UsageError,
)
from ingest_service.formats.base import Rows
from ingest_service.formats.opening import rows_of
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.checkpoint import Lease
from ingest_service.pipeline.lane import Held, beating, give_up
from ingest_service.pipeline.mirror import Mirror
from ingest_service.pipeline.placed import checkpoint_of, checkpoints_of
from ingest_service.rows.chunk import DeadRow
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.base import AnySink

WHEN_STOPPED = "what had landed is noted, run the same command again for the rest"

Letter = dict[str, Any]


@dataclass(slots=True)
class ReplayReport:
    """What became of the letters: landed + left. Of those left, `other` are of sinks that were not named."""

    letters: int = 0
    landed: int = 0
    left: int = 0
    other: int = 0

    def as_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True)
class _Replayed(Held):
    """A sink that letters go to. The checkpoint is not to change."""

    on_files: bool

    async def save(self, *, release: bool = False) -> None:
        """What was there. SQLite commits with it."""
        await self.lease.save(self.found.source, self.found.watermark, complete=self.found.complete, release=release)
        if self.on_files:
            await self.sink.flush()


async def replay(
    path: Path,
    sinks: Sequence[AnySink],
    dataset: Dataset,
    columns: dict[str, str],
    checkpoint_dir: Path | None,
    stop: asyncio.Event,
    progress: Callable[..., None],
    mirror: Mirror | None = None,
    chosen: Chosen = ALL,
) -> ReplayReport:
    """Try the letters in `path` again, in open sinks, and take those that land out of it.

    mirror: of the state folder, where workers elsewhere learn what has landed.

    SourceNotFound, or LocalIOError for a line that is no letter, before anything is written; LeaseHeld if a run has
    the stream; UsageError if a letter's new text is refused by all sinks: the letter then stays as it was; after an
    IngestError in between the file lacks what had landed by then.
    """
    if dataset.features:
        names = ", ".join(one.name for one in dataset.features)
        raise ConfigurationError(
            f"The features of the data set ({names}) depend on all rows before a record's, which a dead letter by "
            "itself does not tell: mend the row in the source, and load that with --restart."
        )
    source, stages = await asyncio.to_thread(_look_through, path, chosen)
    wanted = [sink for sink in sinks if sink.name in stages or stages & set(dead_letter.ROW_STAGES)]
    report = ReplayReport()
    if source is None:
        if chosen.letter is not None:
            await asyncio.to_thread(chosen.require_landed, path.with_name(dead_letter.REPLAYED_NAME))
        return report
    async with AsyncExitStack() as opened:
        held: list[_Replayed] = []
        opened.push_async_callback(give_up, held, stop)
        for sink in wanted:
            one = await _hold(sink, stream_named(source), checkpoint_dir)
            held.append(one)
        async with beating(*held):
            for one in held:
                await one.sink.begin(one.found.written_as, None)
            await _replay_file(path, held, dataset, columns, stop, progress, report, mirror, chosen)
    return report


def _look_through(path: Path, chosen: Chosen) -> tuple[str | None, set[str]]:
    """The source of the chosen letters, None if there are none, and their stages. Each line is looked at."""
    if not path.is_file():
        raise SourceNotFound(f"There is no file {path}.")
    sources: set[str] = set()
    stages: set[str] = set()
    for letter in dead_letter.read(path):
        sources.add(letter["source"])
        if chosen.takes(letter):
            stages.add(letter["stage"])
        if len(sources) > 1:
            raise UsageError(f"{path} has dead letters of several sources; replay them one source at a time.")
    return (sources.pop() if stages else None), stages


async def _hold(sink: AnySink, stream: str, folder: Path | None) -> _Replayed:
    store = checkpoints_of(sink, folder)
    before = await checkpoint_of(stream, sink, store)
    lease = Lease(store, stream, sink.name)
    found = await lease.acquire(before.source, before.watermark, restart=False)
    return _Replayed(sink, lease, found, on_files=folder is not None)


async def _replay_file(
    path: Path,
    held: Sequence[_Replayed],
    dataset: Dataset,
    columns: dict[str, str],
    stop: asyncio.Event,
    progress: Callable[..., None],
    report: ReplayReport,
    mirror: Mirror | None,
    chosen: Chosen,
) -> None:
    keep_landed = partial(dead_letter.append_durably, path.with_name(dead_letter.REPLAYED_NAME), mirror=mirror)
    for one in held:
        one.found.source.require_steps(dataset.steps)
    ways = {one.sink.name: rows_of(dataset, one.found.source.header, columns) for one in held}
    with await asyncio.to_thread(dead_letter.Rewriting, path) as rewriting:
        letters = dead_letter.read(path)
        some: list[Letter] = []
        try:
            slices = dead_letter.in_slices(letters)
            while some := await asyncio.to_thread(next, slices, []):
                if stop.is_set():
                    raise Stopped.on_request(WHEN_STOPPED)
                left = await _replay_slice(some, held, ways, keep_landed, report, chosen)
                await finish_in_thread(rewriting.write, left)
                progress(letters=report.letters, landed=report.landed, left=report.left)
        except IngestError:
            await finish_in_thread(rewriting.write, some)
            await finish_in_thread(rewriting.write, letters)
            await finish_in_thread(rewriting.commit)
            raise
        await finish_in_thread(rewriting.commit)


async def _replay_slice(
    letters: list[Letter],
    held: Sequence[_Replayed],
    ways: dict[str, Rows],
    keep_landed: Callable[[list[Letter]], None],
    report: ReplayReport,
    chosen: Chosen,
) -> list[Letter]:
    """The letters that stay, some with a new reason. Those that landed are kept when this returns."""
    fates = [_Try(letter, chosen.text) if chosen.takes(letter) else None for letter in letters]
    tries = [attempt for attempt in fates if attempt is not None]
    for one in held:
        mine = [attempt for attempt in tries if attempt.is_for(one.sink.name)]
        await _write(one, mine, ways[one.sink.name])
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    landed = [{**attempt.letter, "sinks": attempt.landed, "at": at} for attempt in tries if attempt.landed]
    if landed:
        await asyncio.to_thread(keep_landed, landed)
    for attempt in tries:
        attempt.require_edit()
    left: list[Letter] = []
    for letter, fate in zip(letters, fates, strict=True):
        left += [letter] if fate is None else fate.left(at)
    report.letters += len(tries)
    report.landed += sum(bool(attempt.landed) and not attempt.failed for attempt in tries)
    report.left += sum(not attempt.landed or bool(attempt.failed) for attempt in tries)
    report.other += sum(not attempt.landed and not attempt.failed for attempt in tries)
    return left


class _Try:
    """One letter, and what became of it in each sink that it is for. `text`: in place of its row."""

    def __init__(self, letter: Letter, text: str | None) -> None:
        self._before = letter
        self.letter = letter if text is None else dead_letter.edited(letter, text)
        self.landed: list[str] = []
        self.failed: dict[str, tuple[str, str]] = {}  # code and reason by stage

    @property
    def _is_of_row(self) -> bool:
        return self.letter["stage"] in dead_letter.ROW_STAGES

    def is_for(self, sink: str) -> bool:
        return self._is_of_row or self.letter["stage"] == sink

    def refuse(self, error: RowError) -> None:
        """It is no row. A letter of a sink stays one: it is for that sink alone."""
        self.failed = {error.stage if self._is_of_row else self.letter["stage"]: (error.code, error.reason)}

    def require_edit(self) -> None:
        """UsageError if no sink has taken the new text: then nobody has the row, and the letter stays as it was."""
        if self.letter is self._before or self.landed:
            return
        if not self.failed:
            raise UsageError(f"The dead letter is one of the sink {self.letter['stage']}; replay it into that.")
        code, reason = next(iter(self.failed.values()))
        raise UsageError(f"The new text is refused ({code}), and the dead letter stays as it was: {reason}")

    def left(self, at: str) -> list[Letter]:
        if not self.landed and not self.failed:
            return [self._before]
        return [
            {**self.letter, "stage": stage, "code": code, "reason": reason, "at": at}
            for stage, (code, reason) in self.failed.items()
        ]


async def _write(held: _Replayed, tries: list[_Try], way: Rows) -> None:
    if not tries:
        return
    chunk, rows, refused = await asyncio.to_thread(chunk_of_letters, [attempt.letter for attempt in tries], way)
    for index, error in refused:
        tries[index].refuse(error)
    written = await held.sink.store(chunk)
    await held.save()
    await held.sink.flush()
    dead: dict[int, DeadRow] = {row.offset: row for row in written.dead}
    for row, offset in zip(rows, chunk.offsets.tolist(), strict=True):
        if offset in dead:
            tries[row].failed[held.sink.name] = (dead[offset].code, dead[offset].reason)
        else:
            tries[row].landed.append(held.sink.name)
