"""How far a long command is, once a second on stderr: one line that is overwritten on a terminal, else JSON."""

import sys
import time
from types import TracebackType
from typing import Self

import structlog

from ingest_service.runtime.escaped import escaped
from ingest_service.runtime.process import is_supervised
from ingest_service.telemetry.stderr import Stderr

EVERY_S = 1.0


class Ticker:
    """Called as often as one likes; says something at most once a second."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._log = structlog.get_logger()
        self._next = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, **numbers: object) -> None:
        if time.monotonic() < self._next or is_supervised():  # a service has no use for it
            return
        self._next = time.monotonic() + EVERY_S
        if self._is_terminal:
            text = "  ".join(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}"
                             for name, value in numbers.items())  # fmt: skip
            Stderr().write(f"\r\x1b[K{self._event}  {escaped(text)}")
        else:
            self._log.info(self._event, **numbers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave a clean line behind."""
        if self._is_terminal:
            Stderr().write("\r\x1b[K")
