"""gzip and zstd, told by content. A stream that breaks off, or that unpacks to absurd sizes, is an error."""

import io
import sys
from typing import IO, Any, Protocol, cast

from ingest_service.errors import LocalIOError
from ingest_service.sources.base import Stream

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Rows pack 5 to 50 times. Only runs of one byte reach gzip's 1,028 or zstd's 32,731.
MAX_RATIO = 1_000
RATIO_GRACE_BYTES = 64 << 20  # below this no ratio is judged: a small file may well be one repeated line
_READ_BYTES = 1 << 18
MAX_WINDOW_LOG = 27  # 128 MiB, what the zstd command line accepts by default


class _Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...
    def close(self) -> None: ...


def open_stream(file: _Readable, name: str) -> Stream:
    """The decompressed bytes of an open file, whatever its name says. Closes the file with the stream."""
    head = b""
    try:
        while len(head) < len(ZSTD_MAGIC) and (more := file.read(len(ZSTD_MAGIC) - len(head))):
            head += more
    except OSError as error:
        raise LocalIOError(f"{name} cannot be read: {error.strerror or error}.") from error
    stored = _Stored(file, head)
    if head.startswith(GZIP_MAGIC):
        return _Packed(stored, _open_gzip(io.BufferedReader(stored, _READ_BYTES)), name)
    if head.startswith(ZSTD_MAGIC):
        return _Packed(stored, _open_zstd(io.BufferedReader(stored, _READ_BYTES)), name)
    return _Plain(stored, name)


def _open_gzip(file: IO[bytes]) -> IO[bytes]:
    from isal import igzip

    return cast("IO[bytes]", igzip.IGzipFile(fileobj=file))  # type: ignore[no-untyped-call]


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options = {int(zstd.DecompressionParameter.window_log_max): MAX_WINDOW_LOG}
    return cast("IO[bytes]", zstd.ZstdFile(file, options=options))


class _Stored(io.RawIOBase):
    """The stored bytes, counted as they are read, with the head that was read to tell the codec put back."""

    def __init__(self, file: _Readable, head: bytes) -> None:
        super().__init__()
        self._file = file
        self._head = head
        self.position = 0

    def readable(self) -> bool:
        return True

    def take(self, n: int) -> bytes:
        """Up to `n` bytes; b"" at the end."""
        if self._head:
            data = self._head[:n]
            self._head = self._head[n:]
        else:
            data = self._file.read(n)
        self.position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def skip(self, n: int) -> int | None:
        """Go `n` bytes ahead without reading, at most to the end, and return how far; None where that cannot be."""
        if isinstance(self._file, io.IOBase) and self._file.seekable():
            target = min(self.position + n, self._file.seek(0, io.SEEK_END))
            self._file.seek(target)
            skipped = target - self.position
            self._head = b""
        else:
            return None
        self.position += skipped
        return skipped

    def close(self) -> None:
        self._file.close()
        super().close()


class _Plain(Stream):
    def __init__(self, stored: _Stored, name: str) -> None:
        self._stored = stored
        self._name = name

    def read(self, n: int) -> bytes:
        try:
            return self._stored.take(n)
        except OSError as error:
            raise LocalIOError(f"{self._name} cannot be read: {error.strerror or error}.") from error

    def skip(self, n: int) -> int:
        skipped = self._stored.skip(n)
        return super().skip(n) if skipped is None else skipped

    def stored_position(self) -> int:
        return self._stored.position

    def close(self) -> None:
        self._stored.close()


class _Packed(Stream):
    def __init__(self, stored: _Stored, data: IO[bytes], name: str) -> None:
        self._stored = stored
        self._data = data
        self._name = name
        self._produced = 0

    def read(self, n: int) -> bytes:
        try:
            data = self._data.read(n)
        except EOFError:
            raise LocalIOError(
                f"{self._name} breaks off before the end of its compressed data; get a whole copy."
            ) from None
        except Exception as error:  # each codec has error classes of its own, without a common base
            raise LocalIOError(
                f"{self._name} cannot be unpacked ({type(error).__name__}); get a whole copy."
            ) from error
        self._produced += len(data)
        if self._produced > RATIO_GRACE_BYTES and self._produced > MAX_RATIO * self._stored.position:
            raise LocalIOError(f"{self._name} unpacks to over {MAX_RATIO} times its size, as no file of rows does.")
        return data

    def stored_position(self) -> int:
        return self._stored.position

    def close(self) -> None:
        self._data.close()
        self._stored.close()
