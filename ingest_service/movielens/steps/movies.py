"""Movies with their embeddings into MongoDB. What is there already, of the same text and model, is left alone."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import bson
from bson import ObjectId
from bson.binary import Binary, BinaryVectorDtype

from ingest_service.config import Settings, stream_named
from ingest_service.datasets.movielens import MOVIES, NO_GENRES
from ingest_service.errors import SourceNotFound
from ingest_service.formats.opening import open_reader
from ingest_service.movielens.embeddings import Embedder, Vectors, embedder_of
from ingest_service.movielens.places import MOVIES_COLLECTION, member, movie_object_id, write_movie_ids
from ingest_service.movielens.settings import MovieLensSettings
from ingest_service.pipeline.dead_letter import DeadLetters
from ingest_service.pipeline.run import opened
from ingest_service.rows.chunk import Chunk
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.mongodb.address import mongodb_url_with
from ingest_service.sinks.mongodb.client import Document
from ingest_service.sinks.mongodb.documents import Refusal
from ingest_service.sinks.mongodb.sink import MongoDBSink
from ingest_service.sinks.mongodb.writer import DocumentSink
from ingest_service.sources.base import Source
from ingest_service.telemetry.show import Show, Step

_Key: TypeAlias = tuple[str, tuple[str, ...], str, int]

_PIECE_MOVIES = 512  # embedded and then stored at once: a second or two of work, and what a crash costs
_VECTOR_HEADER_BYTES = 2  # bsonspec.org, subtype 9: the numbers' type, and padding
_YEAR = re.compile(r"\((\d{4})(?:[-\u2013]\d{0,4})?\)$")

# How an embedding is stored, as one number: numbers in a list, or minus the bytes of a vector; 0 where there is none.
_SHAPE = {
    "$cond": [
        {"$isArray": "$embedding"},
        {"$size": "$embedding"},
        {"$multiply": [-1, {"$ifNull": [{"$binarySize": "$embedding"}, 0]}]},
    ]
}


@dataclass(frozen=True, slots=True)
class Movie:
    movie_id: int
    title: str
    genres: tuple[str, ...]

    @property
    def text(self) -> str:
        """What is embedded."""
        return " ".join((self.title, *self.genres))

    @property
    def year(self) -> int | None:
        """The year that ends the title; of a span its first. A few titles have none."""
        found = _YEAR.search(self.title)
        return int(found[1]) if found else None


@dataclass(slots=True)
class MoviesReport:
    """read = refused + merged + unchanged + stored; `merged` fell on a movieId that a later row has too."""

    read: int = 0
    refused: int = 0
    merged: int = 0
    unchanged: int = 0
    stored: int = 0
    dead_letters: str = ""
    movie_id_map: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def movies(settings: Settings, show: Show | None = None) -> MoviesReport:
    """Bring the collection `movies` up to movies.csv of the archive, and write the movie id map."""
    own = MovieLensSettings.of(settings)
    source = member(own, "movies.csv")
    sink = MongoDBSink(mongodb_url_with(settings.mongodb_address(), collection=MOVIES_COLLECTION))
    # No lease: each run looks at all movies, two of them write the same, and DeadLetters sees what the other adds.
    dead_letters = DeadLetters(settings.state_dir / stream_named(source.uri), source.uri)
    report = MoviesReport(dead_letters=str(dead_letters.path))
    try:
        chunks = await finish_in_thread(_chunks, source)
    except SourceNotFound as error:
        raise SourceNotFound(f"{error} Get the archive with: ingest-service movielens download.") from None
    embedder = await finish_in_thread(embedder_of, own)
    async with opened([sink]):
        await finish_in_thread(dead_letters.open, resume_offset=0)
        with closing(dead_letters), (show or Show()).step("movies", _rows(chunks), "movies") as step:
            update = _Update(sink, embedder, own.embedding_format, report, step)
            known = [movie_id for chunk in chunks for movie_id in await update.bring(chunk, dead_letters)]
    report.movie_id_map = await finish_in_thread(write_movie_ids, own, known)
    return report


def _chunks(source: Source) -> list[Chunk]:
    """All movies: the largest release has 4 MB of them."""
    reader = open_reader(source, MOVIES)
    try:
        return [reader.chunk(block) for block in iter(reader.next, None)]
    finally:
        reader.close()


def _rows(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.accepted for chunk in chunks)


@dataclass(frozen=True, slots=True)
class _Update:
    """What brings the collection up to a chunk of the file."""

    sink: DocumentSink
    embedder: Embedder
    format: str
    report: MoviesReport
    step: Step

    async def bring(self, chunk: Chunk, dead_letters: DeadLetters) -> list[int]:
        """Embed and store what is new or has changed. Returns the movies that are there now."""
        rows = {
            row: Movie(movie_id, title, _genres(genres)) for row, movie_id, title, genres in _last_of_each_movie(chunk)
        }
        self.report.merged += chunk.accepted - len(rows)
        dead = list(chunk.rejects)
        for piece in _pieces(list(rows)):
            refused = await self._bring_piece({row: rows[row] for row in piece})
            dead += [chunk.dead_row(row, self.sink.name, why.code, why.reason) for row, why in refused.items()]
            for row in refused:
                del rows[row]
        if dead:
            await finish_in_thread(dead_letters.append, dead)
        self.report.read += chunk.read
        self.report.refused += len(dead)
        return [movie.movie_id for movie in rows.values()]

    async def _bring_piece(self, movies: dict[int, Movie]) -> dict[int, Refusal]:
        found = await self._found([movie_object_id(movie.movie_id) for movie in movies.values()])
        changed = {row: movie for row, movie in movies.items() if found.get(movie.movie_id) != self._key(movie)}
        self.report.unchanged += len(movies) - len(changed)
        self.step.advance(len(movies) - len(changed))
        if not changed:
            return {}
        texts = [movie.text for movie in changed.values()]
        vectors = await asyncio.to_thread(self.embedder.embed, texts, self.step.advance)
        documents = map(bson.encode, self._documents(changed.values(), vectors))
        refused = await self.sink.put(dict(zip(changed, documents, strict=True)))
        self.report.stored += len(changed) - len(refused)
        return refused

    def _key(self, movie: Movie) -> _Key:
        """What must be the same for a stored document to stay as it is."""
        size = self.embedder.dimensions
        shape = size if self.format == "list" else -(_VECTOR_HEADER_BYTES + 4 * size)
        return movie.title, movie.genres, self.embedder.name, shape

    async def _found(self, ids: list[ObjectId]) -> dict[int, _Key]:
        fields = {"movie_id": 1, "title": 1, "genres": 1, "embedding_model": 1, "shape": _SHAPE}

        async def find() -> list[Document]:
            return await self.sink.collection.find({"_id": {"$in": ids}}, fields).to_list()

        return {
            one["movie_id"]: (one["title"], tuple(one["genres"]), one.get("embedding_model", ""), one["shape"])
            for one in await self.sink.client.call(find)
        }

    def _documents(self, movies: Iterable[Movie], vectors: Vectors) -> Iterator[Document]:
        now = datetime.now(UTC)
        for movie, vector in zip(movies, vectors.tolist(), strict=True):
            yield {
                "_id": movie_object_id(movie.movie_id),
                "movie_id": movie.movie_id,
                "title": movie.title,
                "year": movie.year,
                "genres": list(movie.genres),
                "embedding": vector if self.format == "list" else Binary.from_vector(vector, BinaryVectorDtype.FLOAT32),
                "embedding_model": self.embedder.name,
                "updated_at": now,
            }


def _last_of_each_movie(chunk: Chunk) -> Iterator[tuple[int, int, str, str]]:
    """Row, movieId, title and genres."""
    rows = chunk.last_of_each_key()
    columns = chunk.columns.take(rows)
    texts = columns.texts["title"].to_list(), columns.texts["genres"].to_list()
    return zip(rows.tolist(), columns.numbers["movie_id"].tolist(), *texts, strict=True)


def _genres(text: str) -> tuple[str, ...]:
    return () if text in ("", NO_GENRES) else tuple(text.split("|"))


def _pieces(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), _PIECE_MOVIES):
        yield rows[start : start + _PIECE_MOVIES]
