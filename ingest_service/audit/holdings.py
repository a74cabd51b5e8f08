"""What each sink holds of a user, or of an item, for a person who looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ingest_service.pipeline.run import opened
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.rows.schema import Schema
from ingest_service.sinks.abilities import AnswersHistory, AnswersRecent
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.items import ItemSink, with_titles

_ALL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Holding:
    """All that a sink holds of a user, newest first; None where it is of a kind that does not say."""

    sink: str
    user_id: str
    interactions: Sequence[VideoInteraction] | None

    def as_json(self, limit: int) -> dict[str, Any]:
        """The newest `limit` of them, and how many there are."""
        found = self.interactions
        return {
            "sink": self.sink,
            "user_id": self.user_id,
            "count": None if found is None else len(found),
            "interactions": [interaction_json(one) for one in (found or ())[:limit]],
        }

    def lines(self, user: str, limit: int) -> list[str]:
        """The same as a table; `user` is how he was asked for."""
        who = _who(user, self.user_id)
        if self.interactions is None:
            return [f"{self.sink} is a kind of sink that does not say what it holds of a user."]
        if not self.interactions:
            return [f"{self.sink} has nothing of user {who}."]
        n, rows = len(self.interactions), self.as_json(limit)["interactions"]
        newest = "" if len(rows) == n else f", the newest {len(rows):,} of them"
        names = list(dict.fromkeys(name for row in rows for name in row if name != "user_id"))
        table = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        title = f"{self.sink} has {n:,} interaction{'s' * (n != 1)} of user {who}{newest}:"
        texts = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
        return [title, *(f"  {text}" for text in texts)]


@dataclass(frozen=True, slots=True)
class KnownItem:
    """What a sink holds of an item, by the fields of a data set."""

    sink: str
    item_id: str
    fields: dict[str, Any]

    def as_json(self, limit: int) -> dict[str, Any]:
        return {"sink": self.sink, "item_id": self.item_id, "fields": self.fields}

    def lines(self, item: str, limit: int) -> list[str]:
        who = _who(item, self.item_id)
        if not self.fields:
            return [f"{self.sink} knows nothing of item {who}."]
        return [f"{self.sink} has of item {who}:", *(f"  {name}: {value}" for name, value in self.fields.items())]


def _who(asked: str, stored_id: str) -> str:
    return asked if asked == stored_id else f"{asked} ({stored_id})"


def interaction_json(one: VideoInteraction) -> dict[str, Any]:
    """With its time in the stored form."""
    return {"timestamp": timestamp_text(one.timestamp), **one.model_dump(mode="json", exclude={"timestamp"})}


async def held_by(sink: AnySink, stored_id: str, schema: Schema, *, titles: bool) -> Holding | KnownItem:
    """The sink is opened and closed here."""
    async with opened([sink]):
        if isinstance(sink, ItemSink):
            return KnownItem(sink.name, stored_id, await sink.known(stored_id, schema))
        if isinstance(sink, AnswersHistory):
            found = (await sink.history(stored_id, None, None))[::-1]
        elif isinstance(sink, AnswersRecent):
            found = await sink.recent(stored_id, _ALL)
        else:
            return Holding(sink.name, stored_id, None)
        return Holding(sink.name, stored_id, await with_titles(sink, found) if titles else found)
