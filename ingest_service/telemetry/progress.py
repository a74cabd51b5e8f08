"""Who watches a run: a progress bar on a terminal, JSON events elsewhere; and who else takes in its events."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog

from ingest_service.pipeline.load import State
from ingest_service.pipeline.progress import Meter
from ingest_service.pipeline.report import StreamReport
from ingest_service.runtime.escaped import escaped
from ingest_service.runtime.process import is_supervised, tell
from ingest_service.telemetry.logs import warn_of_sink

Listener = Callable[[Mapping[str, Any]], None]  # is called with every `progress` and `report` event


class RunObserver(ABC):
    """Makes the events `progress` and `report` of what it is shown, and passes them on to the listeners."""

    every_s: float

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = listeners
        self._meters: dict[str, Meter] = {}

    @abstractmethod
    def warning(self, sink: str, text: str) -> None: ...

    def progress(self, state: State) -> None:
        event = self._meters.setdefault(state.job.stream, Meter()).measure(state)
        for listener in self._listeners:
            listener(event)
        self._show_progress(event)

    def report(self, report: StreamReport) -> None:
        for listener in self._listeners:
            listener(report.as_json())
        self._show_report(report)

    @abstractmethod
    def _show_progress(self, event: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _show_report(self, report: StreamReport) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class JsonObserver(RunObserver):
    """One JSON object a second on stderr, and one with the report at the end."""

    every_s = 1.0

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        super().__init__(listeners)
        self._log = structlog.get_logger()

    def warning(self, sink: str, text: str) -> None:
        warn_of_sink(sink, text)

    def _show_progress(self, event: Mapping[str, Any]) -> None:
        self._log.info("progress", **event)

    def _show_report(self, report: StreamReport) -> None:
        self._log.info("report", **report.as_json())


class ToldObserver(JsonObserver):
    """The same events, told to the service that wanted the run."""

    def _show_progress(self, event: Mapping[str, Any]) -> None:
        tell("progress", event)

    def _show_report(self, report: StreamReport) -> None:
        tell("report", report.as_json())


class BarObserver(RunObserver):
    """A progress bar on stderr, a line a source."""

    every_s = 0.2

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(listeners)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%"),
            TextColumn("{task.fields[rows]} rows  {task.fields[rate]} rows/s"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self._tasks: dict[str, Any] = {}

    def warning(self, sink: str, text: str) -> None:
        self._progress.console.print(f"Warning: {sink}: {text}", markup=False, highlight=False, soft_wrap=True)

    def _show_progress(self, event: Mapping[str, Any]) -> None:
        self._update(
            event["source"],
            event["percent"],
            rows=f"{event['rows_read']:,}",
            rate=f"{event['rows_per_s']:,}",
        )

    def _show_report(self, report: StreamReport) -> None:
        read = max((sink.counts.read for sink in report.sinks.values()), default=0)
        percent = 100.0 if report.complete else None
        self._update(report.source, percent, rows=f"{read:,}", rate=f"{report.rows_per_s:,.0f}")

    def _update(self, source: str, percent: float | None, *, rows: str, rate: str) -> None:
        name = escaped(source.rpartition("/")[2])
        if source not in self._tasks:
            self._tasks[source] = self._progress.add_task(name, total=100, rows=rows, rate=rate)
        self._progress.update(self._tasks[source], completed=percent, rows=rows, rate=rate)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


def observer_on_stderr(listeners: Sequence[Listener]) -> RunObserver:
    """What suits stderr, or the service that listens."""
    if is_supervised():
        return ToldObserver(listeners)
    return BarObserver(listeners) if sys.stderr.isatty() else JsonObserver(listeners)
