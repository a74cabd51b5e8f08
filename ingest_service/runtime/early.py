"""What a process does first, before it imports what takes long."""

import os
import signal
from contextlib import suppress

from ingest_service.errors import Stopped

_SAID = b"ingest-service: Stopped on request before anything was begun; run the same command again.\n"


def stop_at_once() -> None:
    """Until a command knows better, SIGTERM and SIGINT end the process with 75.

    The first process of a container gets no signal that it has no handler for, so it would go on as if unasked.
    What a parent has told to be ignored stays so.
    """
    for number, usual in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) == usual:
            signal.signal(number, _end)


def _end(_number: int, _frame: object) -> None:
    with suppress(OSError):
        os.write(2, _SAID)
    os._exit(Stopped.exit_code)
