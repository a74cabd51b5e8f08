"""A run that belongs to a service: it ends with the service, however that ends, and tells it how it stands.

What it tells goes over a pipe of its own, which only this module writes to: its log may quote names that others chose.
"""

import ctypes
import json
import os
import signal
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ingest_service.errors import ConfigurationError, Stopped

PARENT_PID = "INGEST_PARENT_PID"  # in the environment: the service tells its runs whose they are
EVENTS_FD = "INGEST_EVENTS_FD"  # the pipe's number; not in the environment of what a run starts
_PR_SET_PDEATHSIG = 1  # prctl(2)
_pipe: list[int] = []  # its descriptor, where there is one


def is_supervised() -> bool:
    return PARENT_PID in os.environ


def end_with_parent() -> None:
    """Where a service started this process: get SIGTERM when it dies. Stopped if it is dead already."""
    if not is_supervised():
        return
    _take_pipe()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.environ[PARENT_PID] != str(os.getppid()):
        raise Stopped("The service that wanted this run is gone; its successor goes on.")


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
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise ValueError("no pipe")
        os.set_inheritable(fd, False)
    except (ValueError, OSError):
        raise ConfigurationError(f"{EVENTS_FD} is set by the service for its runs; do not set it.") from None
    _pipe.append(fd)
