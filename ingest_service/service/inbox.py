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
from ingest_service.service.desk import Desk
from ingest_service.service.places import MARKER, File, Place, place_at
from ingest_service.service.runs import Run

LOOK_EVERY_S = 1.0
_LONGEST_WAIT_S = 60.0
DONE_MARKER = ".done"
_WATCHED_FOR = 60  # times `stable_s`, after it was moved
_UNFINISHED = (".part", ".tmp", DONE_MARKER, MARKER)


@dataclass(slots=True)
class Seen:
    """A file as it was at the last looks: since when it has not changed, and the run that it became."""

    version: str
    since: float = field(default_factory=time.monotonic)
    run: int | None = None
    was_done: bool = False  # when it was announced
    over: bool = False  # nothing is left to do about it


@dataclass(frozen=True, slots=True)
class Moved:
    """A file that was moved, and what it was then."""

    version: str
    to: str
    at: float = field(default_factory=time.monotonic)


class Inbox:
    """One inbox of the configuration."""

    def __init__(self, settings: InboxSettings, desk: Desk) -> None:
        self.name = settings.name
        self._settings = settings
        self._desk = desk
        self._place: Place = place_at(settings.url)
        self._seen: dict[str, Seen] = {}
        self._moved: dict[str, Moved] = {}
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
            except Exception as error:  # one inbox is no reason to end all that the service does
                self._log.error("inbox cannot be looked at", error=type(error).__qualname__)
                wait_s, self.failing = min(_LONGEST_WAIT_S, 2 * wait_s), True
            await asyncio.sleep(wait_s)

    async def look(self) -> None:
        """Announce what is complete, and move or mark what is loaded."""
        await self._bring_back()
        found = await self._place.files()
        wanted = {name: file for name, file in found.items() if is_taken(name, self._settings.pattern)}
        self._seen = {name: seen for name, seen in self._seen.items() if name in wanted}
        for name, file in wanted.items():
            seen = self._seen.get(name)
            if seen is None or seen.version != file.version:
                seen = self._seen[name] = Seen(file.version)
            if seen.run is None and not seen.over and self._is_complete(name, seen, found):
                await self._announce(name, seen)
        waiting = {name: seen.run for name, seen in self._seen.items() if seen.run is not None and not seen.over}
        if waiting:
            done = await self._desk.runs.look(self._desk.runs.done_among, list(waiting.values()))
            for name, number in waiting.items():
                if number in done:
                    await self._finish(name, done[number], found)

    async def _bring_back(self) -> None:
        """A file that was taken for complete, and written on where it was moved to, is loaded to its end."""
        patience_s = _WATCHED_FOR * self._settings.stable_s
        for name, moved in list(self._moved.items()):
            if time.monotonic() - moved.at > patience_s:
                del self._moved[name]
            elif await self._place.bring_back(name, moved.version, moved.to):
                del self._moved[name]
                self._log.warning("file brought back", file=name, reason="It was written on after it was moved.")

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
        except IngestError:
            raise
        except Exception as error:  # the others are to be looked at all the same
            seen.over = True
            self._log.error("file refused", file=name, error=type(error).__qualname__)
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
            to = _name_when_done(name, run)
            is_guess = self._settings.complete == "stable"  # its writer may only have paused
            if is_guess and await self._place.is_being_written(name):
                return  # what else is written makes it another version, which is announced
            if not await self._place.move(name, seen.version, to):
                return  # another file has come in its place
            if is_guess:
                self._moved[name] = Moved(seen.version, to)
            if name + DONE_MARKER in found:
                await self._place.remove(name + DONE_MARKER)
        seen.over = True


def is_taken(name: str, pattern: str) -> bool:
    """Whether an inbox loads files of this name: others are hidden, not finished, or none of its pattern."""
    is_unfinished = name.startswith(".") or name.endswith(_UNFINISHED)
    return not is_unfinished and fnmatch.fnmatchcase(name, pattern)


def _name_when_done(name: str, run: Run) -> str:
    """A name of its own, and the same one after a crash."""
    return f"{run.created_at[:19].replace('-', '').replace(':', '')}-{run.id}-{name}"
