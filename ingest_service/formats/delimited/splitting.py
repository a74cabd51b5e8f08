"""A field that is several records: its parts, and the values of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ingest_service.datasets.base import Split
from ingest_service.errors import RowError
from ingest_service.rows.arrays import Bools, Ints, trim
from ingest_service.rows.parse import Bytes

_BLANKS = " \t"
_BLANK_BYTES = list(_BLANKS.encode())


def parts_of(text: str, split: Split, column: str) -> list[Sequence[str]]:
    """The values of each part; a blank part is none. RowError for one with too few. The specification."""
    found: list[Sequence[str]] = []
    for part in text.split(split.delimiter):
        if not part.strip(_BLANKS):
            continue
        values = part.rsplit(split.inner, split.n - 1) if split.n > 1 else [part]
        if len(values) != split.n:
            raise RowError("parse", "wrong_arity", f"A part of {column} has no {split.inner!r}.")
        found.append(values)
    return found


@dataclass(frozen=True, slots=True)
class Parts:
    """The m parts of n fields.

    rows: int64[m], whose each is, ascending; bounds: int64[m], of each of a part's values where it begins and ends;
    good: bool[m], which parts have all their values.
    """

    rows: Ints
    bounds: Sequence[tuple[Ints, Ints]]
    good: Bools


def find_parts(buffer: Bytes, starts: Ints, ends: Ints, split: Split) -> Parts:
    """The same of n fields at once, given by their bounds, which ascend."""
    inside = _places(buffer, starts, ends, split.delimiter)
    part_starts = np.sort(np.concatenate((starts, inside + 1)))
    part_ends = np.sort(np.concatenate((ends, inside)))
    inner_starts, inner_ends = trim(buffer, part_starts, part_ends, _BLANK_BYTES)
    kept = inner_starts < inner_ends
    part_starts, part_ends = part_starts[kept], part_ends[kept]
    rows = np.searchsorted(starts, part_starts, side="right") - 1
    if split.n == 1:
        return Parts(rows, [(part_starts, part_ends)], np.ones(len(rows), np.bool_))
    marks = np.concatenate((np.full(split.n, -1), _places(buffer, starts, ends, split.inner)))
    last = np.searchsorted(marks, part_ends) - 1
    cuts = [marks[np.maximum(last - back, 0)] for back in range(split.n - 2, -1, -1)]
    good = cuts[0] >= part_starts
    cuts = [np.where(good, cut, part_starts) for cut in cuts]
    begins = [part_starts, *(cut + good for cut in cuts)]
    return Parts(rows, list(zip(begins, [*cuts, part_ends], strict=True)), good)


def _places(buffer: Bytes, starts: Ints, ends: Ints, byte: str) -> Ints:
    """Where a byte stands within the fields."""
    if not len(starts):
        return np.empty(0, np.int64)
    first, last = int(starts[0]), int(ends[-1])
    found = np.flatnonzero(buffer[first:last] == ord(byte)) + first
    row = np.searchsorted(starts, found, side="right") - 1
    within: Ints = found[found < ends[row]]
    return within
