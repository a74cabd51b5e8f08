"""gzip, zstd, bzip2 and xz, told by content. A stream that breaks off, or that unpacks to absurd sizes, is an error."""

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from ingest_service.errors import LocalIOError
from ingest_service.sources.base import Stream

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MAGIC = b"\xfd7zXZ\0"
# "BZh", the size of a block, and then the first block (pi), or the end (the square root of pi) of an empty stream.
BZIP2_MAGICS = tuple(
    b"BZh%d" % size + first
    for size in range(1, 10)
    for first in (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
)
_ZSTD_SKIPPED = tuple(bytes((number, 0x2A, 0x4D, 0x18)) for number in range(0x50, 0x60))  # frames without data
# Rows pack 5 to 50 times. Only runs of one byte reach gzip's 1,028 or zstd's 32,731.
MAX_RATIO = 1_000
RATIO_GRACE_BYTES = 64 << 20  # below this no ratio is judged: a small file may well be one repeated line
_READ_BYTES = 1 << 17
MAX_WINDOW_LOG = 27  # 128 MiB, what the zstd command line accepts by default
_XZ_MEMORY_BYTES = 136 << 20  # a dictionary of 128 MiB; `xz -9` makes one of 64


class _Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...
    def close(self) -> None: ...


class _Decompressor(Protocol):
    """One member: what all these libraries have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Codec:
    """`magics` begin a file, these or `also` a further member. What follows the last one may be `garbage`, or an error.

    `padding` may stand between members.
    """

    name: str
    magics: tuple[bytes, ...]
    member: Callable[[], _Decompressor]
    also: tuple[bytes, ...] = ()
    garbage: bool = False
    padding: bytes = b""


def open_stream(file: _Readable, name: str) -> Stream:
    """The decompressed bytes of an open file, whatever its name says. Closes the file with the stream."""
    head = b""
    try:
        # No more than it takes: a pipe may be silent after its first line.
        while _is_undecided(head) and (more := file.read(_LONGEST - len(head))):
            head += more
    except OSError as error:
        raise LocalIOError(f"{name} cannot be read: {error.strerror or error}.") from error
    stored = _Stored(file, head)
    for codec in _CODECS:
        if head.startswith(codec.magics):
            return _Packed(stored, codec, name)
    return _Plain(stored, name)


def _is_undecided(head: bytes) -> bool:
    return any(len(head) < len(magic) and magic.startswith(head) for codec in _CODECS for magic in codec.magics)


def _gzip() -> _Decompressor:
    from isal import igzip_lib

    return cast("_Decompressor", igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP))


class _ZstdFrame:
    """One frame. libzstd does not hold one whose last block is empty to the size that its header states: we do.

    Unless all of it is unpacked at once, that is. The header has 18 bytes at most (RFC 8878, section 3.1.1.1).
    """

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        options = {int(zstd.DecompressionParameter.window_log_max): MAX_WINDOW_LOG}
        self._frame = zstd.ZstdDecompressor(options=options)
        self._info = zstd.get_frame_info
        self._head = b""
        self._size = 0

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def needs_input(self) -> bool:
        return self._frame.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, /, max_length: int) -> bytes:
        self._head += data[: 18 - len(self._head)]
        unpacked = self._frame.decompress(data, max_length=max_length)
        self._size += len(unpacked)
        if self.eof and not self._head.startswith(_ZSTD_SKIPPED):
            stated = self._info(self._head).decompressed_size
            if stated is not None and stated != self._size:
                raise ValueError(f"{self._size} bytes where {stated} are stated")
        return unpacked


def _bzip2() -> _Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> _Decompressor:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


# As their own commands do, which pass over what follows a gzip or bzip2 file with a warning, and fail for the others.
_CODECS: Final = (
    _Codec("gzip", (GZIP_MAGIC,), _gzip, garbage=True),
    _Codec("zstd", (ZSTD_MAGIC,), _ZstdFrame, also=_ZSTD_SKIPPED),
    _Codec("bzip2", BZIP2_MAGICS, _bzip2, garbage=True),
    _Codec("xz", (XZ_MAGIC,), _xz, padding=b"\0"),
)
_LONGEST: Final = max(len(magic) for codec in _CODECS for magic in codec.magics)


class _Stored:
    """The stored bytes, counted as they are read, with the head that was read to tell the codec put back."""

    def __init__(self, file: _Readable, head: bytes) -> None:
        self._file = file
        self._head = head
        self.position = 0

    def take(self, n: int) -> bytes:
        """Up to `n` bytes; b"" at the end."""
        if self._head:
            data = self._head[:n]
            self._head = self._head[n:]
        else:
            data = self._file.read(n)
        self.position += len(data)
        return data

    @property
    def is_seekable(self) -> bool:
        return isinstance(self._file, io.IOBase) and self._file.seekable()

    def skip(self, n: int) -> int | None:
        """Go `n` bytes ahead without reading, at most to the end, and return how far; None where that cannot be."""
        if self.is_seekable:
            assert isinstance(self._file, io.IOBase)
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


class _Plain(Stream):
    def __init__(self, stored: _Stored, name: str) -> None:
        self._stored = stored
        self.skips_unread = stored.is_seekable
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
    """The members of a compressed file, one after the other."""

    def __init__(self, stored: _Stored, codec: _Codec, name: str) -> None:
        self._stored = stored
        self._codec = codec
        self._name = name
        self._produced = 0
        self._member: _Decompressor | None = codec.member()
        self._input = b""  # read, and not given to a member yet
        self._is_over = False
        self._warnings: list[str] = []

    @property
    def warnings(self) -> Sequence[str]:
        return self._warnings

    def read(self, n: int) -> bytes:
        data = b""
        while not data and not self._is_over:
            if self._member is None:
                self._begin_member()
            else:
                data = self._unpack(self._member, n)
        self._produced += len(data)
        if self._produced > RATIO_GRACE_BYTES and self._produced > MAX_RATIO * self._stored.position:
            raise LocalIOError(f"{self._name} unpacks to over {MAX_RATIO} times its size, as no file of rows does.")
        return data

    def _unpack(self, member: _Decompressor, n: int) -> bytes:
        if member.needs_input and not self._input and not self._take():
            raise LocalIOError(f"{self._name} breaks off before the end of its compressed data; get a whole copy.")
        given, self._input = self._input if member.needs_input else b"", b"" if member.needs_input else self._input
        try:
            data = member.decompress(given, max_length=n)
        except Exception as error:  # each codec has error classes of its own, without a common base
            raise LocalIOError(
                f"{self._name} cannot be unpacked ({type(error).__name__}); get a whole copy."
            ) from error
        if member.eof:
            self._input, self._member = member.unused_data, None
        return data

    def _begin_member(self) -> None:
        """The next member, or the end: of the file, or of what belongs to it."""
        codec = self._codec
        magics = codec.magics + codec.also
        self._input = self._input.lstrip(codec.padding) if codec.padding else self._input
        while any(len(self._input) < len(magic) and magic.startswith(self._input) for magic in magics):
            if not self._take():
                break
            self._input = self._input.lstrip(codec.padding) if codec.padding else self._input
        if self._input.startswith(magics):
            self._member = codec.member()
        elif not self._input:
            self._is_over = True
        elif codec.garbage and not any(magic.startswith(self._input) for magic in magics):
            self._is_over = True
            self._warnings.append(
                f"{self._name} has bytes after the end of its {codec.name} data; they were passed over"
            )
        elif any(magic.startswith(self._input) for magic in magics):
            raise LocalIOError(f"{self._name} breaks off before the end of its compressed data; get a whole copy.")
        else:
            raise LocalIOError(f"{self._name} has bytes after the end of its {codec.name} data; get a whole copy.")

    def _take(self) -> bool:
        """More input; false at the end."""
        try:
            more = self._stored.take(_READ_BYTES)
        except OSError as error:
            raise LocalIOError(f"{self._name} cannot be read: {error.strerror or error}.") from error
        self._input += more
        return bool(more)

    def stored_position(self) -> int:
        return self._stored.position

    def close(self) -> None:
        self._stored.close()
