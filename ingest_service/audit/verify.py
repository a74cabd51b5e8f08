"""Reads a source again and compares what every sink holds of its users with what it should.

    source → chunks → rows set aside by user (spill.py) → a partition at a time: what each sink should have
                                                           of its users, and what it has → differences

Nothing is written to any sink and no lease is taken. A sink that has not settled all of the source is held to what its
checkpoint promises; what it may have of the rest is not a difference.
"""

import asyncio
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ingest_service.audit.findings import Difference, Findings, Kind, LetterDifference, LetterFindings, SinkFindings
from ingest_service.audit.letters import chunk_of_letters
from ingest_service.errors import ConfigurationError, Stopped, UsageError
from ingest_service.formats.base import Reader, Rows
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.checkpoint import Checkpoint
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.placed import checkpoint_of, checkpoints_of
from ingest_service.pipeline.tracker import Watermark
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.spill import Spill
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.abilities import HasOwnForm, read_back_of
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import EPOCH
from ingest_service.sinks.readback import event_key_of, frame_of

FIRST_DIFFERENCES = 10  # shown of each kind, for each sink
_KEY = ("user_id", "event_key")
_RECORD = (*_KEY, "value")
WHEN_STOPPED = "nothing was changed"

Progress = Callable[..., None]


@dataclass(slots=True)
class _Stream:
    """One source: how far each sink has it, and which of its rows are dead letters."""

    number: int
    job: Job
    checkpoints: dict[str, Checkpoint]
    letters: "_Letters"

    def settled_to(self, sink: str) -> int:
        return self.checkpoints[sink].watermark.position.offset

    @property
    def kept_to(self) -> int:
        """Refused rows before this are surely among the dead letters."""
        return max(self.settled_to(sink) for sink in self.checkpoints)


async def verify(
    jobs: Sequence[Job], sinks: Sequence[AnySink], stop: asyncio.Event, progress: Progress, *, sample: int | None = None
) -> Findings:
    """Compare open sinks with all the sources together; with `sample`, for that many users only.

    ConfigurationError if a sink has no checkpoint of a source, SourceChanged if a source is not what was loaded.
    """
    streams = [await _open_stream(number, job, sinks) for number, job in enumerate(jobs)]
    findings = Findings(sinks={sink.name: SinkFindings() for sink in sinks})
    for sink in sinks:
        read_back_of(sink)
        _note_what_is_unsettled(sink, streams, findings.sinks[sink.name])
    forms = {sink.name: sink for sink in sinks if isinstance(sink, HasOwnForm)}
    reading = await asyncio.to_thread(_Reading, streams, sample, forms)
    with reading.rows:
        while await asyncio.to_thread(reading.step, progress):
            _check_stop(stop)
        findings.rows_read = reading.n_rows
        findings.dead_letters = reading.letter_findings()
        partitions = iter(reading.rows)
        while (rows := await asyncio.to_thread(next, partitions, None)) is not None:
            _check_stop(stop)
            async with task_group() as comparing:
                for sink in sinks:
                    comparing.create_task(_compare(sink, rows, streams, findings.sinks[sink.name]))
            numbers = {name: found.compared for name, found in findings.sinks.items()}
            progress(step="comparing", rows_read=findings.rows_read, **numbers)
    for sink in sinks:
        await _note_possible_reasons(sink, streams, findings.sinks[sink.name])
    return findings


def _check_stop(stop: asyncio.Event) -> None:
    if stop.is_set():
        raise Stopped.on_request(WHEN_STOPPED)


# --- before reading -------------------------------------------------------------------------------


async def _open_stream(number: int, job: Job, sinks: Sequence[AnySink]) -> _Stream:
    if not job.source.resumable:
        raise UsageError("Standard input cannot be read again, so it cannot be compared; name a file.")
    stores = {sink.name: checkpoints_of(sink, job.checkpoint_dir) for sink in sinks}
    checkpoints = {sink.name: await checkpoint_of(job.stream, sink, stores[sink.name]) for sink in sinks}
    for found in checkpoints.values():
        found.source.require_steps(job.dataset.steps)
    for recipe, mark in {(found.source.header, found.watermark) for found in checkpoints.values()}:
        await asyncio.to_thread(_require_same_source, job, recipe, mark)
    return _Stream(number, job, checkpoints, await asyncio.to_thread(_Letters, job))


def _require_same_source(job: Job, recipe: str, mark: Watermark) -> None:
    reader = job.open_reader()
    try:
        reader.require(recipe)
        reader.resume(mark.position, was_unended=mark.unended is not None)
    finally:
        reader.close()


def _note_what_is_unsettled(sink: AnySink, streams: Sequence[_Stream], found: SinkFindings) -> None:
    for stream in streams:
        checkpoint = stream.checkpoints[sink.name]
        if not checkpoint.complete:
            found.complete = False
            rows = checkpoint.watermark.position.row
            found.notes.append(f"has only the first {rows} rows of {stream.job.source.uri}, and is held to these")


async def _note_possible_reasons(sink: AnySink, streams: Sequence[_Stream], found: SinkFindings) -> None:
    """What may explain differences, or hide them, without any fault."""
    if found.expired:
        found.notes.append(f"may have dropped {found.expired} rows that are past their expiry")
    if found.users_without_rows and sink.forgets:
        found.notes.append(
            f"has nothing at all of {found.users_without_rows} users, whose rows count as missing: {sink.forgets}"
        )
    if not found.equal:
        with suppress(ConfigurationError):  # listing them is a right of its own
            known = {EPOCH, *(stream.job.stream for stream in streams)}
            others = set(await checkpoints_of(sink, streams[0].job.checkpoint_dir).streams()) - known
            if others:
                found.notes.append(f"has rows of {len(others)} other source(s); name these too if they share users")


# --- reading --------------------------------------------------------------------------------------


def _own(sink: str, column: str) -> str:
    """What a column of a sink's own form is called beside the fields, whose names have no such sign."""
    return f"{sink}\x1f{column}"


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of a source with their offsets; a chunk of it, or what a replay has stored in one sink (`landed`)."""

    stream: _Stream
    chunk: Chunk
    offsets: Ints
    landed: str | None = None

    def frame(self, forms: Mapping[str, HasOwnForm]) -> pl.DataFrame:
        """The records, and beside them what they are in sinks that have a form of their own."""
        own = [
            form.in_own_form(self.chunk.columns).rename({column: _own(sink, column) for column in _RECORD})
            for sink, form in forms.items()
        ]
        return pl.concat([frame_of(self.chunk.columns), *own], how="horizontal").with_columns(
            pl.lit(self.stream.number).cast(pl.Int64).alias("source"),
            pl.Series("offset", self.offsets, dtype=pl.Int64),
            pl.Series("line", self.chunk.lines, dtype=pl.Int64),
            pl.lit(self.landed, dtype=pl.String).alias("landed"),
        )


class _Reading:
    """All parts of all sources, one a step. Blocks the caller."""

    def __init__(self, streams: Sequence[_Stream], sample: int | None, forms: Mapping[str, HasOwnForm]) -> None:
        self.n_rows = 0
        self._forms = forms
        self._streams = streams
        self._reader: Reader[Any]
        self._parts = self._all_parts()
        self._next = next(self._parts, None)
        self.rows = Spill(self._estimate(self._next.chunk) if self._next else 0, sample)

    def _all_parts(self) -> Iterator[_Part]:
        for stream in self._streams:
            self._reader = stream.job.open_reader()
            try:
                while (block := self._reader.next()) is not None:
                    chunk = self._reader.chunk(block)
                    yield _Part(stream, chunk, chunk.offsets)
                # After the source's own rows: a replay is later than what it mends.
                yield from _replayed(stream, self._reader.rows)
            finally:
                self._reader.close()

    def _estimate(self, chunk: Chunk) -> int | None:
        """How many rows there will be, judged by the first chunk."""
        sizes = [stream.job.source.size() for stream in self._streams]
        if None in sizes:
            return None
        share = self._reader.stored_position() / max(1, sum(size or 0 for size in sizes))
        return round(chunk.read / share) if share else None

    def step(self, progress: Progress) -> bool:
        """Set one part aside; false if there was none."""
        part = self._next
        if part is None:
            return False
        if part.landed is None:
            self.n_rows += part.chunk.read
            part.stream.letters.meet(part.offsets, part.chunk)
        self.rows.add(part.frame(self._forms))
        size = self._reader.source_size
        percent = round(100 * self._reader.stored_position() / size, 1) if size else None
        progress(step="reading", source=part.stream.job.source.uri, percent=percent, rows_read=self.n_rows)
        self._next = next(self._parts, None)
        return True

    def letter_findings(self) -> LetterFindings:
        found = LetterFindings()
        for stream in self._streams:
            stream.letters.compare(stream.job.source.uri, stream.kept_to, found)
        return found


def _replayed(stream: _Stream, rows: Rows) -> Iterator[_Part]:
    """What replays have stored: it may have been edited before, so the source need not have such rows."""
    for letters in _in_slices(stream.job, dead_letter.REPLAYED_NAME):
        for sink in sorted({name for letter in letters for name in letter.get("sinks", ())}):
            landed = [letter for letter in letters if sink in letter.get("sinks", ())]
            chunk, indices, _ = chunk_of_letters(landed, rows)
            yield _Part(stream, chunk, np.array([landed[index]["offset"] for index in indices], np.int64), sink)


def _in_slices(job: Job, name: str) -> Iterator[list[dict[str, Any]]]:
    """The letters of a source in one of its files."""
    letters = dead_letter.read(job.folder / name, missing_ok=True)
    return dead_letter.in_slices(letter for letter in letters if letter["source"] == job.source.uri)


# --- dead letters ---------------------------------------------------------------------------------


class _Letters:
    """The dead letters of one source as offsets, and what of them the source explains. 16 bytes a letter."""

    def __init__(self, job: Job) -> None:
        identities = array("q")
        dead_letter.bring(job)
        self._kept = _offsets_by_stage(job, dead_letter.FILE_NAME, identities)
        self._replayed = _offsets_by_stage(job, dead_letter.REPLAYED_NAME, array("q"))
        self._n_twice = len(identities) - len(np.unique(_ints(identities)))
        self._of_rows = _all([offsets for stage, offsets in self._kept.items() if stage not in dead_letter.ROW_STAGES])
        self._is_of_row = np.zeros(len(self._of_rows), np.bool_)
        self._rejects = array("q")

    def dead_in(self, sink: str) -> Ints:
        """Offsets of rows that the sink refused, whatever became of them since."""
        return _all([found[sink] for found in (self._kept, self._replayed) if sink in found])

    def meet(self, offsets: Ints, chunk: Chunk) -> None:
        """A chunk of the source with its accepted rows' offsets."""
        rejects = [reject.offset for reject in chunk.rejects]
        self._rejects.extend(rejects)
        self._is_of_row |= np.isin(self._of_rows, offsets) | np.isin(self._of_rows, np.array(rejects, np.int64))

    def compare(self, uri: str, kept_to: int, found: LetterFindings) -> None:
        """Refused rows before `kept_to` and letters, each without the other."""
        rejects = _ints(self._rejects)
        rejects = rejects[rejects < kept_to]
        letters = _all([self._kept[stage] for stage in dead_letter.ROW_STAGES if stage in self._kept])
        known = _all([letters, *(self._replayed[stage] for stage in dead_letter.ROW_STAGES if stage in self._replayed)])
        missing = np.setdiff1d(rejects, known)
        extra = np.union1d(np.setdiff1d(letters, _ints(self._rejects)), self._of_rows[~self._is_of_row])
        extra = extra[extra < kept_to]
        found.compared += len(rejects)
        found.missing += len(missing)
        found.extra += len(extra) + self._n_twice
        kinds: tuple[tuple[Kind, Ints], ...] = (("missing", missing), ("extra", extra))
        for kind, offsets in kinds:
            found.first += [LetterDifference(kind, uri, offset) for offset in offsets[:FIRST_DIFFERENCES].tolist()]


def _offsets_by_stage(job: Job, name: str, identities: "array[int]") -> dict[str, Ints]:
    """Sorted offsets of the letters in a file by their stage; `identities` takes in one number a letter."""
    found: dict[str, array[int]] = {}
    for letters in _in_slices(job, name):
        for letter in letters:
            found.setdefault(letter["stage"], array("q")).append(letter["offset"])
            identities.append(dead_letter.identity_of(letter))
    return {stage: np.unique(_ints(offsets)) for stage, offsets in found.items()}


def _all(offsets: Sequence[Ints]) -> Ints:
    return np.unique(np.concatenate(offsets)) if offsets else np.empty(0, np.int64)


def _ints(values: "array[int]") -> Ints:
    return np.array(values, np.int64)


# --- comparing ------------------------------------------------------------------------------------


async def _compare(sink: AnySink, rows: pl.DataFrame, streams: Sequence[_Stream], found: SinkFindings) -> None:
    """One partition: all rows of some users."""
    schema = streams[0].job.dataset.schema  # the same of all of them
    rows = rows.filter(pl.col("landed").is_null() | (pl.col("landed") == sink.name))
    if isinstance(sink, HasOwnForm):
        rows = rows.with_columns(pl.col(_own(sink.name, column)).alias(column) for column in _RECORD)
    else:
        rows = rows.with_columns(event_key_of(schema))
    users: list[str] = rows["user_id"].unique(maintain_order=True).to_list()
    stored = await read_back_of(sink).stored(users, schema)
    await asyncio.to_thread(_count, sink, rows, stored, streams, found)


def _count(
    sink: AnySink, rows: pl.DataFrame, stored: pl.DataFrame, streams: Sequence[_Stream], found: SinkFindings
) -> None:
    is_first = stored.select(pl.struct(_RECORD).is_first_distinct().alias("first"))["first"]
    stored, doubled = stored.filter(is_first), stored.filter(~is_first)
    candidates, loose = _candidates(sink, rows, stored, streams)
    expected = read_back_of(sink).expected(candidates, streams[0].job.dataset.schema)
    required = expected.filter("required", ~pl.col("expired"))
    found.compared += required.height
    found.expired += expected.filter("expired").height
    unmet = expected.join(stored, on=_RECORD, how="anti")
    unexplained = stored.join(expected, on=_RECORD, how="anti")
    missing = unmet.filter("required", ~pl.col("expired")).join(unexplained, on=_KEY, how="anti")
    altered = unmet.join(loose, on=_KEY, how="anti").join(unexplained, on=_KEY, how="semi")
    extra = unexplained.join(unmet, on=_KEY, how="anti").join(loose, on=_KEY, how="anti")
    if not found.complete:
        extra = extra.join(rows, on=_KEY, how="anti")  # a set may not be trimmed yet
    extra = pl.concat([extra, doubled])  # whatever a row is, it is never there twice
    found.missing += missing.height
    found.altered += altered.height
    found.extra += extra.height
    found.users_without_rows += missing.select("user_id").unique().join(stored, on="user_id", how="anti").height
    kinds: tuple[tuple[Kind, pl.DataFrame], ...] = (("missing", missing), ("altered", altered), ("extra", extra))
    for kind, differing in kinds:
        shown = sum(difference.kind == kind for difference in found.first)
        found.first += [_difference(kind, row, streams) for row in differing.head(FIRST_DIFFERENCES - shown).to_dicts()]


def _difference(kind: Kind, row: dict[str, Any], streams: Sequence[_Stream]) -> Difference:
    if kind == "extra":
        return Difference(kind, row["user_id"], row["event_key"])
    uri = streams[row["source"]].job.source.uri
    return Difference(kind, row["user_id"], row["event_key"], uri, row["line"], row["offset"])


def _candidates(
    sink: AnySink, rows: pl.DataFrame, stored: pl.DataFrame, streams: Sequence[_Stream]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The last row of each key, with whether it is `required`; and the keys whose value, or presence, is not sure.

    Not sure is a row that the sink has refused (an earlier row of its key may be there), and one that it has not
    settled yet. Such a row counts if the sink holds its key: so it has its place among a user's newest.
    """
    last = rows.unique(_KEY, keep="last", maintain_order=True)
    unsettled, dead = _fates(sink, rows, streams)
    if not (unsettled | dead).any():
        return last.with_columns(pl.lit(True).alias("required")), last.select(_KEY).clear()
    loose = rows.filter(unsettled | dead).select(_KEY).unique()
    settled = rows.with_columns(pl.Series("dead", dead)).filter(~unsettled)
    sure = settled.unique(_KEY, keep="last").filter(~pl.col("dead")).select(*_KEY, pl.lit(True).alias("required"))
    last = last.join(sure, on=_KEY, how="left", maintain_order="left").with_columns(pl.col("required").fill_null(False))
    held = last.join(stored.select(_KEY).unique(), on=_KEY, how="semi")
    return pl.concat([last.filter("required"), held.filter(~pl.col("required"))]), loose


def _fates(sink: AnySink, rows: pl.DataFrame, streams: Sequence[_Stream]) -> tuple[Bools, Bools]:
    """Which rows of the source the sink has not settled, and which it has refused."""
    source, offset = rows["source"].to_numpy(), rows["offset"].to_numpy()
    is_of_source: NDArray[np.bool_] = rows["landed"].is_null().to_numpy()
    unsettled, dead = np.zeros(rows.height, np.bool_), np.zeros(rows.height, np.bool_)
    for stream in streams:
        mine = is_of_source & (source == stream.number)
        unsettled |= mine & (offset >= stream.settled_to(sink.name))
        dead |= mine & np.isin(offset, stream.letters.dead_in(sink.name))
    return unsettled, dead
