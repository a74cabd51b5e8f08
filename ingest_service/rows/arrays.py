"""Arrays that rows are made of, and what is done to the bounds of windows into bytes."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

QUOTE = ord('"')
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: spreads neighbours (Fibonacci hashing)
_SHIFT = np.uint64(29)
MAX_TRIM = 16


def hashed(columns: Iterable[NDArray[np.uint64]], n: int) -> NDArray[np.uint64]:
    """A 64-bit hash of each of n rows of these columns; equal rows have equal ones."""
    found = np.zeros(n, np.uint64)
    for column in columns:
        found ^= column
        found *= _MIX
        found ^= found >> _SHIFT
    return found


def hold_none(places: Ints, starts: Ints, ends: Ints) -> Bools:
    """Which windows [start, end) have none of these places, ascending, in them."""
    without: Bools = np.searchsorted(places, starts) == np.searchsorted(places, ends)
    return without


def trim(buffer: NDArray[np.uint8], starts: Ints, ends: Ints, whitespace: list[int]) -> tuple[Ints, Ints]:
    """Move the bounds inwards over whitespace, up to `MAX_TRIM` bytes a side.

    A field with more keeps the rest; it then fails the columnar checks, and the row-by-row path trims it.
    """
    table = np.zeros(256, np.bool_)
    table[whitespace] = True
    highest = max(whitespace)
    for _ in range(MAX_TRIM):
        first = buffer.take(starts, mode="clip")
        if not (first <= highest).any():  # the usual column is told by this alone
            break
        at = (starts < ends) & table[first]
        if not at.any():
            break
        starts = starts + at
    for _ in range(MAX_TRIM):
        last = buffer.take(ends - 1, mode="clip")
        if not (last <= highest).any():
            break
        at = (starts < ends) & table[last]
        if not at.any():
            break
        ends = ends - at
    return starts, ends
