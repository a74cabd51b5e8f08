"""What is looked at of a source: its beginning and pieces from further on, a few MiB however long it is."""

import io
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final
from urllib.parse import unquote

from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.compression import open_stream

HEAD_BYTES: Final = 2 * MAX_RECORD_BYTES
_PIECE_BYTES = 1 << 18
_AHEAD_BYTES = 16 << 20  # how far a source is read on that can only be read from front to back


@dataclass(frozen=True, slots=True)
class Sample:
    """Decompressed bytes. Those of `later` begin and end anywhere, though at an even offset."""

    head: bytes
    later: tuple[bytes, ...]
    is_whole: bool  # the head is all there is


class SampledSource(Source):
    """The first bytes of a source as one by itself."""

    def __init__(self, head: bytes) -> None:
        self.uri = "sample:"
        self._head = head

    def size(self) -> int:
        return len(self._head)

    def open(self) -> Stream:
        return open_stream(io.BytesIO(self._head), self.uri)


def sample_of(source: Source) -> Sample:
    """Blocks. SourceNotFound or LocalIOError if the source cannot be read."""
    with source.open() as stream:
        head = _up_to(stream, HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            return Sample(head, (), True)
        if not source.resumable:
            return Sample(head, (), False)
        size = source.size()
        is_as_stored = size is not None and stream.stored_position() == len(head)
        places = (size // 4 * 2, (size - _PIECE_BYTES) // 2 * 2) if is_as_stored and size else (_AHEAD_BYTES,)
        at, later = len(head), []
        for place in places:
            if place > at:
                at += stream.skip(place - at)
                later.append(_up_to(stream, _PIECE_BYTES))
                at += len(later[-1])
        return Sample(head, tuple(later), False)


def name_of(source: Source) -> str:
    """The source's name without folders and endings, as far as it can be a data set's."""
    name = PurePath(unquote(source.uri).rpartition("#")[2]).name.lower()
    while (ending := PurePath(name).suffix) and name != ending:
        name = name.removesuffix(ending)
    return name


def _up_to(stream: Stream, n: int) -> bytes:
    parts = bytearray()
    while len(parts) < n and (data := stream.read(n - len(parts))):
        parts += data
    return bytes(parts)
