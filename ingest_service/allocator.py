"""Keeps the C library from hoarding what numpy and Python free."""

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # mallopt(3)


def return_memory_early() -> None:
    """Two arenas for all threads, and blocks of 256 KiB and more straight from and to the kernel. glibc only.

    By default each thread that parses or encodes gets an arena of its own, and glibc raises the threshold with each
    large block it sees: that keeps a quarter of the peak for nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 256 * 1024)
