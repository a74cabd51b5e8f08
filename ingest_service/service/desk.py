"""Where work comes in: from the API, an inbox or the schedule. What is the same work is one run."""

import asyncio
import hashlib
import json
import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ingest_service.audit.chosen import Chosen
from ingest_service.config import Settings
from ingest_service.errors import ConfigurationError, LeaseHeld, SourceNotFound
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.steps import steps
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.service.known_datasets import dataset_asked_for
from ingest_service.service.known_sinks import Sinks
from ingest_service.service.live import Live
from ingest_service.service.runs import LIVE, STATES, Run, Runs, State, Task
from ingest_service.service.waiting import Waiting
from ingest_service.service.workers import Workers
from ingest_service.sources import source_allowed

_KEPT: tuple[State, ...] = ("queued", "running", "done")


@dataclass(frozen=True, slots=True)
class Desk:
    """Turns what is asked for into runs, and says so to those who wait for it."""

    settings: Settings
    runs: Runs
    live: Live
    workers: Workers
    sinks: Sinks
    waiting: Waiting = field(default_factory=Waiting)
    _choosing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(
        self,
        name: str,
        *,
        sinks: Sequence[str] = (),
        dataset: str | None = None,
        limit: int | None = None,
        restart: bool = False,
        origin: str = "api",
        key: str | None = None,
    ) -> tuple[Run, bool]:
        """A run that loads a source, and whether it is a new one. IngestError says what is wrong with it.

        One that failed or was cancelled is not run again because its file still lies in an inbox. What is asked for
        again under one key is the run that it was the first time.
        """
        if origin == "api":
            wanted, dataset = await self.ways(sinks, dataset)
        else:
            wanted, dataset = self.sinks.named(sinks), dataset or self.settings.dataset
            await asyncio.to_thread(self.settings.dataset_named, dataset)
        limit = limit or self.settings.limit
        uri, version = await self._look_at(name)
        task = Task("run", uri, _name_of(uri), wanted, dataset, limit, restart, origin)
        identity = _identity("run", uri, version, wanted, dataset, limit)
        same = () if restart else _KEPT if origin == "api" else STATES
        return await self._announce(task, identity, same, key)

    async def ways(self, sinks: Sequence[str], dataset: str | None) -> tuple[tuple[str, ...], str]:
        """The sinks and the data set that a request means. ConfigurationError if there is no such one."""
        wanted, dataset = self.sinks.named(sinks), dataset or self.settings.dataset
        await asyncio.to_thread(dataset_asked_for, self.settings, dataset)
        return wanted, dataset

    async def source(self, name: str) -> str:
        """The path or URL by which a command is given a source that a request names. IngestError if it is none."""
        return _name_of((await self._look_at(name))[0])

    async def replay(self, stream: str, path: Path, chosen: Chosen) -> tuple[Run, bool]:
        """A run that tries dead letters of a stream again, in the sinks that its last load had.

        LeaseHeld while another one may try the same letter: a new text is not to come after an old one that was stored.
        """
        source = await asyncio.to_thread(_source_of, path)
        last = await self.runs.look(self.runs.newest_of, source)
        sinks = last.task.sinks if last else self.sinks.named(())
        dataset = last.task.dataset if last else self.settings.dataset
        code, letter, text = chosen.code, chosen.letter, chosen.text
        task = Task("replay", source, str(path), sinks, dataset, code=code, letter=letter, text=text)
        async with self._choosing:
            await self._require_alone(source, chosen)
            return await self._announce(task, _identity("replay", stream, code, letter, text), LIVE)

    async def step(self, command: str, origin: str) -> tuple[Run, bool]:
        """A run of a step, unless the last one from there is not over yet."""
        name, step = step_of(command)
        task = Task(name, step, step, origin=origin)
        return await self._announce(task, _identity("step", origin), LIVE)

    async def cancel(self, number: int) -> Run | None:
        before = await self.runs.look(self.runs.get, number)
        run = await self.runs.change(self.runs.cancel, number)
        self.workers.cancel(number)
        if run is not None and before is not None and run.state != before.state:
            self.live.changed(run)
        return run

    async def retry(self, number: int) -> Run | None:
        """LeaseHeld as of `replay`."""
        async with self._choosing:
            before = await self.runs.look(self.runs.get, number)
            if before is not None and before.task.kind == "replay":
                await self._require_alone(before.task.source, _chosen_by(before.task))
            run = await self.runs.change(self.runs.retry, number)
        if run is not None and run.state == "queued":
            self.live.changed(run)
            self.workers.wake()
        return run

    async def _require_alone(self, source: str, chosen: Chosen) -> None:
        for run in await self.runs.look(self.runs.replays_of, source):
            other = _chosen_by(run.task)
            if chosen != other and chosen.meets(other):
                raise LeaseHeld(f"Run {run.id} tries these dead letters; wait for its end, then ask again.")

    async def _look_at(self, name: str) -> tuple[str, str]:
        """The canonical address of a source, and its version now."""

        def look() -> tuple[str, str]:
            source = source_allowed(name, self.settings.allowed())
            return source.uri, source.version()

        return await (self.waiting.call(look) if "://" in name else finish_in_thread(look))

    async def _announce(
        self, task: Task, identity: str, same: Collection[State], key: str | None = None
    ) -> tuple[Run, bool]:
        run, is_new = await self.runs.change(self.runs.announce, task, identity, same, key)
        if is_new:
            self.live.changed(run)
            self.workers.wake()
        return run, is_new


def step_of(command: str) -> tuple[str, str]:
    """The name of the steps and what follows it. ConfigurationError if it is no such step."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    known = [(name, step) for name, one in steps().items() for step in one.commands]
    if tuple(words[:2]) not in known:
        names = ", ".join(" ".join(one) for one in known)
        raise ConfigurationError(f"A schedule cannot run {command!r}; it runs: {names}.")
    return words[0], shlex.join(words[1:])


def _chosen_by(task: Task) -> Chosen:
    return Chosen(task.code, task.letter, task.text)


def _identity(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _name_of(uri: str) -> str:
    """The path or URL by which a run is given a source."""
    if not uri.startswith("file://"):
        return uri
    path, mark, member = uri.removeprefix("file://").partition("#")
    return os.fsdecode(unquote_to_bytes(path)) + mark + member


def _source_of(path: Path) -> str:
    """The source that the letters in a file are of. Blocks."""
    for letter in dead_letter.read(path):
        source: str = letter["source"]
        return source
    raise SourceNotFound("The stream has no dead letters.")
