"""Standard streams, which may be closed, full, or read by nobody: what is said there must not end a run."""

import os
import sys
from typing import TextIO


class Stderr:
    """What cannot be written is dropped, and so is all that follows."""

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # the latter of one that is closed
            discard(sys.stderr)

    def flush(self) -> None:
        """Each write is one."""


def open_all() -> None:
    """Let standard streams that this process was started without lead nowhere.

    Otherwise the next file that is opened, a database for example, gets the number of one, and with it what is said.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as we live


def discard(stream: TextIO) -> None:
    """Let what a stream holds go nowhere: at its exit Python would try to write it once more, and fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
