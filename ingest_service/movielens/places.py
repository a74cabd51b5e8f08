"""Where things are: the archive in its bucket, the collections, and the file that maps movies to their documents."""

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final
from urllib.parse import quote, urlsplit

from bson import ObjectId

from ingest_service.errors import ConfigurationError, LocalIOError, SourceNotFound
from ingest_service.movielens.settings import MovieLensSettings
from ingest_service.rows.interaction import parse_id
from ingest_service.sources.archive import ObjectZipMemberSource
from ingest_service.sources.object_store import Address, address_of, get_whole, put_whole

MOVIES_COLLECTION: Final = "movies"
INTERACTIONS_COLLECTION: Final = "interactions"
POPULAR_KEY: Final = "rec:fallback:popular"


def archive_url(settings: MovieLensSettings) -> str:
    """The archive in the bucket; a bucket without a scheme is one of Google's."""
    bucket = settings.gcs_bucket_name
    if not bucket:
        raise ConfigurationError("No bucket is named; set GCS_BUCKET_NAME to one, or to a gs://, s3:// or file:// URL.")
    name = settings.movielens_zip_filename or urlsplit(settings.movielens_url).path.rpartition("/")[2]
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ConfigurationError("The archive has no name; set MOVIELENS_ZIP_FILENAME, for example ml-25m.zip.")
    return f"{bucket if '://' in bucket else f'gs://{bucket}'}".rstrip("/") + "/" + quote(name)


def archive_address(settings: MovieLensSettings) -> Address:
    return Address.of(archive_url(settings))


def member(settings: MovieLensSettings, name: str) -> ObjectZipMemberSource:
    """A file in the archive."""
    return ObjectZipMemberSource(archive_url(settings), name)


def object_id(*key: object) -> ObjectId:
    """An `_id` that follows from what it stands for."""
    return ObjectId(blake2b("|".join(map(str, key)).encode(), digest_size=12).digest())


def movie_object_id(movie_id: int) -> ObjectId:
    """The `_id` of a movie's document. MovieLens keeps its movie ids from release to release."""
    return object_id("movielens", "movie", movie_id)


def write_movie_ids(settings: MovieLensSettings, movie_ids: Iterable[int]) -> str:
    """movieId → `_id` as hex, one JSON object, replaced as a whole. Returns where. Blocks."""
    address = address_of(settings.movie_id_map)
    content = {str(movie_id): str(movie_object_id(movie_id)) for movie_id in movie_ids}
    put_whole(address, iter([json.dumps(content, indent=0).encode()]))
    return address.uri


def read_movie_ids(settings: MovieLensSettings) -> Mapping[int, ObjectId]:
    """Blocks. SourceNotFound and LocalIOError name the command that makes the file."""
    address = address_of(settings.movie_id_map)
    advice = "make it with: ingest-service movielens movies."
    try:
        content = json.loads(get_whole(address))
        return {parse_id(movie_id, "a movie"): ObjectId(text) for movie_id, text in content.items()}
    except SourceNotFound:
        raise SourceNotFound(f"There is no movie id map {address.uri}; {advice}") from None
    except Exception as error:  # whatever JSON, parse_id and ObjectId think is wrong with it
        if isinstance(error, LocalIOError | ConfigurationError):
            raise
        raise LocalIOError(f"The movie id map {address.uri} is damaged; {advice}") from error
