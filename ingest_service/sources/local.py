"""Files on this machine, plain or compressed, or standard input."""

import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ingest_service.errors import LocalIOError, SourceNotFound
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.compression import open_stream
from ingest_service.sources.zip_member import open_whole


class FileSource(Source):
    """One file, by its real path; of a zip archive its only member."""

    def __init__(self, path: Path, opener: Callable[[Path], IO[bytes]] | None = None) -> None:
        self.path = path
        self._opener = opener or open_file
        self.uri = path.resolve().as_uri()
        self._size: int | None = None  # of the bytes that are read, where these are not the file's own

    def size(self) -> int | None:
        if self._size is not None:
            return self._size
        try:
            return self.path.stat().st_size
        except OSError:
            return None

    def version(self) -> str:
        return file_version(self.path)

    def open_at_random(self) -> IO[bytes]:
        return self._opener(self.path)

    def open(self) -> Stream:
        stream, self._size = open_whole(self._opener(self.path), self.path.name)
        return stream


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


def file_version(path: Path) -> str:
    """What tells it from an earlier file of its name. SourceNotFound if it is not there."""
    try:
        found = path.stat()
    except OSError:
        raise SourceNotFound(f"There is no file {path}.") from None
    return version_of(found)


def version_of(found: os.stat_result) -> str:
    """Of a file that was looked at: its size and time, the file itself, and when anything about it was changed.

    The last one is there for files that are written anew with the size and time that they had.
    """
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}-{found.st_ctime_ns}"


def is_same_content(version: str, other: str) -> bool:
    """Whether a file is what it was, though maybe under another name."""
    return version.rpartition("-")[0] == other.rpartition("-")[0]


def open_file(path: Path, opener: Callable[[str, int], int] | None = None) -> IO[bytes]:
    """SourceNotFound or LocalIOError if it cannot be. `opener` is that of `open`."""
    if path.is_dir():
        raise SourceNotFound(f"{path} is a folder; name a file, or a pattern such as '{path}/*.csv'.")
    try:
        return open(path, "rb", buffering=0, opener=opener)  # Path.open takes no opener
    except FileNotFoundError:
        raise SourceNotFound(f"There is no file {path}.") from None
    except OSError as error:
        raise LocalIOError(f"{path} cannot be read: {error.strerror}.") from error
