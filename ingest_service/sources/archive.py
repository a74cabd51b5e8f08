"""One member of a zip archive, streamed without unpacking to disk; the archive may be a file or an object."""

import io
import lzma
import stat
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ingest_service.errors import LocalIOError, SourceNotFound
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.compression import MAX_RATIO, RATIO_GRACE_BYTES, open_stream
from ingest_service.sources.local import file_version, open_file
from ingest_service.sources.object_file import ObjectFile
from ingest_service.sources.object_store import Address
from ingest_service.sources.objects import object_version, open_object

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
        name = f"{self._archive_uri.rpartition('/')[2]}#{self._member}"
        file = self._open_archive()
        try:
            archive = zipfile.ZipFile(file)
            info = _member(archive, self._member)
            if isinstance(file, ObjectFile):
                file.fetch_to = _end_of(info, archive)
            self._size = info.file_size
            return open_stream(_MemberFile(archive.open(info), archive, file), name)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            file.close()
            raise LocalIOError(
                f"{name.partition('#')[0]} is not a zip archive that can be read; get a whole copy."
            ) from error
        except BaseException:
            file.close()
            raise


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


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The member of that path, or the only one of that file name (archives hold a folder named after them)."""
    found = [
        info
        for info in archive.infolist()
        if info.filename == name or (info.filename.rpartition("/")[2] == name and not info.is_dir())
    ]
    exact = [info for info in found if info.filename == name]
    if len(exact or found) != 1:
        raise SourceNotFound(f"The archive has {len(found)} members named {name!r}; name one by its whole path.")
    info = (exact or found)[0]
    parts = info.filename.split("/")
    mode = info.external_attr >> 16
    if ".." in parts or info.filename.startswith("/") or stat.S_ISLNK(mode) or info.flag_bits & 0x1:
        raise LocalIOError(
            f"The archive's member {name!r} is a link, encrypted, or leads out of the archive; it is refused."
        )
    # A member is never read beyond the size that its directory entry says, so this bounds what it unpacks to.
    if info.file_size > max(RATIO_GRACE_BYTES, MAX_RATIO * info.compress_size):
        raise LocalIOError(
            f"The archive's member {name!r} unpacks to over {MAX_RATIO} times its size, as no file of rows does."
        )
    return info


def _end_of(info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> int:
    """Where the next member begins, or the directory."""
    offsets = [other.header_offset for other in archive.infolist() if other.header_offset > info.header_offset]
    return min(offsets, default=archive.start_dir)


class _MemberFile(io.RawIOBase):
    """A zip member that closes its archive with it, and reports damage as an OSError does."""

    def __init__(self, member: IO[bytes], *owners: Any) -> None:
        super().__init__()
        self._member = member
        self._owners = owners

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._member.read(len(buffer))
        except (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise OSError("the archive is damaged") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        for owner in (self._member, *self._owners):
            owner.close()
        super().close()
