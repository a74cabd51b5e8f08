"""Changes of files that survive a loss of power, and locks around them that survive a process that sleeps."""

import ctypes
import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ingest_service.errors import LeaseHeld

LOCK_S = 5.0  # a lock is held for one write and one fsync
_LOOK_EVERY_S = 0.02
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # renameat2(2)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk: a new file or a rename is not durable before (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename_new(path: Path, to: Path) -> None:
    """Rename a file within its folder. FileExistsError, with nothing changed, where there is one of that name.

    In one step where the kernel has one for it. A second name, then the removal of the first, would for a moment be two
    names, which other programs may see.
    """
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is not None:
            names = (os.fsencode(path), os.fsencode(to))
            if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
                return
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOSYS):  # of file systems and kernels that do not know it
                raise OSError(number, os.strerror(number), str(to))
    os.link(path, to)
    path.unlink()


def take_lock(take: Callable[[], None], path: Path) -> None:
    """Wait for a lock that others hold for a moment only. `take` must not block. Blocks the caller.

    LeaseHeld after `LOCK_S`: whoever has it was stopped (SIGSTOP, a paused container) and may stay so for good.
    """
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            return take()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LeaseHeld(f"A process that was stopped in the middle of writing holds {path}; end it.") from None
            time.sleep(_LOOK_EVERY_S)


@contextmanager
def locked(lock: Path, what: Path) -> Iterator[None]:
    """Alone with `what`, by a lock on a file that is made for it. Blocks the caller; LeaseHeld as of `take_lock`."""
    with lock.open("w") as file:
        take_lock(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), what)
        yield
