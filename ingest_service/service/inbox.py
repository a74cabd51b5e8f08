"""Inboxes: places that files are put into, each loaded once when it is complete, then moved or marked as configured.

A look at an inbox has no memory that matters: what was announced is known by the store, and what its run has done is
moved or marked at one of the next looks. So a crash at any moment neither loses a file nor loads it twice.
"""

import asyncio
import fnmatch
import time
from dataclasses import dataclass, field
from typing import Literal

import structlog

from ingest_service.config import InboxSettings
from ingest_service.errors import ConfigurationError, IngestError, SourceNotFound, UsageError
from ingest_service.runtime.threads import finish_in_thread
from ingest_service.service.desk import Desk
from ingest_service.service.places import MARKER, File, Place, place_at
from ingest_service.service.runs import Run

LOOK_EVERY_S = 1.0
_LONGEST_WAIT_S = 60.0
DONE_MARKER = ".done"
_UNFINISHED = (".part", ".tmp", DONE_MARKER, MARKER)


@dataclass(slots=True)
class Seen:
    """A file as it was at the last looks: since when it has not changed, and the run that it became."""

    version: str
    since: float = field(default_factory=time.monotonic)
    run: int | None = None
    was_done: bool = False  # when it was announced
    over: bool = False  # nothing is left to do about it


class Inbox:
    """One inbox of the configuration."""

    def __init__(self, settings: InboxSettings, desk: Desk) -> None:
        self.name = settings.name
        self._settings = settings
        self._desk = desk
        self._place: Place = place_at(settings.url)
        self._seen: dict[str, Seen] = {}
        self._log = structlog.get_logger().bind(inbox=settings.name)
        self.failing = False

    async def watch(self) -> None:
        """Look again and again. Where the place cannot be read, ever more rarely, until it can."""
        wait_s = LOOK_EVERY_S
        while True:
            try:
                await self.look()
                wait_s, self.failing = LOOK_EVERY_S, False
            except IngestError as error:
                if not self.failing:
                    self._log.warning("inbox cannot be read", reason=str(error))
                wait_s, self.failing = min(_LONGEST_WAIT_S, 2 * wait_s), True
            await asyncio.sleep(wait_s)

    async def look(self) -> None:
        """Announce what is complete, and move or mark what is loaded."""
        found = await self._place.files()
        wanted = {name: file for name, file in found.items() if self._is_wanted(name)}
        self._seen = {name: seen for name, seen in self._seen.items() if name in wanted}
        for name, file in wanted.items():
            seen = self._seen.get(name)
            if seen is None or seen.version != file.version:
                seen = self._seen[name] = Seen(file.version)
            if seen.run is None and not seen.over and self._is_complete(name, seen, found):
                await self._announce(name, seen)
        waiting = {name: seen.run for name, seen in self._seen.items() if seen.run is not None and not seen.over}
        if waiting:
            done = await finish_in_thread(self._desk.runs.done_among, list(waiting.values()))
            for name, number in waiting.items():
                if number in done:
                    await self._finish(name, done[number], found)

    def _is_wanted(self, name: str) -> bool:
        unfinished = name.startswith(".") or name.endswith(_UNFINISHED)
        return not unfinished and fnmatch.fnmatchcase(name, self._settings.pattern)

    def _is_complete(self, name: str, seen: Seen, found: dict[str, File]) -> bool:
        complete: Literal["stable", "done-marker", "rename"] = self._settings.complete
        if complete == "stable":
            return time.monotonic() - seen.since >= self._settings.stable_s
        if complete == "rename":
            return True
        marker = found.get(name + DONE_MARKER)
        return marker is not None and marker.changed_s >= found[name].changed_s  # else it is about an earlier file

    async def _announce(self, name: str, seen: Seen) -> None:
        try:
            run, is_new = await self._desk.load(
                self._place.source(name),
                sinks=self._settings.sinks,
                dataset=self._settings.dataset,
                origin=f"inbox:{self._settings.name}",
            )
        except SourceNotFound:
            return  # gone since
        except (ConfigurationError, UsageError) as error:
            seen.over = True  # until it is another file; what may pass ends this look, and the next one tries again
            self._log.warning("file refused", file=name, reason=str(error))
            return
        seen.run, seen.was_done = run.number, run.state == "done"
        if is_new:
            self._log.info("file announced", file=name, run=run.id)

    async def _finish(self, name: str, run: Run, found: dict[str, File]) -> None:
        """What is to be done with a file whose run is done. One that failed stays, and can be tried again."""
        seen = self._seen[name]
        if self._settings.afterwards == "marker" and not (seen.was_done and name + MARKER in found):
            await self._place.mark(name, run)
        if self._settings.afterwards == "move":
            if not await self._place.move(name, seen.version, _name_when_done(name, run)):
                return  # another file has come in its place
            if name + DONE_MARKER in found:
                await self._place.remove(name + DONE_MARKER)
        seen.over = True


def _name_when_done(name: str, run: Run) -> str:
    """A name of its own, and the same one after a crash."""
    return f"{run.created_at[:19].replace('-', '').replace(':', '')}-{run.id}-{name}"
