"""What happens now: the last progress of each running run, and those who watch."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi.sse import format_sse_event

from ingest_service.service.runs import Run

MAX_WATCHERS = 256
_QUEUED_EVENTS = 256  # some minutes of one run; who is further behind is dropped


@dataclass(eq=False, slots=True)
class Watcher:
    """One who watches: the events of one run, or of all. Its queue ends with None."""

    number: int | None
    events: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_QUEUED_EVENTS))

    def offer(self, event: bytes) -> None:
        """Never waits: a watcher that is too slow gets nothing more, and is told to come again."""
        try:
            self.events.put_nowait(event)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        while not self.events.empty():
            self.events.get_nowait()
        self.events.put_nowait(None)


class Live:
    """Made and used on the event loop alone."""

    def __init__(self, most: int = MAX_WATCHERS) -> None:
        self._most = most
        self.progress: dict[int, dict[str, Any]] = {}
        self._attempts: dict[int, int] = {}  # of what is running
        self._watchers: set[Watcher] = set()

    @property
    def is_full(self) -> bool:
        return len(self._watchers) >= self._most

    @contextmanager
    def watch(self, number: int | None) -> Iterator[Watcher]:
        watcher = Watcher(number)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def changed(self, run: Run) -> None:
        """A run has another state."""
        if run.state == "queued" and run.attempt < self._attempts.get(run.number, 0):
            return  # it is running already: a worker was faster than who queued it
        if run.state == "running":
            self._attempts[run.number] = run.attempt
        else:
            self._attempts.pop(run.number, None)
            self.progress.pop(run.number, None)
        self._tell(run.number, run_event(run, self.progress.get(run.number)))

    def progressed(self, number: int, event: dict[str, Any]) -> None:
        self.progress[number] = event
        self._tell(number, progress_event(number, event))

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.end()

    def _tell(self, number: int, event: bytes) -> None:
        for watcher in self._watchers:
            if watcher.number in (None, number):
                watcher.offer(event)


def run_event(run: Run, progress: Mapping[str, Any] | None) -> bytes:
    return format_sse_event(event="run", data_str=json.dumps(run.as_json(progress)))


def progress_event(number: int, event: Mapping[str, Any]) -> bytes:
    return format_sse_event(event="progress", data_str=json.dumps({"run": str(number), **event}))
