"""How a process is asked to stop."""

import asyncio
import os
import signal

from ingest_service.errors import Stopped

_SAME_S = 0.1  # timeout(1) and others signal a process, and then its group with the process in it


def stop_on_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets, to drain; the second ends the process at once, with 75.

    Those that come together count as one.
    """
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
