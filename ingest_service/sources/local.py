"""Files on this machine: plain or compressed, a member of a zip, or standard input."""

import io
import lzma
import os
import select
import stat
import sys
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from ingest_service.errors import LocalIOError, SourceNotFound
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.compression import open_stream


class FileSource(Source):
    """One file, by its real path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = path.resolve().as_uri()

    def size(self) -> int | None:
        try:
            return self.path.stat().st_size
        except OSError:
            return None

    def open(self) -> Stream:
        return open_stream(_open_file(self.path), self.path.name)


class ZipMemberSource(Source):
    """`archive.zip#member`, streamed without unpacking to disk."""

    def __init__(self, path: Path, member: str) -> None:
        self.path = path
        self.member = member
        self.uri = f"{path.resolve().as_uri()}#{member}"

    def size(self) -> int | None:
        return None

    def open(self) -> Stream:
        file = _open_file(self.path)
        try:
            archive = zipfile.ZipFile(file)
            info = _member(archive, self.member)
            return open_stream(_MemberFile(archive.open(info), archive, file), f"{self.path.name}#{self.member}")
        except (zipfile.BadZipFile, NotImplementedError) as error:
            file.close()
            raise LocalIOError(f"{self.path.name} is not a zip archive that can be read; get a whole copy.") from error
        except BaseException:
            file.close()
            raise


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
    return info


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


class StdinSource(Source):
    """Standard input: read once, so a later run cannot go on in it."""

    uri = "stdin:"
    resumable = False

    def __init__(self) -> None:
        self._interrupted = threading.Event()

    def size(self) -> int | None:
        return None

    def open(self) -> Stream:
        return open_stream(_Stdin(self._interrupted), "standard input")

    def interrupt(self) -> None:
        self._interrupted.set()


class _Stdin:
    """Standard input, in waits short enough that an interrupt ends a reader that waits for a silent pipe."""

    def __init__(self, interrupted: threading.Event) -> None:
        self._interrupted = interrupted

    def read(self, n: int) -> bytes:
        fd = sys.stdin.fileno()
        while not self._interrupted.is_set():
            if select.select([fd], [], [], 0.2)[0]:
                return os.read(fd, n)
        return b""

    def close(self) -> None:
        pass


def _open_file(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise SourceNotFound(f"{path} is a folder; name a file, or a pattern such as '{path}/*.csv'.")
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise SourceNotFound(f"There is no file {path}.") from None
    except OSError as error:
        raise LocalIOError(f"{path} cannot be read: {error.strerror}.") from error
