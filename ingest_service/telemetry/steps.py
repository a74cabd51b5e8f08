"""How far a step is that is no stream of rows: JSON events once a second, a bar on a terminal, or nothing."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingest_service.runtime.process import is_supervised, tell

_EVERY_S = 1.0


class Progress:
    """One step. May be advanced from another thread."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0
        self.started = time.monotonic()

    def advance(self, n: int) -> None:
        self.done += n

    def measured(self) -> dict[str, Any]:
        elapsed_s = time.monotonic() - self.started
        per_s = self.done / elapsed_s if elapsed_s else 0.0
        left = max(0, self.total - self.done)
        return {
            "step": self.name,
            f"{self.unit}_done": self.done,
            f"{self.unit}_total": self.total,
            "percent": round(100 * self.done / self.total, 1) if self.total else None,
            f"{self.unit}_per_s": round(per_s),
            "eta_s": round(left / per_s, 1) if per_s else None,
        }


class StepProgress:
    """Shows nothing: for scripts and for tests."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[Progress]:
        yield Progress(name, total, unit)


class JsonStepProgress(StepProgress):
    """The event `progress`, once a second, and at the end of the step."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[Progress]:
        class Logged(Progress):
            shown = 0.0

            def advance(self, n: int) -> None:
                super().advance(n)
                if time.monotonic() - self.shown >= _EVERY_S:
                    self.shown = time.monotonic()
                    _say(self.measured())

        progress = Logged(name, total, unit)
        yield progress
        _say(progress.measured())


def _say(event: dict[str, Any]) -> None:
    """To the service that wanted the step, or into the log."""
    if is_supervised():
        tell("progress", event)
        return
    import structlog

    structlog.get_logger().info("progress", **event)


class BarStepProgress(StepProgress):
    """A bar with rate and time left."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[Progress]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        with Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%  {task.completed:,.0f} " + unit + "  {task.fields[rate]}/s"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        ) as bars:
            task = bars.add_task(name, total=total or None, rate="0")

            class Shown(Progress):
                def advance(self, n: int) -> None:
                    super().advance(n)
                    bars.update(task, completed=self.done, rate=f"{self.measured()[f'{unit}_per_s']:,}")

            yield Shown(name, total, unit)


def step_progress() -> StepProgress:
    """What suits stderr."""
    return BarStepProgress() if sys.stderr.isatty() else JsonStepProgress()
