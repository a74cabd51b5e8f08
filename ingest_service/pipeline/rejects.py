"""How many rows may be refused before a run says that something is wrong with all of them, and what that is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ingest_service.pipeline.tracker import Counts
from ingest_service.rows.chunk import Chunk, DeadRow

FIRST_ROWS = 10_000  # by these a source is judged where the user has set no limit of his own


@dataclass(frozen=True, slots=True)
class RejectLimit:
    """How many rows may be refused: a number, or a share of the rows read.

    Without either a source is judged by its first rows: not more than half of them may be refused, nor all of a
    shorter source, nor may a sink refuse all that it is given.
    """

    rows: int | None = None
    percent: float | None = None
    MIN_ROWS: ClassVar[int] = 1_000  # a share of fewer rows says little; at the end it counts all the same

    @classmethod
    def parse(cls, text: str | None) -> "RejectLimit":
        """`100` rows or `1.5%`; None for no limit of the user's. ValueError for more than all."""
        if text is None:
            return cls()
        if not text.endswith("%"):
            return cls(rows=int(text))
        if float(text[:-1]) > 100:
            raise ValueError("more than 100%")
        return cls(percent=float(text[:-1]))

    @property
    def is_set(self) -> bool:
        return self.rows is not None or self.percent is not None

    def exceeded(self, refused: int, read: int, *, at_end: bool = False) -> bool:
        """Whether the user's limit is, by rows refused anywhere."""
        if self.rows is not None and refused > self.rows:
            return True
        judged = at_end or read >= self.MIN_ROWS
        return self.percent is not None and judged and refused * 100 > self.percent * read

    def is_wrong_source(self, first: int, rejected: int, read: int, *, at_end: bool = False) -> bool:
        """Whether, without a limit of the user's, so many of the first rows, or all, can be no accident."""
        if self.is_set:
            return False
        return 2 * first > FIRST_ROWS or (at_end and 0 < read == rejected)

    def is_wrong_sink(self, counts: Counts, *, at_end: bool = False) -> bool:
        """Whether, without a limit of the user's, a sink has refused all that it was given."""
        if self.is_set or not counts.dead or counts.written:
            return False
        return at_end or counts.dead >= FIRST_ROWS


def rejected_among_first(chunk: Chunk) -> int:
    """How many of the source's first rows are rejects of this chunk."""
    left = FIRST_ROWS - chunk.start.row
    if left <= 0 or not chunk.rejects:
        return 0
    rejects = np.array([row.offset for row in chunk.rejects])
    if chunk.read <= left:
        return len(rejects)
    offsets = np.concatenate((chunk.offsets, chunk.filtered, rejects))
    return int(np.count_nonzero(rejects <= np.partition(offsets, left - 1)[left - 1]))


@dataclass(slots=True)
class Refusals:
    """The rows that this run refused, by stage and code: how many, and the first of each."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _firsts: dict[tuple[str, str], DeadRow] = field(default_factory=dict)

    def add(self, rows: Sequence[DeadRow]) -> None:
        for row in rows:
            self._counts[row.stage, row.code] += 1
            self._firsts.setdefault((row.stage, row.code), row)

    def commonest(self, stage: str | None = None) -> DeadRow | None:
        """The first row refused for the reason that most were refused for, of one stage or of all."""
        for kind, _ in self._counts.most_common():
            if stage is None or kind[0] == stage:
                return self._firsts[kind]
        return None
