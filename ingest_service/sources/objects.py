"""Objects by address: s3://, gs://, https://, file://."""

import posixpath
from typing import IO, TYPE_CHECKING, cast

from ingest_service.sources.base import Source, Stream
from ingest_service.sources.object_file import ObjectFile
from ingest_service.sources.object_store import Address
from ingest_service.sources.zip_member import open_whole

if TYPE_CHECKING:
    from ingest_service.sources.allowed import Allowed


class ObjectSource(Source):
    """One object. Credentials, region and endpoint come from the environment."""

    def __init__(self, url: str, allowed: "Allowed | None" = None) -> None:
        self._address = Address.of(url)
        self._allowed = allowed
        self.uri = self._address.uri
        self._size: int | None = None

    def size(self) -> int | None:
        return self._size

    def version(self) -> str:
        return object_version(self._address, self._allowed)

    def open_at_random(self) -> IO[bytes]:
        file = open_object(self._address, self._allowed)
        self.etag, self._size = file.etag or "", file.size
        return cast("IO[bytes]", file)

    def open(self) -> Stream:
        file = open_object(self._address, self._allowed)
        self.etag = file.etag or ""
        stream, size = open_whole(cast("IO[bytes]", file), posixpath.basename(self._address.path))
        self._size = file.size if size is None else size
        return stream


def open_object(address: Address, allowed: "Allowed | None", *, at_once: bool = True) -> ObjectFile:
    """With `allowed`, connections over HTTP are held to it; where S3 and GCS are is up to the environment."""
    if allowed is not None and address.root.startswith("http"):
        from ingest_service.sources.allowed_http import AllowedHttpFile

        return AllowedHttpFile(address, allowed, at_once=at_once)
    return ObjectFile(address, at_once=at_once)


def object_version(address: Address, allowed: "Allowed | None") -> str:
    """The size and ETag of an object. SourceNotFound if it is not there."""
    with open_object(address, allowed, at_once=False) as file:
        return f"{file.size}-{file.etag or ''}"
