"""The movies to recommend to whom nothing is known of: computed in MongoDB, kept under one key of Redis."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ingest_service.config import Settings
from ingest_service.errors import ConfigurationError
from ingest_service.movielens.places import POPULAR_KEY
from ingest_service.movielens.steps.ratings import ratings_sink
from ingest_service.pipeline.run import opened
from ingest_service.sinks.mongodb.client import Document
from ingest_service.sinks.mongodb.writer import DocumentSink
from ingest_service.sinks.redis.sink import RedisSink


@dataclass(frozen=True, slots=True)
class Popular:
    """What was found; `stored` is false where an empty result left the old list alone."""

    as_of: datetime
    movies: list[str]
    stored: bool

    def as_json(self) -> dict[str, Any]:
        return {"as_of": self.as_of.isoformat(), "movies": self.movies, "stored": self.stored}


async def popular(
    settings: Settings,
    *,
    min_rating: float = 4.0,
    days: float = 30,
    as_of: datetime | None = None,
    latest: bool = False,
    limit: int = 100,
    allow_empty: bool = False,
    expire_s: int | None = None,
) -> Popular:
    """Movies with the most ratings ≥ `min_rating` in (as_of - days, as_of], as the hex `_id`s of their documents.

    `as_of` is now, or with `latest` the newest rating. Ties are broken by `_id`. The key is replaced as a whole, and
    expires after `expire_s` if that is given. ConfigurationError if nothing was rated at all and `latest` asks for it.
    """
    mongodb, redis = ratings_sink(settings, {}), RedisSink(settings.redis_address())
    async with opened([mongodb, redis]):
        until = await _newest(mongodb) if latest else as_of or datetime.now(UTC)
        movies = await _most_rated(mongodb, min_rating, until - timedelta(days=days), until, limit)
        stored = bool(movies) or allow_empty
        if stored:
            expiry: list[Any] = [] if expire_s is None else ["EX", expire_s]
            key = redis.options.prefix + POPULAR_KEY
            await redis.command("SET", key, json.dumps(movies), *expiry, key=key)
        return Popular(until, movies, stored)


async def _newest(sink: DocumentSink) -> datetime:
    async def find() -> list[Document]:
        return await sink.collection.find({}, {"timestamp": 1}).sort("timestamp", -1).limit(1).to_list()

    found = await sink.client.call(find)
    if not found:
        raise ConfigurationError("There are no ratings yet; load them with: ingest-service movielens ratings.")
    newest: datetime = found[0]["timestamp"].replace(tzinfo=UTC)
    return newest


async def _most_rated(sink: DocumentSink, min_rating: float, since: datetime, until: datetime, limit: int) -> list[str]:
    stages: list[Document] = [
        {"$match": {"timestamp": {"$gt": since, "$lte": until}, "rating": {"$gte": min_rating}, "type": "rate"}},
        {"$group": {"_id": "$movie_id", "ratings": {"$sum": 1}}},
        {"$sort": {"ratings": -1, "_id": 1}},
        {"$limit": limit},
    ]

    async def aggregate() -> list[Document]:
        return await (await sink.collection.aggregate(stages)).to_list()

    return [str(one["_id"]) for one in await sink.client.call(aggregate)]
