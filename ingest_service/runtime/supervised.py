"""A run that belongs to a service: it ends with the service, however that ends."""

import ctypes
import os
import signal
import sys

from ingest_service.errors import Stopped

PARENT_PID = "INGEST_PARENT_PID"  # in the environment: the service tells its runs whose they are
_PR_SET_PDEATHSIG = 1  # prctl(2)


def is_supervised() -> bool:
    return PARENT_PID in os.environ


def end_with_parent() -> None:
    """Where a service started this process: get SIGTERM when it dies. Stopped if it is dead already."""
    if not is_supervised():
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(os.environ[PARENT_PID]):
        raise Stopped("The service that wanted this run is gone; its successor goes on.")
