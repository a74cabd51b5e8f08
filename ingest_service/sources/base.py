"""What a source is: bytes with an identity. Everything here blocks; the pipeline calls it in a thread."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from ingest_service.errors import ConfigurationError


class Stream(ABC):
    """The decompressed bytes of a source, read from front to back."""

    skips_unread: bool = False  # whether what is passed over costs nothing

    @abstractmethod
    def read(self, n: int) -> bytes:
        """Up to `n` bytes, at least one; b"" at the end. LocalIOError if the source is damaged or breaks off."""

    @abstractmethod
    def stored_position(self) -> int:
        """How far into the stored (maybe compressed) bytes this is: what percent and ETA are told by."""

    @abstractmethod
    def close(self) -> None: ...

    @property
    def warnings(self) -> Sequence[str]:
        """What was passed over without an error, as far as it has been read."""
        return ()

    def skip(self, n: int) -> int:
        """Pass over `n` bytes; fewer only at the end. Returns how many."""
        left = n
        while left > 0 and (data := self.read(min(left, 1 << 20))):
            left -= len(data)
        return n - left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Source(ABC):
    """Something that can be read again from the start, unless `resumable` is false.

    uri: its canonical address, without secrets; two ways to name one file give one uri.
    etag: the store's own mark of this version, or "".
    """

    uri: str
    resumable: bool = True
    etag: str = ""

    @abstractmethod
    def size(self) -> int | None:
        """Stored bytes, or None where that is not known."""

    def version(self) -> str:
        """Tells this file or object from an earlier one of its name. Blocks; SourceNotFound or LocalIOError."""
        return ""

    @abstractmethod
    def open(self) -> Stream:
        """SourceNotFound or LocalIOError if it cannot be."""

    def open_at_random(self) -> IO[bytes]:
        """The stored bytes as a file that can be sought. ConfigurationError where there is none."""
        raise ConfigurationError(f"{self.uri} can only be read from front to back; its format needs a file.")

    def interrupt(self) -> None:
        """Called from another thread: reads that wait must return soon, with whatever. Only what can wait needs it."""
