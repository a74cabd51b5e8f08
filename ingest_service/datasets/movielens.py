"""MovieLens: ratings, tags, links, and the movies that they are about. Column names live only here.

Format: files.grouplens.org/datasets/movielens, README of each archive. Users and movies are MovieLens's own integers;
times are Unix seconds. A user of one release is not the user of that number in another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid5

import numpy as np

from ingest_service.datasets.base import About, Column, Dataset
from ingest_service.datasets.identity import numbers_of
from ingest_service.datasets.kinds import ID, TEXT, Kind, Time
from ingest_service.datasets.times import texts_and_dates
from ingest_service.datasets.uuids import UuidDictionary
from ingest_service.errors import RowError, declare_codes
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Columns, Values
from ingest_service.rows.interaction import (
    EPOCH,
    INTERACTION,
    NAMESPACE,
    WHITESPACE,
    Device,
    EventType,
    VideoInteraction,
)
from ingest_service.rows.parse import Bytes
from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.rows.texts import Texts, concatenate, decimals

_users = UuidDictionary("movielens_user_")
_movies = UuidDictionary("movielens_movie_")

declare_codes({"bad_rating": "not 0.5 to 5.0 stars in halves"})
_SECONDS = Time("s")
_STARS = re.compile(r"([0-5])(?:\.([05])0*)?")
_ZERO = ord("0")


@dataclass(frozen=True, slots=True)
class HalfStars(Kind):
    """A rating of 0.5 to 5.0 stars in halves: int64, 1 to 10."""

    def one(self, text: str, column: str) -> int:
        match = _STARS.fullmatch(text.strip(WHITESPACE))
        halves = 2 * int(match[1]) + (match[2] == "5") if match else 0
        if not 1 <= halves <= 10:
            raise RowError("validate", "bad_rating", f"{column} is not 0.5 to 5.0 in halves.")
        return halves

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        """Those written `4`, `4.0` or `4.5`."""
        lengths = ends - starts
        has_fraction = lengths == len("4.5")
        stars = buffer[starts] - np.uint8(_ZERO)
        half = buffer[ends - 1] == ord("5")
        values = 2 * stars.astype(np.int64) + (has_fraction & half)
        valid = (stars <= 5) & (values >= 1) & (values <= 10) & (has_fraction | (lengths == 1))
        is_fraction = (buffer[starts + 1] == ord(".")) & (half | (buffer[ends - 1] == _ZERO))
        return values, valid & (is_fraction | ~has_fraction)


_USER = Column("user", ID, frozenset({"userid", "user", "user_id"}))
_MOVIE = Column("item", ID, frozenset({"movieid", "movie", "movie_id", "item"}))
_RATING = Column("rating", HalfStars(), frozenset({"rating"}))
_TIMESTAMP = Column("timestamp", _SECONDS, frozenset({"timestamp"}))
_TAG = Column("tag", TEXT, frozenset({"tag"}))
_IMDB = Column("imdb_id", TEXT, frozenset({"imdbid", "imdb_id"}))
_TMDB = Column("tmdb_id", TEXT, frozenset({"tmdbid", "tmdb_id"}))
_TITLE = Column("title", TEXT, frozenset({"title"}))
_GENRES = Column("genres", TEXT, frozenset({"genres"}))

NO_GENRES = "(no genres listed)"

_EVENT = INTERACTION.with_kind(FieldKind.WORD, "session_id")  # a number and a day, or a movie's number
_RATED = _EVENT.extended("movielens", Field("rating", FieldKind.FLOAT))
# A user may give a movie several tags in one second, so the tag is part of the key.
_TAGGED = _EVENT.extended("movielens-tags", Field("tag", FieldKind.TEXT), key=("tag",), follows_from_key=True)
_LINKED = _EVENT.extended("movielens-links", Field("imdb_id", FieldKind.TEXT), Field("tmdb_id", FieldKind.TEXT))
_MOVIES = Schema(
    "movielens-movies",
    (Field("title", FieldKind.TEXT), Field("genres", FieldKind.TEXT), Field("movie_id", FieldKind.INT)),
    owner="movie_id",
    key=(),
)


def _events(event_type: EventType, values: Mapping[str, Any]) -> dict[str, Texts]:
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


def _ratings(values: Mapping[str, Any]) -> Columns:
    user, item, micros = values["user"], values["item"], values["timestamp"]
    texts, numbers = _events(EventType.RATE, values), {"rating": values["rating"] / 2}
    return Columns(_RATED, (user,), (item,), micros, texts, numbers)


def _tags(values: Mapping[str, Any]) -> Columns:
    user, item, micros, tags = values["user"], values["item"], values["timestamp"], values["tag"]
    texts = _events(EventType.TAG, values) | {"tag": tags}
    return Columns(_TAGGED, (user,), (item, *numbers_of(tags)), micros, texts, {})


def _links(values: Mapping[str, Any]) -> Columns:
    """A link is about a movie, and at no time: it stands where a user's events would, under the movie's own id."""
    movie: Ints = values["item"]
    zeros = np.zeros(len(movie), np.int64)
    texts = _events(EventType.LINK, {"user": movie, "item": movie, "timestamp": zeros})
    texts |= {"user_id": texts["video_id"], "session_id": concatenate([b"movie_", decimals(movie)])}
    texts |= {name: values[name] for name in ("imdb_id", "tmdb_id")}
    return Columns(_LINKED, (movie,), (), zeros, texts, {})


def _movie_records(values: Mapping[str, Any]) -> Columns:
    movie: Ints = values["item"]
    texts = {name: Texts.of([text.strip() for text in values[name].to_list()]) for name in ("title", "genres")}
    return Columns(_MOVIES, (movie,), (), np.zeros(len(movie), np.int64), texts, {"movie_id": movie})


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


def _rows(*rows: int) -> Mapping[str, int]:
    """By release, as its README has them."""
    return dict(zip(("ml-latest-small (9/2018)", "ml-20m", "ml-25m", "ml-32m"), rows, strict=True))


_HOMEPAGE = "https://grouplens.org/datasets/movielens/"
MOVIELENS = Dataset(
    "movielens",
    (_USER, _MOVIE, _RATING, _TIMESTAMP),
    _RATED,
    _ratings,
    lambda values: _interaction(EventType.RATE, values),
    about=About(
        "MovieLens ratings.csv",
        "Since 20M, latest included.",
        _HOMEPAGE,
        _rows(100_836, 20_000_263, 25_000_095, 32_000_204),
    ),
)
TAGS = Dataset(
    "movielens-tags",
    (_USER, _MOVIE, _TAG, _TIMESTAMP),
    _TAGGED,
    _tags,
    lambda values: _interaction(EventType.TAG, values),
    about=About(
        "MovieLens tags.csv", "Since 20M, latest included.", _HOMEPAGE, _rows(3_683, 465_564, 1_093_360, 2_000_072)
    ),
)
LINKS = Dataset(
    "movielens-links",
    (_MOVIE, _IMDB, _TMDB),
    _LINKED,
    _links,
    _link,
    about=About("MovieLens links.csv", "Since 20M, latest included.", _HOMEPAGE, _rows(9_742, 27_278, 62_423, 87_585)),
)
# movies.csv, for its own step: genres are split by `|`.
MOVIES = Dataset("movielens-movies", (_MOVIE, _TITLE, _GENRES), _MOVIES, _movie_records, None)
