"""Ratings into MongoDB, by the same pipeline as every other file: checkpoints, resuming, dead letters."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bson import ObjectId
from numpy.typing import NDArray
from pymongo import ASCENDING, DESCENDING, IndexModel

from ingest_service.config import Settings, stream_named
from ingest_service.datasets.movielens import MOVIELENS
from ingest_service.errors import ConfigurationError, declare_codes
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.movielens.places import INTERACTIONS_COLLECTION, member, object_id, read_movie_ids
from ingest_service.movielens.settings import MovieLensSettings
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.load import Observer
from ingest_service.pipeline.rejects import RejectLimit
from ingest_service.pipeline.report import Report
from ingest_service.pipeline.run import Silent, examine, run
from ingest_service.rows.columns import Columns
from ingest_service.rows.texts import Texts
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.mongodb import bson_rows
from ingest_service.sinks.mongodb.address import mongodb_url_with
from ingest_service.sinks.mongodb.documents import Encoded, Refusal
from ingest_service.sinks.mongodb.writer import DocumentSink
from ingest_service.sources.archive import ObjectZipMemberSource

declare_codes(
    {
        "unknown_movie": "a movie that was not loaded",
    }
)

# The least that may be: a block of documents takes many times as long as one of Redis's rows, and a run that is
# killed writes its last blocks again.
_BLOCK_BYTES = 2 * MAX_RECORD_BYTES
_SINK = "movielens"
_OBJECT_ID = np.dtype("V12")
_UNKNOWN_MOVIE = Refusal("unknown_movie", "The movie is not in the movie id map.")


class RatingDocuments:
    """`user_id` as in MovieLens, `movie_id` the `_id` of the movie's document, `type`, `rating`, `timestamp` (UTC)."""

    indexes: Sequence[IndexModel] = (
        IndexModel([("user_id", ASCENDING), ("timestamp", DESCENDING)]),
        IndexModel([("movie_id", ASCENDING), ("timestamp", DESCENDING)]),
        IndexModel([("timestamp", ASCENDING), ("rating", ASCENDING), ("movie_id", ASCENDING)]),  # what `popular` reads
    )

    def __init__(self, movie_ids: Mapping[int, ObjectId]) -> None:
        known = sorted(movie_ids)
        self._movies = np.array(known, np.int64)
        self._object_ids = np.array([movie_ids[movie].binary for movie in known], _OBJECT_ID)

    def of(self, columns: Columns) -> Encoded:
        (users,), (movies,) = columns.owner, columns.parts
        is_known = np.isin(movies, self._movies)
        object_ids = np.zeros(len(columns), _OBJECT_ID)
        object_ids[is_known] = self._object_ids[np.searchsorted(self._movies, movies[is_known])]
        documents = bson_rows.documents(
            {
                "_id": _rating_ids(columns),
                "user_id": users,
                "movie_id": object_ids,
                "type": Texts.constant("rate", len(columns)),
                "rating": columns.numbers["rating"],
                "timestamp": columns.epoch_ms.astype("datetime64[ms]"),
            }
        )
        return Encoded(documents, dict.fromkeys(np.flatnonzero(~is_known).tolist(), _UNKNOWN_MOVIE))


def _rating_ids(columns: Columns) -> NDArray[np.void]:
    """User, movie and second, four bytes each: so `_id`s ascend as the file does, and the index grows at its end.

    What does not fit so, in no release of MovieLens, is hashed.
    """
    (users,), (movies,), micros = columns.owner, columns.parts, columns.times
    seconds, rest = np.divmod(micros, 1_000_000)
    ids = np.ascontiguousarray(np.stack([users, movies, seconds], axis=1).astype(">u4")).view(_OBJECT_ID)[:, 0]
    for row in np.flatnonzero(((users | movies | seconds) >> 32 != 0) | (rest != 0)).tolist():
        key = users[row], movies[row], micros[row] // 1_000
        ids[row] = np.void(object_id("movielens", "rate", *key).binary)
    return ids


def ratings_sink(settings: Settings, movie_ids: Mapping[int, ObjectId]) -> DocumentSink:
    # Under a name of its own, by which its dead letters are known for ratings that want movie ids.
    url = mongodb_url_with(settings.mongodb_address(), collection=INTERACTIONS_COLLECTION, name=_SINK)
    return DocumentSink(url, RatingDocuments(movie_ids))


async def ratings(
    settings: Settings,
    *,
    restart: bool = False,
    create_indexes: bool = False,
    stop: asyncio.Event | None = None,
    observer: Observer | None = None,
) -> Report:
    """Load ratings.csv of the archive into `interactions`, going on where an earlier run stopped."""
    own = MovieLensSettings.of(settings)
    movie_ids = await finish_in_thread(read_movie_ids, own)
    if create_indexes:
        bad = [one for one in await examine(ratings_sink(settings, movie_ids), create=True) if not one.ok]
        if bad:
            raise ConfigurationError(f"The indexes cannot be made: {bad[0].detail}")
    source = _source(own)
    job = Job(
        source=source,
        stream=stream_named(source.uri),
        dataset=MOVIELENS,
        state_dir=settings.state_dir,
        checkpoint_dir=settings.checkpoint_dir,
        limit=settings.limit,
        max_rejects=RejectLimit.parse(settings.max_rejects),
        block_bytes=_BLOCK_BYTES,
        restart=restart,
    )
    return await run([job], [ratings_sink(settings, movie_ids)], stop or asyncio.Event(), observer or Silent())


def are_ratings(path: Path, settings: MovieLensSettings) -> bool:
    """Whether dead letters are of `ratings`: by the sink of one, or by their folder where no sink is named. Blocks."""
    if any(letter["stage"] == _SINK for letter in dead_letter.read(path, missing_ok=True)):
        return True
    if "to" in settings.model_fields_set or not settings.gcs_bucket_name:
        return False
    return path.resolve().parent.name == stream_named(_source(settings).uri)


def _source(settings: MovieLensSettings) -> ObjectZipMemberSource:
    return member(settings, "ratings.csv")
