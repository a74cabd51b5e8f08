"""Standard error, where nobody may be reading any more, or a disk be full: what is said there must not end a run."""

import os
import sys
from typing import TextIO


class Stderr:
    """What cannot be written is dropped, and so is all that follows."""

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            discard(sys.stderr)

    def flush(self) -> None:
        """Each write is one."""


def discard(stream: TextIO) -> None:
    """Let what a stream holds go nowhere: at its exit Python would try to write it once more, and fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
