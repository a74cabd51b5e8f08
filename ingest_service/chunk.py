"""What travels through the pipeline: a span of the source, its accepted rows as a frame, its refused rows."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ingest_service.records import Ints

RECORD_KEY = ("user_id", "timestamp", "video_id")


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


@dataclass(frozen=True)
class Chunk:
    """Rows [start.row, end.row) of the source.

    `frame` holds the accepted rows in file order (columns: see `datasets.base.RECORD_SCHEMA`). For accepted row i,
    `starts[i]` and `ends[i]` bound its bytes in `data`, which begins at offset `data_offset`; `lines[i]` is its line.
    """

    start: Position
    end: Position
    data: bytes
    data_offset: int
    frame: pl.DataFrame
    starts: Ints
    ends: Ints
    lines: Ints
    rejects: list[DeadRow] = field(default_factory=list)

    @cached_property
    def key_hashes(self) -> NDArray[np.uint64]:
        """A 64-bit hash of each accepted row's key, ascending. Rows with one key have one hash."""
        user, video = (self.frame[name].hash().to_numpy() for name in ("user_id", "video_id"))
        at = self.frame["timestamp"].hash().to_numpy()
        return np.sort(user * np.uint64(3) + video * np.uint64(5) + at)

    def last_of_each_key(self) -> pl.DataFrame:
        """The frame with each row's index as `row`, and of rows with one key only the last."""
        frame = self.frame.with_row_index("row")
        if (self.key_hashes[1:] != self.key_hashes[:-1]).all():
            return frame  # the usual file repeats no key
        return frame.unique(subset=RECORD_KEY, keep="last", maintain_order=True)

    @property
    def accepted(self) -> int:
        return self.frame.height

    @property
    def read(self) -> int:
        return self.accepted + len(self.rejects)

    def after(self, position: Position) -> "Chunk | None":
        """The rows from `position` on, or None if there are none: what a sink that is ahead still needs."""
        if position.offset <= self.start.offset:
            return self
        if position.offset >= self.end.offset:
            return None
        first = int(np.searchsorted(self.starts, position.offset - self.data_offset))
        return replace(
            self,
            start=position,
            frame=self.frame.slice(first),
            starts=self.starts[first:],
            ends=self.ends[first:],
            lines=self.lines[first:],
            rejects=[reject for reject in self.rejects if reject.offset >= position.offset],
        )

    def dead_row(self, row: int, stage: str, code: str, reason: str) -> DeadRow:
        """Accepted row `row`, refused by a sink."""
        start, end = int(self.starts[row]), int(self.ends[row])
        return DeadRow(self.data_offset + start, int(self.lines[row]), self.data[start:end], stage, code, reason)
