"""What each sink holds of a user, for a person who looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ingest_service.pipeline.run import opened
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.sinks.abilities import AnswersHistory, AnswersRecent
from ingest_service.sinks.base import AnySink

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
            "interactions": [_as_json(one) for one in (found or ())[:limit]],
        }

    def lines(self, user: str, limit: int) -> list[str]:
        """The same as a table; `user` is how he was asked for."""
        who = user if user == self.user_id else f"{user} ({self.user_id})"
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


def _as_json(one: VideoInteraction) -> dict[str, Any]:
    return {"timestamp": timestamp_text(one.timestamp), **one.model_dump(mode="json", exclude={"timestamp"})}


async def held_by(sink: AnySink, user_id: str) -> Holding:
    """The sink is opened and closed here."""
    async with opened([sink]):
        if isinstance(sink, AnswersHistory):
            return Holding(sink.name, user_id, (await sink.history(user_id, None, None))[::-1])
        if isinstance(sink, AnswersRecent):
            return Holding(sink.name, user_id, await sink.recent(user_id, _ALL))
        return Holding(sink.name, user_id, None)
