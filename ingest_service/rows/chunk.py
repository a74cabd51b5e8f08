"""What travels through the pipeline: a span of the source, its accepted rows as columns, its refused rows."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Columns


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two records: what lies before it, in decompressed bytes, data rows and physical lines.

    `tail_hash` is the hash of the last MiB before it; with it a later run proves that the file is still the same.
    """

    offset: int = 0
    row: int = 0
    line: int = 0
    tail_hash: str = ""


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row that is kept aside, with where it stood and why: one line of the dead letters."""

    offset: int
    line: int
    raw: bytes
    stage: str
    code: str
    reason: str


class Raws(Protocol):
    """Rows as they stood in the source."""

    def raw(self, row: int) -> bytes:
        """One of them, as a dead letter keeps it."""

    def take(self, rows: Ints | slice) -> "Raws": ...


@dataclass(frozen=True)
class Chunk:
    """Rows [start.row, end.row) of the source.

    `columns` holds the accepted rows in file order; row i stood at `offsets[i]`, in line `lines[i]`, as `raws.raw(i)`.
    `kept` are the offsets of refused rows that are in the dead letters already, and no longer in `rejects`.
    `is_unended`: its rows are others if the source goes on. `row_offsets`: where a row may be several records, or none,
    the offsets of the accepted rows; `columns` then holds the records, and i counts these. `filtered` are the offsets
    of rows that a filter of the data set passed over.
    """

    start: Position
    end: Position
    columns: Columns
    offsets: Ints
    lines: Ints
    raws: Raws
    rejects: list[DeadRow] = field(default_factory=list)
    kept: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    is_unended: bool = False
    row_offsets: Ints | None = None
    filtered: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    @cached_property
    def key_hashes(self) -> NDArray[np.uint64]:
        """A 64-bit hash of each accepted row's key, ascending. Rows with one key have one hash."""
        hashes = self.columns.identity_hashes()
        hashes.sort()
        return hashes

    def last_of_each_key(self) -> Ints:
        """Of rows with one key only the last: their indices, ascending."""
        if (self.key_hashes[1:] != self.key_hashes[:-1]).all():
            return np.arange(self.accepted)  # the usual file repeats no key
        order = np.lexsort(self.columns.identity)  # stable: equal keys stay in the order of the file
        is_last = np.zeros(self.accepted, np.bool_)
        is_last[-1] = True
        for column in self.columns.identity:
            is_last[:-1] |= np.diff(column[order]) != 0
        return np.sort(order[is_last])

    @property
    def accepted(self) -> int:
        """Records."""
        return len(self.columns)

    @property
    def accepted_rows(self) -> int:
        return self.accepted if self.row_offsets is None else len(self.row_offsets)

    @property
    def read(self) -> int:
        return self.accepted_rows + self.rejected + len(self.filtered)

    @property
    def rejected(self) -> int:
        return len(self.rejects) + len(self.kept)

    def without_rejects(self) -> "Chunk":
        """What travels on once the refused rows are durable: a bad file's would fill the memory."""
        return replace(self, rejects=[], kept=np.array([reject.offset for reject in self.rejects], np.int64))

    def after(self, position: Position) -> "Chunk | None":
        """The rows from `position` on, or None if there are none: what a sink that is ahead still needs."""
        if position.offset <= self.start.offset:
            return self
        if position.offset >= self.end.offset:
            return None
        first = int(np.searchsorted(self.offsets, position.offset))
        return replace(
            self,
            start=position,
            columns=self.columns.take(slice(first, None)),
            offsets=self.offsets[first:],
            lines=self.lines[first:],
            raws=self.raws.take(slice(first, None)),
            rejects=[reject for reject in self.rejects if reject.offset >= position.offset],
            kept=self.kept[self.kept >= position.offset],
            row_offsets=None if self.row_offsets is None else self.row_offsets[self.row_offsets >= position.offset],
            filtered=self.filtered[self.filtered >= position.offset],
        )

    def only(self, wanted: Bools) -> "Chunk":
        """Some of the accepted rows, and no others."""
        rows = np.flatnonzero(wanted)
        return replace(
            self,
            columns=self.columns.take(rows),
            offsets=self.offsets[rows],
            lines=self.lines[rows],
            raws=self.raws.take(rows),
            rejects=[],
            kept=np.empty(0, np.int64),
            filtered=np.empty(0, np.int64),
        )

    def filtered_to(self, wanted: Bools) -> "Chunk":
        """The others of the accepted rows were passed over: they are read, and no more."""
        return replace(
            self.only(wanted), rejects=self.rejects, kept=self.kept, filtered=self.offsets[np.flatnonzero(~wanted)]
        )

    def dead_row(self, row: int, stage: str, code: str, reason: str) -> DeadRow:
        """Accepted row `row`, refused by a sink."""
        return DeadRow(int(self.offsets[row]), int(self.lines[row]), self.raws.raw(row), stage, code, reason)
