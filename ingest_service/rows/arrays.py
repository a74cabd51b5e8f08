"""Arrays that rows are made of, and what is done to the bounds of windows into bytes."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

QUOTE = ord('"')
MAX_TRIM = 16


def trim(buffer: NDArray[np.uint8], starts: Ints, ends: Ints, whitespace: list[int]) -> tuple[Ints, Ints]:
    """Move the bounds inwards over whitespace, up to `MAX_TRIM` bytes a side.

    A field with more keeps the rest; it then fails the columnar checks, and the row-by-row path trims it.
    """
    table = np.zeros(256, np.bool_)
    table[whitespace] = True
    for _ in range(MAX_TRIM):
        at = (starts < ends) & table[buffer[np.minimum(starts, buffer.size - 1)]]
        if not at.any():
            break
        starts = starts + at
    for _ in range(MAX_TRIM):
        at = (starts < ends) & table[buffer[np.maximum(ends - 1, 0)]]
        if not at.any():
            break
        ends = ends - at
    return starts, ends
