"""Keeps the C library from hoarding what numpy and Python free."""

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # mallopt(3)
_LARGE_BYTES = 2 << 20


def give_back_memory() -> None:
    """Large blocks go back to the system at once, and threads share two arenas instead of having one each. glibc only.

    By itself glibc keeps ever larger blocks for later, which costs the peak a third. What is worked on in slices stays
    below `_LARGE_BYTES`, so that the page faults of fresh memory are paid once a chunk and not once a slice.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
