"""MovieLens: ratings, tags, links, and the movies that they are about. Column names live only here.

Format: files.grouplens.org/datasets/movielens, README of each archive. Users and movies are MovieLens's own integers;
times are Unix seconds. A user of one release is not the user of that number in another.
"""

from collections.abc import Mapping
from datetime import timedelta
from hashlib import blake2b
from typing import Any
from uuid import uuid5

import numpy as np

from ingest_service.datasets.base import Column, Dataset, Values
from ingest_service.datasets.times import texts_and_dates
from ingest_service.datasets.uuids import UuidDictionary
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import EPOCH, NAMESPACE, Device, EventType, VideoInteraction
from ingest_service.rows.texts import Texts, concatenate, decimals

_users = UuidDictionary("movielens_user_")
_movies = UuidDictionary("movielens_movie_")

_USER = Column("user", "id", frozenset({"userid", "user", "user_id"}))
_MOVIE = Column("item", "id", frozenset({"movieid", "movie", "movie_id", "item"}))
_RATING = Column("rating", "rating", frozenset({"rating"}))
_TIMESTAMP = Column("timestamp", "timestamp", frozenset({"timestamp"}))
_TAG = Column("tag", "text", frozenset({"tag"}))
_IMDB = Column("imdb_id", "text", frozenset({"imdbid", "imdb_id"}))
_TMDB = Column("tmdb_id", "text", frozenset({"tmdbid", "tmdb_id"}))
_TITLE = Column("title", "text", frozenset({"title"}))
_GENRES = Column("genres", "text", frozenset({"genres"}))

NO_GENRES = "(no genres listed)"


def _events(event_type: EventType, values: Values) -> dict[str, Texts]:
    user, item, micros = values["user"], values["item"], values["timestamp"]
    timestamps, dates = texts_and_dates(micros)
    return {
        "user_id": _users.uuids(user),
        "video_id": _movies.uuids(item),
        "event_type": Texts.constant(event_type.value, len(user)),
        "timestamp": timestamps,
        "device": Texts.constant(Device.UNKNOWN.value, len(user)),
        "session_id": concatenate([b"session_", decimals(user), b"_", dates]),
    }


def _ratings(values: Values) -> Columns:
    user, item, micros = values["user"], values["item"], values["timestamp"]
    numbers = {"epoch_ms": micros // 1_000, "rating": values["rating"] / 2}
    return Columns((user, item, micros), _events(EventType.RATE, values), numbers)


def _tags(values: Values) -> Columns:
    user, micros, tags = values["user"], values["timestamp"], values["tag"]
    texts = _events(EventType.TAG, values) | {"tag": Texts.of(tags.tolist())}
    # A user may give a movie several tags in one second, so the tag is part of the key.
    key = user, _hashes(values["item"], tags.tolist()), micros
    return Columns(key, texts, {"epoch_ms": micros // 1_000}, follow_from_key=True)


def _links(values: Values) -> Columns:
    """A link is about a movie, and at no time: it stands where a user's events would, under the movie's own id."""
    movie = values["item"]
    zeros = np.zeros(len(movie), np.int64)
    texts = _events(EventType.LINK, {"user": movie, "item": movie, "timestamp": zeros})
    texts |= {"user_id": texts["video_id"], "session_id": concatenate([b"movie_", decimals(movie)])}
    texts |= {name: Texts.of(values[name].tolist()) for name in ("imdb_id", "tmdb_id")}
    return Columns((movie, movie, zeros), texts, {"epoch_ms": zeros})


def _movie_records(values: Values) -> Columns:
    movie = values["item"]
    texts = {name: Texts.of([text.strip() for text in values[name].tolist()]) for name in ("title", "genres")}
    return Columns((movie, movie, np.zeros(len(movie), np.int64)), texts, {})


def _hashes(movies: Ints, tags: list[str]) -> Ints:
    """64 bits of a movie and a tag: two of them meet once in billions of billions."""
    digests = (
        blake2b(f"{movie}|{tag}".encode(), digest_size=8).digest()
        for movie, tag in zip(movies.tolist(), tags, strict=True)
    )
    return np.frombuffer(b"".join(digests), np.int64)


def _interaction(event_type: EventType, values: Mapping[str, Any]) -> VideoInteraction:
    at = EPOCH + timedelta(microseconds=values["timestamp"])
    return VideoInteraction(
        user_id=uuid5(NAMESPACE, f"movielens_user_{values['user']}"),
        video_id=uuid5(NAMESPACE, f"movielens_movie_{values['item']}"),
        event_type=event_type,
        timestamp=at,
        device=Device.UNKNOWN,
        session_id=f"session_{values['user']}_{at:%Y-%m-%d}",
    )


def _link(values: Mapping[str, Any]) -> VideoInteraction:
    movie = uuid5(NAMESPACE, f"movielens_movie_{values['item']}")
    return VideoInteraction(
        user_id=movie,
        video_id=movie,
        event_type=EventType.LINK,
        timestamp=EPOCH,
        device=Device.UNKNOWN,
        session_id=f"movie_{values['item']}",
    )


def _no_interaction(_: Mapping[str, Any]) -> VideoInteraction:
    raise TypeError("a movie is no interaction")


MOVIELENS = Dataset(
    "movielens",
    (_USER, _MOVIE, _RATING, _TIMESTAMP),
    "s",
    _ratings,
    lambda values: _interaction(EventType.RATE, values),
)
TAGS = Dataset(
    "movielens-tags",
    (_USER, _MOVIE, _TAG, _TIMESTAMP),
    "s",
    _tags,
    lambda values: _interaction(EventType.TAG, values),
)
LINKS = Dataset("movielens-links", (_MOVIE, _IMDB, _TMDB), "s", _links, _link)
# movies.csv, for its own step: the key is the movie, the texts are `title` and `genres` (split by `|`).
MOVIES = Dataset("movielens-movies", (_MOVIE, _TITLE, _GENRES), "s", _movie_records, _no_interaction)
