"""One member of a zip archive, streamed without unpacking to disk; the archive may be a file or an object."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ingest_service.sources.base import Source, Stream
from ingest_service.sources.local import file_version, open_file
from ingest_service.sources.object_file import ObjectFile
from ingest_service.sources.object_store import Address
from ingest_service.sources.objects import object_version, open_object
from ingest_service.sources.zip_member import open_member

if TYPE_CHECKING:
    from ingest_service.sources.allowed import Allowed


class ZipSource(Source):
    """`archive.zip#member`. The member is named by its path, or by its file name if only one has it."""

    def __init__(self, archive_uri: str, member: str) -> None:
        self.uri = f"{archive_uri}#{member}"
        self._archive_uri = archive_uri
        self._member = member
        self._size: int | None = None

    @abstractmethod
    def _open_archive(self) -> IO[bytes]: ...

    def size(self) -> int | None:
        """Bytes of the unpacked member, once it was opened."""
        return self._size

    def open(self) -> Stream:
        file = self._open_archive()

        def fetch_to(end: int) -> None:
            if isinstance(file, ObjectFile):
                file.fetch_to = end

        stream, self._size = open_member(file, self._archive_uri.rpartition("/")[2], self._member, fetch_to)
        return stream


class ZipMemberSource(ZipSource):
    """A member of an archive on this machine."""

    def __init__(self, path: Path, member: str, opener: Callable[[Path], IO[bytes]] = open_file) -> None:
        super().__init__(path.resolve().as_uri(), member)
        self._path = path
        self._opener = opener

    def version(self) -> str:
        return file_version(self._path)

    def _open_archive(self) -> IO[bytes]:
        return self._opener(self._path)


class ObjectZipMemberSource(ZipSource):
    """A member of an archive in an object store: only its directory and the member itself are fetched, in ranges."""

    def __init__(self, url: str, member: str, allowed: "Allowed | None" = None) -> None:
        self._address = Address.of(url)
        self._allowed = allowed
        super().__init__(self._address.uri, member)

    def version(self) -> str:
        return object_version(self._address, self._allowed)

    def _open_archive(self) -> IO[bytes]:
        file = open_object(self._address, self._allowed, at_once=False)
        self.etag = file.etag or ""
        return file  # type: ignore[return-value]  # a raw file is all that zipfile needs
