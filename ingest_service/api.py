"""The Python API for scripts: a store to ask, a reader to look into a file, an ingestor to load one."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypedDict, TypeVar
from uuid import UUID

from ingest_service.config import load_settings
from ingest_service.datasets import dataset_named
from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats.base import Reader
from ingest_service.formats.opening import open_reader
from ingest_service.pipeline.run import examine, ingest_into, sinks_of
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.sinks.abilities import AnswersHistory, AnswersRecent
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.items import with_titles
from ingest_service.sinks.kept import Kept
from ingest_service.sources.local import FileSource

T = TypeVar("T")


class IngestStats(TypedDict):
    """Rows of a file: read, stored, and refused (by the parser or by a sink)."""

    processed: int
    successful: int
    failed: int


class InteractionStore:
    """The sinks of the configuration, or those given by URL.

    A question opens a sink and closes it again. Inside `async with store:` each is opened once, at its first question,
    and kept until the end of the block.
    """

    def __init__(self, sinks: Sequence[str] | None = None) -> None:
        self._urls = list(sinks) if sinks is not None else load_settings().sink_urls()
        if not self._urls:
            raise ConfigurationError("A store needs at least one sink.")
        sinks_of(self._urls)  # refuses a wrong URL now rather than at the first use
        self._kept: Kept | None = None
        self._datasets: dict[str, Dataset] = {}  # those that were asked about, by name

    async def __aenter__(self) -> Self:
        if self._kept is not None:
            raise RuntimeError("the store is open already")
        self._kept = Kept(self.sinks())
        return self

    async def __aexit__(self, *_: object) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()

    def sinks(self) -> list[AnySink]:
        """New sinks, not yet open: a client belongs to the event loop that it is used in."""
        return sinks_of(self._urls)

    def health_check(self) -> dict[str, bool]:
        """Whether each sink can be reached and used, by its name."""
        return _run(self._health())

    async def _health(self) -> dict[str, bool]:
        return {sink.name: all(finding.ok for finding in await examine(sink)) for sink in self.sinks()}

    async def recent(
        self,
        user_id: UUID | str | None = None,
        limit: int = 20,
        *,
        user: UUID | str | int | None = None,
        dataset: str = "",
        titles: bool = False,
    ) -> list[VideoInteraction]:
        """A user's newest interactions, newest first: from Redis, or else from SQLite.

        user: instead of the UUID, his id as it stands in the files of `dataset`, by default that of the configuration.
        titles: whether each has its video's `title` beside, where the same store has one (see microlens-titles).
        """
        user_id = await self._stored_id(user_id, user, dataset)
        async with self._asked() as kept:
            for sink in kept.sinks:
                if isinstance(sink, AnswersRecent):
                    await kept.open(sink)
                    found = await sink.recent(user_id, limit)
                    return await with_titles(sink, found) if titles else found
        raise ConfigurationError("No configured sink answers recent(); add redis://, postgresql:// or sqlite://.")

    async def history(
        self,
        user_id: UUID | str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        user: UUID | str | int | None = None,
        dataset: str = "",
        titles: bool = False,
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first: from DynamoDB or MongoDB, or else from SQLite.

        user, dataset, titles: as for `recent`.
        """
        user_id = await self._stored_id(user_id, user, dataset)
        async with self._asked() as kept:
            for sink in kept.sinks:
                if isinstance(sink, AnswersHistory):
                    await kept.open(sink)
                    found = await sink.history(user_id, since, until)
                    return await with_titles(sink, found) if titles else found
        raise ConfigurationError("No configured sink answers history(); add dynamodb://, postgresql:// or sqlite://.")

    async def _stored_id(self, user_id: UUID | str | None, user: UUID | str | int | None, name: str) -> UUID | str:
        if (user_id is None) == (user is None):
            raise TypeError("name one user, by user_id (a UUID) or by user (an id as in the files)")
        if user is None:
            assert user_id is not None
            return user_id
        if name not in self._datasets:  # it may be described by a file
            self._datasets[name] = await asyncio.to_thread(lambda: load_settings().dataset_named(name))
        return self._datasets[name].stored_id(str(user))

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[Kept]:
        """The sinks that are kept, or new ones for this question."""
        if self._kept is not None:
            yield self._kept
            return
        kept = Kept(self.sinks())
        try:
            yield kept
        finally:
            await kept.close()


class MicroLensPairsReader:
    """The good rows of a file as objects, one at a time: for looking, not for loading."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def read(self, limit: int | None = None) -> Iterator[VideoInteraction]:
        """At most `limit` interactions; refused rows are passed over. FileNotFoundError if there is no file."""
        reader = open_reader(FileSource(self._path), dataset_named("microlens"))
        return self._interactions(reader, limit)

    def _interactions(self, reader: Reader[Any], limit: int | None) -> Iterator[VideoInteraction]:
        dataset = reader.rows.dataset
        assert dataset.interaction is not None, "its rows are interactions"
        roles = [column.role for column in dataset.columns]
        left = limit
        try:
            while left != 0 and (block := reader.next()) is not None:
                rows = (row for row in reader.values(block) if not isinstance(row, RowError))
                for values in chain.from_iterable(rows):
                    if left == 0:
                        return
                    yield dataset.interaction(dict(zip(roles, values, strict=True)))
                    left = None if left is None else left - 1
        finally:
            reader.close()


class MicroLensIngestor:
    """Loads MicroLens files into a store."""

    def __init__(self, store: InteractionStore) -> None:
        self.store = store

    def ingest_from_csv(self, path: str | Path, limit: int | None = None) -> IngestStats:
        """Load the first `limit` rows of a file, or all, going on where an earlier call stopped.

        The counts are over all calls. Raises an IngestError where the command would exit with a code; a missing file
        is a FileNotFoundError too.
        """
        return _run(self._ingest(str(path), limit))

    async def _ingest(self, path: str, limit: int | None) -> IngestStats:
        settings = load_settings({"limit": limit, "dataset": "microlens"})
        report = await ingest_into(self.store.sinks(), [path], settings)
        names = list(report.streams[0].sinks)
        counts = [report.total(name) for name in names]
        processed = max(count.read for count in counts)
        successful = min(count.written + count.merged for count in counts)
        return IngestStats(processed=processed, successful=successful, failed=processed - successful)


def _run(job: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where an event loop already runs in this thread (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, job).result()
