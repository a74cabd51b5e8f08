"""Where a command shows how far it is: on a terminal, as lines of JSON, to the service that wanted it, or nowhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import structlog

from ingest_service.pipeline.load import State
from ingest_service.pipeline.progress import Event, Meter, Progress, StepProgress
from ingest_service.pipeline.report import MANY, StreamReport
from ingest_service.runtime.escaped import escaped
from ingest_service.runtime.process import is_supervised, tell
from ingest_service.telemetry.stderr import Stderr

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Listener: TypeAlias = Callable[[Event], None]  # is called with every `progress` and `report` of a stream


class Show:
    """Nowhere: for scripts. What is not given a method of its own is not shown."""

    every_s = 1.0  # how often it likes to be told

    def progress(self, event: Progress) -> None:
        """How far a stream is."""

    def report(self, report: StreamReport) -> None:
        """What became of a stream."""

    def warning(self, sink: str, text: str) -> None:
        """What the user of a run should know of a sink before a row is sent."""

    def stepped(self, event: StepProgress) -> None:
        """How far a step is that is no stream of rows."""

    def counted(self, command: str, numbers: dict[str, object]) -> None:
        """How far a command is that has numbers of its own."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator["Step"]:
        step = Step(self, name, total, unit)
        yield step
        self.stepped(step.measured())

    def counter(self, command: str) -> Callable[..., None]:
        """Called with numbers as often as one likes; shows them at most once a second."""
        next_s = time.monotonic()

        def count(**numbers: object) -> None:
            nonlocal next_s
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + 1.0
                self.counted(command, numbers)

        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave a clean line behind."""


class Log(Show):
    """One JSON object a line on stderr."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def progress(self, event: Progress) -> None:
        self._log.info("progress", **event.as_json())

    def report(self, report: StreamReport) -> None:
        self._log.info("report", **report.as_json())

    def warning(self, sink: str, text: str) -> None:
        self._log.warning("sink", sink=sink, reason=text)

    def stepped(self, event: StepProgress) -> None:
        self._log.info("progress", **event.as_json())

    def counted(self, command: str, numbers: dict[str, object]) -> None:
        self._log.info(command, **numbers)


class Told(Log):
    """The same events, told to the service that wanted the run; it has no use for other numbers."""

    def progress(self, event: Progress) -> None:
        tell("progress", event.as_json())

    def report(self, report: StreamReport) -> None:
        tell("report", report.as_json())

    def stepped(self, event: StepProgress) -> None:
        tell("progress", event.as_json())

    def counted(self, command: str, numbers: dict[str, object]) -> None:
        pass


class Terminal(Show):
    """A bar on stderr for each stream and step, or one for many streams; one line, overwritten, for other numbers."""

    every_s = 0.2

    def __init__(self, n_streams: int = 1) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: Bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%"),
            TextColumn("{task.fields[done]} {task.fields[unit]}  {task.fields[rate]} {task.fields[unit]}/s"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self._tasks: dict[str, Any] = {}
        self._has_line = False
        self._n_streams = n_streams
        self._n_ended = self._rows_ended = 0

    def progress(self, event: Progress) -> None:
        self._stream(event.source, event.percent, event.rows_read, event.rows_per_s)

    def report(self, report: StreamReport) -> None:
        read = max((sink.counts.read for sink in report.sinks.values()), default=0)
        self._n_ended += 1
        self._rows_ended += read
        is_one_of_many = self._n_streams > MANY
        percent = 0.0 if is_one_of_many else 100.0 if report.complete else None
        self._stream(report.source, percent, 0 if is_one_of_many else read, report.rows_per_s)

    def _stream(self, source: str, percent: float | None, rows: int, rows_per_s: float) -> None:
        name = escaped(source.rpartition("/")[2])
        if self._n_streams <= MANY:
            self._update(source, name, percent, rows, rows_per_s, "rows")
            return
        share = (self._n_ended + (percent or 0.0) / 100) / self._n_streams
        text = f"{self._n_ended:,} of {self._n_streams:,} files  {name}"
        self._update("all", text, round(100 * share, 1), self._rows_ended + rows, rows_per_s, "rows")

    def warning(self, sink: str, text: str) -> None:
        self._bars.console.print(f"Warning: {sink}: {text}", markup=False, highlight=False, soft_wrap=True)

    def stepped(self, event: StepProgress) -> None:
        self._update(
            event.step, escaped(event.step.rpartition("/")[2]), event.percent, event.done, event.per_s, event.unit
        )

    def counted(self, command: str, numbers: dict[str, object]) -> None:
        text = "  ".join(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}"
                         for name, value in numbers.items())  # fmt: skip
        self._has_line = True
        Stderr().write(f"\r\x1b[K{command}  {escaped(text)}")

    def _update(self, name: str, text: str, percent: float | None, done: int, per_s: float, unit: str) -> None:
        shown: dict[str, Any] = {"done": f"{done:,}", "rate": f"{per_s:,.0f}", "unit": unit}
        if name not in self._tasks:
            self._bars.start()
            self._tasks[name] = self._bars.add_task(text, total=100, **shown)
        self._bars.update(self._tasks[name], description=text, completed=percent, **shown)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()
        if self._has_line:
            Stderr().write("\r\x1b[K")


class Step:
    """One step of so many units. May be advanced from another thread."""

    def __init__(self, show: Show, name: str, total: int, unit: str) -> None:
        self._show = show
        self._name = name
        self._total = total
        self._unit = unit
        self._done = 0
        self._started = time.monotonic()
        self._next = 0.0

    def advance(self, n: int) -> None:
        self._done += n
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._show.every_s
            self._show.stepped(self.measured())

    def measured(self) -> StepProgress:
        elapsed_s = time.monotonic() - self._started
        per_s = self._done / elapsed_s if elapsed_s else 0.0
        left = max(0, self._total - self._done)
        percent = round(100 * self._done / self._total, 1) if self._total else None
        eta_s = round(left / per_s, 1) if per_s else None
        return StepProgress(self._name, self._unit, self._done, self._total, percent, round(per_s), eta_s)


class RunObserver:
    """Makes events of the state of a run, for one show and for the listeners."""

    def __init__(self, show: Show, listeners: Sequence[Listener] = ()) -> None:
        self.every_s = show.every_s
        self.warning = show.warning
        self._show = show
        self._listeners = listeners
        self._meters: dict[str, Meter] = {}

    def progress(self, state: State) -> None:
        self.told(self._meters.setdefault(state.job.stream, Meter()).measure(state))

    def told(self, event: Progress) -> None:
        """An event that was made of a state, here or by a worker."""
        for listener in self._listeners:
            listener(event)
        self._show.progress(event)

    def report(self, report: StreamReport) -> None:
        for listener in self._listeners:
            listener(report)
        self._show.report(report)


def show_on_stderr(n_streams: int = 1) -> Show:
    """What suits stderr, or the service that listens."""
    if is_supervised():
        return Told()
    return Terminal(n_streams) if sys.stderr.isatty() else Log()
