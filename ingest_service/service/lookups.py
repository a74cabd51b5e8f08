"""What the sinks hold of a user, for requests: never remembered here, since a load may go on."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any, TypeVar

from ingest_service.audit.holdings import interaction_json
from ingest_service.config import Settings
from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError, IngestError, UsageError
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.service.known_datasets import dataset_asked_for
from ingest_service.service.known_sinks import Sinks
from ingest_service.sinks.abilities import AnswersHistory, AnswersRecent
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.items import with_titles
from ingest_service.sinks.kept import Kept
from ingest_service.sinks.urls import sink_at

BUDGET_S = 2.0  # for which a sink is tried that does not answer
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """Of whom, by his id as in the files of a data set or a UUID; and which sink, or the first one that can say."""

    user: str
    sink: str = ""
    dataset: str = ""
    titles: bool = False


class Lookups:
    """The sinks of the service, each opened when it is first asked, and anew after it failed."""

    def __init__(self, settings: Settings, sinks: Sinks) -> None:
        self._settings = settings
        self._sinks = sinks
        self._kept: dict[str, Kept] = {}
        self._datasets: dict[str, Dataset] = {}  # those of the configuration and of packages, by name

    async def recent(self, asked: Asked, limit: int) -> dict[str, Any]:
        """A user's newest interactions, newest first."""

        async def ask(sink: AnySink, user_id: str) -> list[VideoInteraction]:
            assert isinstance(sink, AnswersRecent)
            return await sink.recent(user_id, limit)

        return await self._answer(asked, AnswersRecent, ask)

    async def history(
        self, asked: Asked, since: datetime | None, until: datetime | None, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        """A page of a user's interactions in [since, until), oldest first. `next` is the cursor of the next one."""
        at, n_before = _place(cursor) if cursor else (since, 0)

        async def ask(sink: AnySink, user_id: str) -> list[VideoInteraction]:
            assert isinstance(sink, AnswersHistory)
            return (await sink.history(user_id, at, until, n_before + limit + 1))[n_before:]

        answer = await self._answer(asked, AnswersHistory, ask)
        found = answer["interactions"]
        answer["next"] = _cursor(found[:limit], cursor) if len(found) > limit else None
        answer["interactions"] = found[:limit]
        return answer

    async def _answer(
        self, asked: Asked, ability: type[Any], ask: Callable[[AnySink, str], Awaitable[list[VideoInteraction]]]
    ) -> dict[str, Any]:
        if asked.dataset not in self._datasets:
            self._datasets[asked.dataset] = await asyncio.to_thread(dataset_asked_for, self._settings, asked.dataset)
        dataset = self._datasets[asked.dataset]
        name, kept = await self._one_that(ability, asked.sink)
        (sink,) = kept.sinks
        try:
            await kept.open(sink)
            found = await ask(sink, user_id := dataset.stored_id(asked.user))
            found = await with_titles(sink, found) if asked.titles else found
        except IngestError:
            await self._forget(name, kept)
            raise
        return {"sink": name, "user_id": user_id, "interactions": [interaction_json(one) for one in found]}

    async def _one_that(self, ability: type[Any], name: str) -> tuple[str, Kept]:
        for one in self._sinks.named([name] if name else []):
            if one not in self._kept:
                sink = await asyncio.to_thread(sink_at, self._sinks.urls[one])
                sink.retrier.budget_s = min(sink.retrier.budget_s, BUDGET_S)
                self._kept.setdefault(one, Kept([sink]))
            kept = self._kept[one]
            if isinstance(kept.sinks[0], ability):
                return one, kept
        raise ConfigurationError(f"{name or 'No sink of the usual ones'} can say this of a user; name another sink.")

    async def _forget(self, name: str, kept: Kept) -> None:
        if self._kept.get(name) is kept:
            del self._kept[name]
            with suppress(IngestError):
                await kept.close()

    async def close(self) -> None:
        for name, kept in list(self._kept.items()):
            await self._forget(name, kept)


def _cursor(found: list[dict[str, Any]], before: str | None) -> str:
    """The time of the last one, and how many of that time have been told."""
    at = found[-1]["timestamp"]
    same = len(list(takewhile(lambda one: one["timestamp"] == at, reversed(found))))
    if before and same == len(found) and before.startswith(f"{at}~"):
        same += int(before.rpartition("~")[2])
    return f"{at}~{same}"


def _place(cursor: str) -> tuple[datetime, int]:
    time, _, n = cursor.partition("~")
    try:
        at = datetime.fromisoformat(time)
        if timestamp_text(at) == time and 0 < int(n) < 1 << 31:
            return at, int(n)
    except (ValueError, OverflowError):
        pass
    raise UsageError("There is no page with this cursor.")
