"""From settings to a run: opens the sinks once and loads one source after the other."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from ingest_service.config import Settings, load_settings, stream_named
from ingest_service.datasets.base import Dataset
from ingest_service.errors import GO_ON, ConfigurationError, IngestError, LeaseHeld, Stopped, UsageError
from ingest_service.formats.memory import block_bytes_within
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.load import Observer, State, load
from ingest_service.pipeline.mirror import Mirror
from ingest_service.pipeline.rejects import RejectLimit
from ingest_service.pipeline.report import Report, StreamReport
from ingest_service.pipeline.shards import Found, divide, found_of, load_shards
from ingest_service.runtime.process import give_back_memory, is_confined
from ingest_service.runtime.tasks import task_group
from ingest_service.runtime.tracing import span
from ingest_service.sinks.abilities import Probed
from ingest_service.sinks.base import AnySink, Finding
from ingest_service.sinks.items import about_items
from ingest_service.sinks.urls import shared_by, sink_at
from ingest_service.sources import source_allowed, sources_named
from ingest_service.sources.base import Source

EXAMINE_S = 5.0
DRAIN_S = 7.0  # how long a run goes on after a stop, at most; a container has 8 to 10 seconds
_AGAIN_S = 1.0  # between looks at sources that other workers hold, at most
_CLOSING_S = 2.0  # how much of that is left for leases and connections once chunks in flight are given up


class Silent:
    """An observer that looks away: for scripts."""

    every_s = 3_600.0

    def warning(self, sink: str, text: str) -> None:
        pass

    def progress(self, state: State) -> None:
        pass

    def report(self, report: StreamReport) -> None:
        pass


def sinks_of(urls: Sequence[str], dataset: Dataset | None = None) -> list[AnySink]:
    """The sinks at these URLs for records of the data set, by default interactions; not yet open.

    ConfigurationError if two have one name, or one cannot hold such records.
    """
    sinks = [sink_at(url) for url in urls]
    names = [sink.name for sink in sinks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigurationError(f"Two sinks are named {twice.pop()!r}; tell them apart with ?name=… in one URL.")
    return [about_items(sink) for sink in sinks] if dataset is not None and dataset.schema.is_about_items else sinks


@asynccontextmanager
async def opened(sinks: Sequence[AnySink]) -> AsyncIterator[None]:
    """The sinks, open inside and closed after: side by side, since each may be one that has fallen silent."""
    try:
        for sink in sinks:
            with span("open sink", sink=sink.name):
                await sink.open()
        yield
    finally:
        async with task_group() as closing:
            for sink in sinks:
                closing.create_task(sink.close())


async def examine(sink: AnySink, dataset: Dataset | None = None, *, create: bool = False) -> list[Finding]:
    """What `check` finds out about a sink, within a short budget, and what it makes of a data set's records.

    The sink is closed afterwards.
    """
    sink.retrier.budget_s = min(sink.retrier.budget_s, EXAMINE_S)
    try:
        if isinstance(sink, Probed):
            findings = await sink.check(create=create)
        else:
            await sink.open()
            findings = [Finding("connection", True, "can be opened")]
        if dataset is not None and all(finding.ok for finding in findings):
            findings = findings + await sink.survey(dataset.shape)
        return findings
    except IngestError as error:
        return [Finding("connection", False, str(error))]
    finally:
        await sink.close()


def examine_source(name: str, settings: Settings) -> Finding:
    """Whether a source can be opened and its header understood. Blocks."""
    try:
        for job in jobs_of([name], settings):
            job.open_reader().close()
    except UsageError:
        raise
    except IngestError as error:
        return Finding("source", False, str(error))
    return Finding("source", True, "can be read")


def jobs_of(
    sources: Sequence[str], settings: Settings, *, restart: bool = False, n_sinks: int | None = None
) -> list[Job]:
    """One job for each source that the arguments name. Its memory is for so many sinks, by default the settings'."""
    return [
        Job(
            source=source,
            stream=stream_named(source.uri),
            dataset=settings.dataset_named(),
            state_dir=settings.state_dir,
            columns=settings.columns,
            checkpoint_dir=settings.checkpoint_dir,
            limit=settings.limit,
            max_rejects=RejectLimit.parse(settings.max_rejects),
            block_bytes=block_bytes_within(settings.memory_mb, n_sinks or len(settings.to)),
            restart=restart,
            mirror=mirror_of(settings),
        )
        for name in sources
        for source in sources_for(name, settings)
    ]


def mirror_of(settings: Settings, path: Path | None = None) -> Mirror | None:
    """Where the state folder, or a file that is in it, is kept a second time; None if it is not."""
    folder = settings.state_dir
    is_in = path is None or path.absolute().is_relative_to(folder.absolute())
    return Mirror(settings.state_mirror, folder) if settings.state_mirror and is_in else None


def sources_for(name: str, settings: Settings) -> list[Source]:
    """The sources that one argument names. What the service starts is held to what the service may read."""
    return [source_allowed(name, settings.allowed())] if is_confined() else sources_named(name)


async def run(jobs: Sequence[Job], sinks: Sequence[AnySink], stop: asyncio.Event, observer: Observer) -> Report:
    """Load the jobs in turn. The sinks are opened and closed here."""
    async with _ready(jobs, sinks, stop, observer) as ready:
        return Report([await _loaded(job, sinks, stop, observer) for job in ready])


@asynccontextmanager
async def _ready(
    jobs: Sequence[Job], sinks: Sequence[AnySink], stop: asyncio.Event, observer: Observer
) -> AsyncIterator[list[Job]]:
    """The jobs, beside what the sinks take for themselves; these are open inside and looked at, and end in time."""
    async with ended_in_time(stop), opened(sinks):
        for dataset in {job.dataset.name: job.dataset for job in jobs}.values():
            await survey(sinks, dataset, observer.warning)
        own_mb = sum(sink.own_mb for sink in sinks)
        yield [job.beside(own_mb) for job in jobs]


async def _loaded(job: Job, sinks: Sequence[AnySink], stop: asyncio.Event, observer: Observer) -> StreamReport:
    """One source: in shards, where workers have divided it, and then what they left."""
    started = monotonic()
    rows = await load_shards(job, sinks, stop, observer)
    report = await load(job, sinks, stop, observer)
    return report.with_more(rows, monotonic() - started) if rows else report


async def divide_all(
    jobs: Sequence[Job], sinks: Sequence[AnySink], stop: asyncio.Event, observer: Observer, shard_mb: int | None
) -> dict[str, Found]:
    """Divide what can be, and say how each stands, by stream. The sinks are opened and closed here."""
    found = {}
    async with _ready(jobs, sinks, stop, observer) as ready:
        for job in ready:
            divided = await divide(job, sinks, stop, shard_mb)
            if divided is not None:
                found[job.stream] = await found_of(replace(job, restart=False), divided)
    return found


async def work_on(
    jobs: Sequence[Job],
    sinks: Sequence[AnySink],
    stop: asyncio.Event,
    observer: Observer,
    shard_mb: int | None = None,
) -> Report:
    """Load the jobs side by side with other workers, which do the same: sources in shards, or whole where they must be.

    Returns once all are loaded, by whomever. The sinks are opened and closed here.
    """
    reports: dict[str, StreamReport] = {}
    async with _ready(jobs, sinks, stop, observer) as ready:
        left = random.sample(ready, len(ready))
        while left:
            job = left.pop(0)
            try:
                await divide(job, sinks, stop, shard_mb)
                reports[job.stream] = await _loaded(job, sinks, stop, observer)
            except LeaseHeld:
                left.append(job)
                await asyncio.sleep(random.uniform(0, _AGAIN_S))
    return Report([reports[job.stream] for job in jobs])


@asynccontextmanager
async def ended_in_time(stop: asyncio.Event, then: str = GO_ON) -> AsyncIterator[None]:
    """Once `stop` is set, what is inside has `DRAIN_S`, closing included: whatever it waits for, Stopped ends it."""
    try:
        async with asyncio.timeout(None) as deadline:
            alarm = asyncio.create_task(_drain_in_time(stop, deadline))
            try:
                yield
            finally:
                alarm.cancel()
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Stopped.on_request(then) from None


async def survey(sinks: Sequence[AnySink], dataset: Dataset, warn: Callable[[str, str], None]) -> None:
    """Look at open sinks before a row of a data set is sent. ConfigurationError where rows would get lost."""
    for sink in sinks:
        for finding in await sink.survey(dataset.shape):
            if not finding.ok:
                raise ConfigurationError(f"{sink.name}: {finding.what}: {finding.detail}")
            if finding.warning:
                text = f"{finding.what}: {finding.detail}"
                sink.warnings.append(text)
                warn(sink.name, text)


async def _drain_in_time(stop: asyncio.Event, deadline: asyncio.Timeout) -> None:
    await stop.wait()
    deadline.reschedule(asyncio.get_running_loop().time() + DRAIN_S - _CLOSING_S)


async def ingest(
    source: str | Path | Sequence[str | Path],
    *,
    to: Sequence[str] | None = None,
    limit: int | None = None,
    dataset: str | None = None,
    restart: bool = False,
    **settings: Any,
) -> Report:
    """Load one source or several, going on where an earlier call stopped; the `run` command as a function.

    `to` are sink URLs, by default those of the configuration. Other settings go by their names in the configuration
    file. Raises an IngestError where the command would exit with a code.
    """
    names = [source] if isinstance(source, str | Path) else list(source)
    flags = {"to": list(to) if to else None, "limit": limit, "dataset": dataset, **settings}
    loaded = load_settings(flags)
    return await ingest_into(sinks_of(loaded.sink_urls(), loaded.dataset_named()), names, loaded, restart=restart)


async def work(
    source: str | Path | Sequence[str | Path],
    *,
    to: Sequence[str] | None = None,
    share: int = 1,
    shard_mb: int | None = None,
    dataset: str | None = None,
    stop: asyncio.Event | None = None,
    **settings: Any,
) -> Report:
    """Load sources side by side with other workers, which call the same; the `work` command as a function.

    Returns once all is loaded, by whomever. share: of how many workers this is one, which divide the sinks' rates among
    them. shard_mb: how long a shard is where the source is not divided yet. Stopped after `stop` was set.
    """
    names = [source] if isinstance(source, str | Path) else list(source)
    loaded = load_settings({"to": list(to) if to else None, "dataset": dataset, **settings})
    give_back_memory()
    jobs = jobs_of([str(name) for name in names], loaded)
    sinks = sinks_of([shared_by(url, share) for url in loaded.sink_urls()], loaded.dataset_named())
    return await work_on(jobs, sinks, stop or asyncio.Event(), Silent(), shard_mb)


async def ingest_into(
    sinks: Sequence[AnySink], sources: Sequence[str | Path], settings: Settings, *, restart: bool = False
) -> Report:
    """Load sources into these sinks, whatever the settings' are, within the settings' memory: as the command does."""
    give_back_memory()
    jobs = jobs_of([str(source) for source in sources], settings, restart=restart, n_sinks=len(sinks))
    return await run(jobs, sinks, asyncio.Event(), Silent())
