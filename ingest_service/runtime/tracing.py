"""Spans: what a run did, and when. Off unless OpenTelemetry's own variables name a collector; then they cost nothing.

    with span("write", sink="redis", rows=8_000) as writing:
        ...
        writing.set(merged=3)

Attributes are names and numbers, never a row or an error's text; a span that failed has the error's class.
"""

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"


class Span:
    """What `span` gives where nothing is traced."""

    __slots__ = ()

    def set(self, **attributes: str | int) -> None:
        """Add what is known by now."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The error passes on."""


_OFF = Span()
begin: Callable[[str, Mapping[str, str | int]], Span] | None = None  # otlp.py sets it while it sends spans


def span(name: str, **attributes: str | int) -> Span:
    """A part of the run; those that begin in it, also in tasks and threads that it starts, are its children."""
    return _OFF if begin is None else begin(name, attributes)


def is_wanted() -> bool:
    """Whether the environment names a collector."""
    return any(os.environ.get(name) for name in (ENDPOINT, TRACES_ENDPOINT, METRICS_ENDPOINT))
