"""Files from which DynamoDB's import makes a new table: the items that a load would leave there, without write units.

sources → chunks → items as lines, set aside by key (spill.py) → of each key the last → files, a manifest last

Nothing is written before all is read: `export.json` then says by a digest what the files hold. Another export finds it,
and goes on after the files that are there if it has the same.
"""

import asyncio
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from ingest_service.analysis.places import ExportPlace
from ingest_service.analysis.reading import chunks_of
from ingest_service.errors import ConfigurationError, Stopped, TooManyRejects, UsageError
from ingest_service.pipeline.dead_letter import DeadLetters
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.rejects import Refusals, rejected_among_first
from ingest_service.pipeline.tracker import Counts
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.rows.spill import Spill
from ingest_service.sinks.dynamodb import imports
from ingest_service.sinks.dynamodb.items import key_texts, lines
from ingest_service.sinks.dynamodb.sink import DynamoDBSink

WHEN_STOPPED = "files that are there stay, and the same command goes on"
_SLICE_ROWS = 50_000  # made into lines at once
_PIECE_BYTES = 1 << 20  # of lines in one piece
_UNKNOWN_ROWS = 10_000_000  # where a source does not tell its size

Progress = Callable[..., None]


@dataclass(slots=True)
class Exported:
    """What was read, what became of it, and the files: each with its items and bytes, not yet compressed."""

    counts: Counter[str] = field(default_factory=Counter)
    dead_letters: list[str] = field(default_factory=list)
    files: dict[str, dict[str, int]] = field(default_factory=dict)
    written: int = 0  # files; the others were there
    stored_bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def items(self) -> int:
        return sum(file["items"] for file in self.files.values())

    @property
    def import_bytes(self) -> int:
        return sum(file["bytes"] for file in self.files.values())

    def as_json(self) -> dict[str, Any]:
        of_rows = {name: self.counts[name] for name in ("read", "rejected", "filtered", "records", "dead", "replaced")}
        of_files = {"items": self.items, "files": len(self.files), "files_written": self.written}
        sizes = {"import_bytes": self.import_bytes, "stored_bytes": self.stored_bytes}
        return {**of_rows, **of_files, **sizes, "dead_letters": self.dead_letters, "warnings": self.warnings}

    def lines(self) -> list[str]:
        """For a reader."""
        n = self.counts
        filtered = f", {n['filtered']:,} filtered" if n["filtered"] else ""
        refused = f"{n['rejected'] + n['dead']:,} refused{filtered}"
        return [
            f"{n['read']:,} rows: {n['records']:,} records, {refused}; {n['replaced']:,} replaced by a later one",
            f"{self.items:,} items in {len(self.files):,} files, {self.written:,} of them written now: "
            f"{self.import_bytes:,} bytes, compressed {self.stored_bytes:,}",
            *(f"Refused rows are kept in {path}" for path in self.dead_letters),
            *(f"Warning: {warning}" for warning in self.warnings),
        ]


async def export(
    jobs: Sequence[Job], sink: DynamoDBSink, place: ExportPlace, stop: asyncio.Event, progress: Progress
) -> Exported:
    """All that the sink, which stays closed, would write of the sources. ConfigurationError if the place is taken."""
    if not all(job.source.resumable for job in jobs):
        raise UsageError("Standard input cannot be read again once it is exported; name a file.")
    return await asyncio.to_thread(_Exporting(jobs, sink, place, stop, progress).all)


class _Exporting:
    """Blocks the caller."""

    def __init__(
        self, jobs: Sequence[Job], sink: DynamoDBSink, place: ExportPlace, stop: asyncio.Event, progress: Progress
    ) -> None:
        self._jobs = jobs
        self._sink = sink
        self._place = place
        self._stop = stop
        self._progress = progress
        self._digest = blake2b(digest_size=16)
        self._line_bytes = 0
        self._made = Exported()

    def all(self) -> Exported:
        begun = self._place.begun()
        n_rows = _expected_rows(self._jobs) if begun is None else int(begun["rows_expected"])
        with Spill(n_rows, by=pl.col("order")) as spill:
            for job in self._jobs:
                self._set_aside(job, spill)
            self._require_within_limits()
            plan = {"export": 1, "rows_expected": n_rows, "content": self._digest.hexdigest()}
            self._place.begin(plan, begun)
            files = _Files(self._pieces(spill))
            while (name := files.next_name()) is not None:
                self._progress(step="writing", file=name, items=files.n_items)
                self._made.written += self._place.keep(name, files.lines_of_one())
                self._made.files[name] = {"items": files.n_items, "bytes": files.n_bytes}
        self._made.counts["replaced"] = self._made.counts["records"] - self._made.counts["dead"] - self._made.items
        self._made.stored_bytes = self._place.finish(plan, self._made.files)
        self._warn()
        return self._made

    def _set_aside(self, job: Job, spill: Spill) -> None:
        """The items of a source; its refused rows are durable before anything is written."""
        letters = DeadLetters.of(job)
        letters.open(resume_offset=0)
        fate = _Fate(job, str(letters.path))
        try:
            for chunk, _ in chunks_of(job, self._stop, WHEN_STOPPED):
                dead: list[DeadRow] = []
                for part in _slices(chunk.last_of_each_key()):
                    _, columns = self._sink.fitting(part, chunk, dead)
                    if len(columns):
                        spill.add(self._frame(columns))
                letters.append([*chunk.rejects, *dead])
                fate.add(chunk, dead)
                rows = self._made.counts["read"] + fate.counts["read"]
                self._progress(step="reading", source=job.source.uri, rows_read=rows)
            fate.refuse_too_many(at_end=True)
        finally:
            letters.close()
        self._made.counts += fate.counts
        if fate.refused:
            self._made.dead_letters.append(str(letters.path))

    def _frame(self, columns: Columns) -> pl.DataFrame:
        """Each item with its key, and a hash of that, which is the same on every machine."""
        text, ends = lines(columns, self._sink.options.ttl_s)
        self._digest.update(text)
        self._line_bytes += len(text)
        bounds = [0, *ends.tolist()]
        keys = key_texts(columns).to_list()
        return pl.DataFrame(
            {
                "key": keys,
                "order": pl.Series([zlib.crc32(key.encode()) for key in keys], dtype=pl.UInt32),
                "line": [text[start:end] for start, end in pairwise(bounds)],
            }
        )

    def _require_within_limits(self) -> None:
        n = self._made.counts
        if not n["records"] - n["dead"]:
            raise ConfigurationError("The sources have no row that can be exported, so that nothing was written.")
        if (
            -(-n["records"] // imports.MAX_FILE_ITEMS) + -(-self._line_bytes // imports.MAX_FILE_BYTES)
            > imports.MAX_FILES
        ):
            raise ConfigurationError(
                f"An import takes {imports.MAX_FILES:,} files at most, which these records are too many for; export "
                "some of the sources at a time, each into a table of its own."
            )

    def _pieces(self, spill: Spill) -> Iterator[list[bytes]]:
        """The last item of each key, in no order that the import could make one busy partition of."""
        for frame in spill:
            if self._stop.is_set():
                raise Stopped.on_request(WHEN_STOPPED)
            last = frame.unique("key", keep="last").sort("order", "key")
            found = last["line"].to_list()
            sizes = last["line"].bin.size().cum_sum().to_numpy() // _PIECE_BYTES
            bounds = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(found)]
            yield from (found[start:end] for start, end in pairwise(bounds))

    def _warn(self) -> None:
        self._made.warnings += self._sink.warnings
        most = imports.max_bytes(self._sink.options.region)
        if self._made.stored_bytes > most:
            self._made.warnings.append(
                f"the files take more than the {most:,} bytes of an import in this region; us-east-1, us-west-2 and "
                "eu-west-1 take more, and AWS's support can raise it"
            )


@dataclass
class _Files:
    """Cuts pieces into files, none larger than an import takes well."""

    pieces: Iterator[list[bytes]]
    n_items: int = 0  # of the file at hand
    n_bytes: int = 0
    _n: int = 0
    _next: list[bytes] | None = None

    def next_name(self) -> str | None:
        """None where nothing is left; the lines of the file before must have been taken."""
        if self._next is None and (piece := next(self.pieces, None)) is not None:
            self._next = piece
        if self._next is None:
            return None
        self.n_items = self.n_bytes = 0
        self._n += 1
        return f"data/{self._n:05}.json.gz"

    def lines_of_one(self) -> Iterator[bytes]:
        while self._next is not None:
            size = sum(map(len, self._next))
            is_full = (
                self.n_items + len(self._next) > imports.MAX_FILE_ITEMS or self.n_bytes + size > imports.MAX_FILE_BYTES
            )
            if self.n_items and is_full:
                return
            self.n_items += len(self._next)
            self.n_bytes += size
            yield b"".join(self._next)
            self._next = next(self.pieces, None)


@dataclass
class _Fate:
    """What became of one source's rows, held to the limit of refused ones as a run is."""

    job: Job
    letters: str
    counts: Counter[str] = field(default_factory=Counter)
    _refusals: Refusals = field(default_factory=Refusals)
    _rejected_first: int = 0

    @property
    def refused(self) -> int:
        return self.counts["rejected"] + self.counts["dead"]

    def add(self, chunk: Chunk, dead: Sequence[DeadRow]) -> None:
        self.counts.update(
            read=chunk.read,
            rejected=chunk.rejected,
            filtered=len(chunk.filtered),
            records=chunk.accepted,
            dead=len(dead),
        )
        self._rejected_first += rejected_among_first(chunk)
        self._refusals.add([*chunk.rejects, *dead])
        self.refuse_too_many()

    def refuse_too_many(self, *, at_end: bool = False) -> None:
        """TooManyRejects by the user's limit, and where without one nearly all are refused."""
        limit, n = self.job.max_rejects, self.counts
        ours = Counts(written=n["records"] - n["dead"], dead=n["dead"])
        if (
            limit.exceeded(self.refused, n["read"], at_end=at_end)
            or limit.is_wrong_source(self._rejected_first, n["rejected"], n["read"], at_end=at_end)
            or limit.is_wrong_sink(ours, at_end=at_end)
        ):
            row = self._refusals.commonest()
            why = f", most for this: line {row.line}: {row.reason}" if row else "."
            raise TooManyRejects(
                f"{self.refused:,} of {n['read']:,} rows of {self.job.source.uri} are refused{why} They are in "
                f"{self.letters}, and nothing was written; with --max-rejects 100% an export goes on all the same."
            )


def _slices(rows: Ints) -> Iterator[Ints]:
    return (rows[first : first + _SLICE_ROWS] for first in range(0, len(rows), _SLICE_ROWS))


def _expected_rows(jobs: Sequence[Job]) -> int:
    """About how many rows all the sources have, judged by the first block of each."""
    rows = 0.0
    for job in jobs:
        reader = job.open_reader(limit=job.limit)
        try:
            size = job.source.size()
            block = reader.next()
            read = 0 if block is None else reader.chunk(block).read
            rows += read * (size / max(1, reader.stored_position())) if size else _UNKNOWN_ROWS
        finally:
            reader.close()
    return round(rows)
