"""Logs on stderr: JSON, one object a line; readable lines where stderr is a terminal."""

import logging
import sys
from typing import TextIO, cast

from ingest_service.runtime.escaped import all_escaped
from ingest_service.runtime.process import without_module
from ingest_service.telemetry.stderr import Stderr

with without_module("rich"):  # a tenth of a start, for tracebacks that nobody is shown
    import structlog


def _escape(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Names of files and texts of servers stand in it, and somebody looks at it on a terminal."""
    return {key: all_escaped(value) for key, value in event.items()}


def configure(level: str) -> None:
    """Set up structlog once for the process. `level` is a name such as INFO."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _escape,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", Stderr())),
    )
