"""The interactions of sources in a window of time, and the items in them as numbers."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from ingest_service.analysis.reading import chunks_of
from ingest_service.errors import ConfigurationError
from ingest_service.pipeline.job import Job
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.distinct import distinct
from ingest_service.rows.interaction import EPOCH, micros_of

WHEN_STOPPED = "the list is as it was"
DAY_US = 86_400_000_000

Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Window:
    """Interactions in (as_of - days, as_of]; `as_of` is that of the newest where it is None."""

    as_of: datetime | None
    days: float


@dataclass(frozen=True, slots=True)
class Kept:
    """Under which key of Redis, and how: an empty list leaves the old one alone unless `allow_empty`."""

    key: str
    allow_empty: bool
    expire_s: int | None


class Interactions:
    """Passes over the sources. Blocks the caller."""

    def __init__(self, jobs: Sequence[Job], stop: asyncio.Event, progress: Progress) -> None:
        self._jobs = jobs
        self._stop = stop
        self._progress = progress

    def end_of(self, window: Window) -> datetime:
        """ConfigurationError where the newest row's time is wanted and there is none."""
        if window.as_of is not None:
            return window.as_of
        newest = max((int(columns.times.max()) for columns in self._columns("looking for the newest")), default=None)
        if newest is None:
            raise ConfigurationError("The sources have no rows, and so no newest one; name a time with --as-of.")
        return EPOCH + timedelta(microseconds=newest)

    def within(self, as_of: datetime, days: float) -> Iterator[Columns]:
        """Those up to `as_of`, and after so many days before."""
        until = micros_of(as_of.astimezone(UTC))
        since = until - round(days * DAY_US)
        for columns in self._columns("counting"):
            rows = np.flatnonzero((columns.times > since) & (columns.times <= until))
            if len(rows):
                yield columns.take(rows)

    def _columns(self, step: str) -> Iterator[Columns]:
        """Of each chunk that has rows."""
        read = 0
        for job in self._jobs:
            for chunk, _ in chunks_of(job, self._stop, WHEN_STOPPED):
                read += chunk.read
                self._progress(step=step, source=job.source.uri, rows_read=read)
                if chunk.accepted:
                    yield chunk.columns


def items_of(columns: Columns, places: dict[str, int]) -> Ints:
    """The item of each interaction as its place in `places`, which takes in those that are new."""
    different, inverse = distinct(columns.texts["video_id"])
    of: Ints = np.array([places.setdefault(item, len(places)) for item in different.to_list()], np.int64)
    return of[inverse]
