"""This process: how it is asked to stop, its memory, and the service that it may be a run of.

A run of a service ends with it, however that ends. What it tells goes over a connection of its own, which only this
module writes to: its log may quote names that others chose.
"""

import json
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest_service.errors import ConfigurationError, Stopped

if TYPE_CHECKING:
    import asyncio

PARENT_PID = "INGEST_PARENT_PID"  # in the environment: who forks runs tells them whose they are
WORKER = "INGEST_WORKER"  # likewise: a run that a user started tells its workers that they may read what he may
EVENTS_FD = "INGEST_EVENTS_FD"  # the connection's number; not in the environment of what a run starts
_PR_SET_PDEATHSIG = 1  # prctl(2)
_pipe: list[int] = []  # its descriptor, where there is one
_SAME_S = 0.1  # timeout(1) and others signal a process, and then its group with the process in it
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_LARGE_BYTES = 2 << 20
_KEPT_BYTES = 4 << 20


def stop_on_signals() -> "asyncio.Event":
    """An event that the first SIGTERM or SIGINT sets, to drain; the second ends the process at once, with 75.

    Those that come together count as one.
    """
    import asyncio

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    first_s = 0.0

    def on_signal() -> None:
        nonlocal first_s
        if not stop.is_set():
            first_s = loop.time()
            stop.set()
        elif loop.time() - first_s > _SAME_S:
            os._exit(Stopped.exit_code)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


def give_back_memory() -> None:
    """Large blocks go back to the system at once, and threads share two arenas instead of having one each. glibc only.

    By itself glibc keeps ever larger blocks for later, which costs the peak a third. What is worked on in slices stays
    below `_LARGE_BYTES`, and of these up to `_KEPT_BYTES` are kept by each arena: the page faults of fresh memory are
    else paid once a slice. Much more would break the bound of `--memory`.
    """
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def without_module(name: str) -> Iterator[None]:
    """What is imported inside takes a package that it can do without for missing, unless it is there already."""
    is_hidden = sys.modules.setdefault(name, None) is None  # type: ignore[arg-type]
    try:
        yield
    finally:
        if is_hidden:
            del sys.modules[name]


def rss_mb() -> float:
    """Resident memory of this process, in MB (10^6 bytes); 0 where the kernel does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def is_supervised() -> bool:
    return PARENT_PID in os.environ


def is_confined() -> bool:
    """Whether it may read only what the service may read."""
    return is_supervised() and WORKER not in os.environ


def end_with_parent() -> None:
    """Where a service started this process: get SIGTERM when it dies. Stopped if it is dead already."""
    if not is_supervised():
        return
    _take_pipe()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.environ[PARENT_PID] != str(os.getppid()):
        raise Stopped("The service that wanted this run is gone; its successor goes on.")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run ended as it did: a sentence, and the class of the error."""

    reason: str
    kind: str = ""


def tell(event: str, content: Mapping[str, Any]) -> None:
    """Tell the service an event, as a line of JSON with its time. Nothing where there is no service that listens."""
    if not _pipe:
        return
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    line = memoryview(json.dumps({**content, "event": event, "timestamp": now}).encode() + b"\n")
    with suppress(OSError):
        while line:
            line = line[os.write(_pipe[0], line) :]


def _take_pipe() -> None:
    number = os.environ.pop(EVENTS_FD, None)
    if number is None:
        return
    try:
        fd = int(number)
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ValueError("no socket")
        os.set_inheritable(fd, False)
    except (ValueError, OSError):
        raise ConfigurationError(f"{EVENTS_FD} is set by the service for its runs; do not set it.") from None
    _pipe.append(fd)
