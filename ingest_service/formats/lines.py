"""The lines of a block of text."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Ints

LF, CR = b"\n\r"
_PART_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Lines:
    """The rows of one block, as arrays of places in it; n rows.

    starts, ends: int64[n], the row's bytes without its line end.
    lines: int64[n], lines before it in the block.
    consumed, lines_consumed: where the first row that is not in here begins, in bytes and line ends.
    """

    starts: Ints
    ends: Ints
    lines: Ints
    consumed: int
    lines_consumed: int

    def __len__(self) -> int:
        return len(self.starts)

    def head(self, n: int) -> "Lines":
        """The first `n` rows, as if the block ended before the next one."""
        if n >= len(self):
            return self
        return Lines(self.starts[:n], self.ends[:n], self.lines[:n], int(self.starts[n]), int(self.lines[n]))


def positions(buffer: NDArray[np.uint8], byte: int) -> Ints:
    """Where a byte stands, found in parts that stay in the CPU's cache."""
    firsts = range(0, buffer.size, _PART_BYTES)
    found = [np.flatnonzero(buffer[first : first + _PART_BYTES] == byte) + first for first in firsts]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def lines_of(buffer: NDArray[np.uint8], *, eof: bool) -> tuple[Ints, Ints, Ints]:
    """Start, end (without CR LF) and start of the next, for each line; an unended last one counts at the end."""
    newlines = positions(buffer, LF)
    next_starts = newlines + 1
    ends = newlines
    if eof and buffer.size and (not newlines.size or next_starts[-1] < buffer.size):
        next_starts = np.append(next_starts, buffer.size)
        ends = np.append(ends, buffer.size)
    starts = np.concatenate((np.zeros(1, np.int64), next_starts))[: len(next_starts)]
    last = buffer.take(ends - 1, mode="clip") if buffer.size else buffer
    if (last == CR).any():
        ends = ends - ((last == CR) & (ends > starts))
    return starts, ends, next_starts
