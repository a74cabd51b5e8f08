"""Who watches a run: a progress bar on a terminal, JSON events elsewhere."""

import sys
from types import TracebackType
from typing import Any, Self

import structlog

from ingest_service.pipeline import State
from ingest_service.report import StreamReport
from ingest_service.telemetry.metrics import Meter


class JsonObserver:
    """One JSON object a second on stderr, and one with the report at the end."""

    every_s = 1.0

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        self._meters: dict[str, Meter] = {}

    def progress(self, state: State) -> None:
        meter = self._meters.setdefault(state.job.stream, Meter())
        self._log.info("progress", **meter.measure(state))

    def report(self, report: StreamReport) -> None:
        self._log.info("report", **report.as_json())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class BarObserver:
    """A progress bar on stderr, a line a source."""

    every_s = 0.2

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%"),
            TextColumn("{task.fields[rows]} rows  {task.fields[rate]} rows/s"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self._meters: dict[str, Meter] = {}
        self._tasks: dict[str, Any] = {}

    def progress(self, state: State) -> None:
        meter = self._meters.setdefault(state.job.stream, Meter())
        numbers = meter.measure(state)
        self._update(
            state.job.source.uri,
            numbers["percent"],
            rows=f"{numbers['rows_read']:,}",
            rate=f"{numbers['rows_per_s']:,}",
        )

    def report(self, report: StreamReport) -> None:
        read = max((sink.counts.read for sink in report.sinks.values()), default=0)
        percent = 100.0 if report.complete else None
        self._update(report.source, percent, rows=f"{read:,}", rate=f"{report.rows_per_s:,.0f}")

    def _update(self, source: str, percent: float | None, *, rows: str, rate: str) -> None:
        name = source.rpartition("/")[2]
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
