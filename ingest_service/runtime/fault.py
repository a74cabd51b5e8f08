"""Named places where a crash test ends this process, as kill -9 would.

Passing one costs a comparison, unless the environment says otherwise: INGEST_TEST_FAULT_POINT=name:n ends the process
when it passes that place for the n-th time, and INGEST_TEST_JOURNAL names a file in which each passing is noted, as
`time name sink start end` (monotonic seconds; the rows that it is about), and such an end as one of `KILLED`. What was
noted survives the kill. Workers inherit both: each counts for itself, and all write into one file.
"""

import os
import signal
import time
from collections.abc import Mapping
from itertools import count

KILLED = "killed"
POINTS: dict[str, str] = {}  # what is so at each; those of the modules that are imported

_NAME, _, _times = os.environ.get("INGEST_TEST_FAULT_POINT", "").partition(":")
_JOURNAL = os.environ.get("INGEST_TEST_JOURNAL", "")
_ARMED = bool(_NAME or _JOURNAL)
_times_left = count(int(_times or 1) - 1, -1)
_journal = os.open(_JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if _JOURNAL else -1


def declare(points: Mapping[str, str]) -> None:
    """A module says which places it has."""
    POINTS.update(points)


def point(name: str, sink: str = "-", start: int = 0, end: int = 0) -> None:
    """Pass the place `name`; rows [start, end) of the source are what it is about."""
    if _ARMED:
        _pass(name, sink, start, end)


def _pass(name: str, sink: str, start: int, end: int) -> None:
    _note(name, sink, start, end)
    if name == _NAME and next(_times_left) == 0:
        _note(KILLED, sink, start, end)
        os.kill(os.getpid(), signal.SIGKILL)


def _note(name: str, sink: str, start: int, end: int) -> None:
    if _journal >= 0:
        os.write(_journal, f"{time.monotonic():.6f} {name} {sink} {start} {end}\n".encode())
