"""Text cut into blocks of whole rows, whatever a row is.

A block is what lies between its start and the last row's end within the next `BLOCK_BYTES`, and not more than one row
for each `ROW_BYTES` of them: where it ends depends on nothing but where it begins. Offsets are those of the source's
decompressed bytes, in whatever encoding.
"""

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Final

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError, LineContinued, RowError, SourceChanged
from ingest_service.formats.base import Reader, Rows, RowValues
from ingest_service.formats.chunks import Plain, TextBlock, chunk_of
from ingest_service.formats.cuts import BEFORE_BYTES, certain_start
from ingest_service.formats.encodings import encoding_of
from ingest_service.formats.lines import Lines
from ingest_service.formats.memory import BLOCK_BYTES, MAX_RECORD_BYTES
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.kinds import binary_kind, likely_kind

ROW_BYTES: Final = 32  # a row takes memory by itself, so a block of shorter rows has no more of them
TAIL_BYTES: Final = 1 << 20
BOM = b"\xef\xbb\xbf"
AHEAD_BYTES = 1 << 12


class TextReader(Reader[TextBlock]):
    """Reads text whose rows begin at line ends; a subclass says what stands before the first, and what a row is."""

    _recipe_is_another = "header is not the one that was ingested"

    def __init__(
        self,
        source: Source,
        dataset: Dataset,
        *,
        columns: Mapping[str, str] | None = None,
        limit: int | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        if block_bytes < 2 * MAX_RECORD_BYTES:
            raise ValueError("a block must hold the longest record twice over")
        self._dataset = dataset
        self._columns = columns
        self._limit = limit
        self._end: Position | None = None
        self._left = sys.maxsize  # bytes that are to be read yet
        self._block_bytes = block_bytes
        self._source = source
        self._stream: Stream = source.open()
        self.source_size = source.size()
        self._buffer = bytearray()
        self._at_end = False
        self._tail = b""
        self.reached_end = False
        try:
            self._fill(2)
            self._encoding = encoding_of(dataset.form.encoding, bytes(self._buffer[:2]))
            self.rows, n_bytes = self._begin()
        except BaseException:
            self.close()
            raise
        head = self._take(n_bytes)
        n_lines = self._encoding.text(head).count(b"\n")
        self.first = self.position = Position(n_bytes, 0, n_lines, _tail_hash(self._tail))

    # --- what a format says -----------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> tuple[Rows, int]:
        """How rows are read, and how many bytes stand before the first. ConfigurationError if it has no such rows."""

    @abstractmethod
    def _split(self, text: bytes, *, eof: bool) -> Lines:
        """All whole rows of a text that begins with one and is not empty."""

    @abstractmethod
    def _plain(self, block: TextBlock) -> Plain | None:
        """The rows that are surely right, many at once; None if there are none."""

    @abstractmethod
    def _specify(self, block: TextBlock, index: int) -> RowValues | RowError:
        """One row, as the specification has it."""

    # --- what a reader does -----------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        return self.reached_end or (self._limit is not None and self.position.row >= self._limit)

    @property
    def warnings(self) -> Sequence[str]:
        return self._stream.warnings

    def stored_position(self) -> int:
        return self._stream.stored_position()

    def close(self) -> None:
        self._stream.close()

    def require(self, recipe: str) -> None:
        if recipe != self.rows.recipe:
            raise SourceChanged(f"The source's {self._recipe_is_another}; use --restart to start it again.")

    def resume(self, at: Position, *, was_unended: bool = False) -> None:
        if at.offset <= self.first.offset:
            return
        tail_start = max(0, at.offset - TAIL_BYTES)
        head = self._tail + bytes(self._buffer)  # the bytes from 0 on that reading the header took
        if len(head) < at.offset:
            skip = tail_start - len(head)
            if skip > 0:
                self._stream.skip(skip)
                head, base = b"", tail_start
            else:
                base = 0
            head += _read_up_to(self._stream, at.offset - base - len(head))
        else:
            base = 0
        tail, rest = head[tail_start - base : at.offset - base], head[at.offset - base :]
        if len(tail) < at.offset - tail_start:
            raise SourceChanged(
                f"The source ends before byte {at.offset}, up to which it was ingested; "
                "use --restart to start it again."
            )
        if _tail_hash(tail) != at.tail_hash:
            raise SourceChanged(
                f"The source's bytes before {at.offset} are not those that were ingested; "
                "use --restart to start it again."
            )
        self._buffer = bytearray(rest)
        self._tail = tail
        self.position = at
        self._end_in_time()
        self._refuse_continued_line(tail, was_unended)

    def _refuse_continued_line(self, tail: bytes, was_unended: bool) -> None:
        """A last line without an end was ingested as it stood; if the file grew by its rest, the row is another."""
        has_end = self._encoding.text(tail[-self._encoding.unit :]) == b"\n"
        if has_end and not was_unended:
            return
        self._fill(2 * self._encoding.unit)
        rest = self._encoding.text(bytes(self._buffer[: 2 * self._encoding.unit]))
        if rest and (has_end or not rest.startswith((b"\n", b"\r\n"))):
            raise LineContinued(
                "The source's last line had no line end when it was ingested, and was continued since; "
                + ("load it again first." if was_unended else "use --restart to start it again.")
            )

    @property
    def is_divisible(self) -> bool:
        return self._stream.skips_unread

    def cut(self, offset: int) -> Position | None:
        offset -= (offset - self.first.offset) % self._encoding.unit
        start = max(self.first.offset, offset - BEFORE_BYTES)
        if offset <= start:
            return None
        with self._source.open() as stream:
            stream.skip(start)
            stored = _read_up_to(stream, offset - start + MAX_RECORD_BYTES + AHEAD_BYTES)
        text = self._encoding.text(stored)
        goal = len(self._encoding.text(stored[: offset - start]))
        found = certain_start(text, goal, self._next_start, begins=start == self.first.offset)
        if found is None:
            return None
        n_bytes = int(self._encoding.places(text, np.array([found]))[0])
        return Position(start + n_bytes, 0, 0, _tail_hash(self._tail_before(start + n_bytes)))

    def until(self, end: Position) -> None:
        self._end = end
        self._end_in_time()

    def _next_start(self, text: bytes, start: int) -> int | None:
        """Where the row after the one that begins at `start` does; None if the text ends before that is known."""
        return text.find(b"\n", start) + 1 or None

    def _tail_before(self, offset: int) -> bytes:
        with self._source.open() as stream:
            stream.skip(max(0, offset - TAIL_BYTES))
            return _read_up_to(stream, min(offset, TAIL_BYTES))

    def next(self) -> TextBlock | None:
        if self.is_done:
            return None
        self.source_size = self._source.size()  # a file may grow while it is read
        self._fill(self._block_bytes + 1)
        if not self._buffer:
            self.reached_end = True
            return None
        eof = self._at_end and len(self._buffer) <= self._block_bytes
        stored = bytes(memoryview(self._buffer)[: self._block_bytes])
        data = self._encoding.text(stored)
        lines = self._split(data, eof=False)
        # What only the end decides comes last, by itself: it may be taken back when the source goes on.
        is_unended = eof and not lines.consumed
        if is_unended:
            lines = self._split(data, eof=True)
        if not lines.consumed:
            return self._giant(data)
        rows = max(1, self._block_bytes // ROW_BYTES)
        if self._limit is not None:
            rows = min(rows, self._limit - self.position.row)
        is_unended &= len(lines) <= rows
        lines = lines.head(rows)
        start = self.position
        places = self._encoding.places(data, np.append(lines.starts, lines.consumed))
        consumed = int(places[-1])
        self._leave(stored, consumed)
        self._advance(consumed, len(lines), lines.lines_consumed)
        return TextBlock(start, self.position, is_unended, data, lines, start.offset + places[:-1])

    def chunk(self, block: TextBlock) -> Chunk:
        plain = None if block.refused else self._plain(block)
        return chunk_of(block, block.places, self.rows.dataset, plain, partial(self._one, block))

    def only(self, block: TextBlock, offsets: Ints) -> TextBlock:
        wanted = np.searchsorted(block.offsets, offsets)  # both ascend
        # With line ends as long as any: without, a CR that ends the last field would be taken for one.
        text = b"".join(block.raw(index) + b"\r\n" for index in wanted.tolist())
        lines = self._split(text, eof=True)
        return TextBlock(block.start, block.end, block.is_unended, text, lines, block.offsets[wanted], block.refused)

    def values(self, block: TextBlock) -> Iterator[RowValues | RowError]:
        return (self._one(block, index) for index in range(len(block.lines)))

    def ended(self, block: TextBlock, end: Position) -> TextBlock:
        stored = self._encoding.stored(block.data)[: end.offset - block.start.offset]
        data = self._encoding.text(stored)
        lines = self._split(data, eof=True)
        offsets = block.start.offset + self._encoding.places(data, lines.starts)
        return TextBlock(block.start, end, True, data, lines, offsets)

    def _one(self, block: TextBlock, index: int) -> RowValues | RowError:
        return block.refused or self._specify(block, index)

    def _giant(self, head: bytes) -> TextBlock:
        """A line longer than a block: pass over it, keep its first block."""
        start, length, end = self.position, 0, 0
        while not end and self._buffer:
            end = self._encoding.line_end(self._buffer, 0)
            cut_off = 0 if self._at_end else len(self._buffer) % self._encoding.unit
            length += len(self._take(end or len(self._buffer) - cut_off))
            if not end:
                self._fill(self._block_bytes)
        reason = (
            f"The record is longer than {MAX_RECORD_BYTES} bytes; of its {length} bytes the first {len(head)} are kept."
        )
        self._advance(length, 1, int(end > 0))
        first = np.zeros(1, np.int64)
        lines = Lines(first, np.full(1, len(head)), first, len(head), int(end > 0))
        refused = RowError("parse", "record_too_long", reason)
        return TextBlock(start, self.position, False, head, lines, first + start.offset, refused)

    def _advance(self, n_bytes: int, n_rows: int, n_lines: int) -> None:
        at = self.position
        self.position = Position(at.offset + n_bytes, at.row + n_rows, at.line + n_lines, _tail_hash(self._tail))

    # --- bytes ------------------------------------------------------------------------------------

    def _line(self, start: int) -> tuple[bytes, int]:
        """The line that begins at byte `start` before the first row, without its end, and one past that.

        ConfigurationError if there is none, or it is too long for one.
        """
        while not (end := self._encoding.line_end(self._buffer, start)) and not self._at_end:
            if len(self._buffer) >= MAX_RECORD_BYTES:
                break
            self._fill(len(self._buffer) + 1, ahead=AHEAD_BYTES)
        if start >= len(self._buffer):
            raise ConfigurationError("The source is empty; it must begin with a header line.")
        if not end and len(self._buffer) >= MAX_RECORD_BYTES:
            self._refuse_what_is_no_text(likely=True)
            raise ConfigurationError("The source's first line is too long for a header; is this a text file?")
        end = end or len(self._buffer)
        line = self._encoding.text(bytes(self._buffer[start:end]))
        return line.removeprefix(b"" if start else BOM).rstrip(b"\r\n"), end

    def _mark_bytes(self) -> int:
        """The length of the byte order mark at the beginning."""
        n = len(BOM) if self._encoding.unit == 1 else 2
        return n if self._encoding.text(bytes(self._buffer[:n])) == BOM else 0

    def _refuse_what_is_no_text(self, *, likely: bool = False) -> None:
        """ConfigurationError if the source begins as what cannot be text, or with `likely` as what is hardly."""
        head = self._encoding.text(bytes(self._buffer[:AHEAD_BYTES]))
        kind = binary_kind(head) or (likely_kind(head) if likely else "")
        if kind:
            raise ConfigurationError(f"The source is {kind}.")

    def _fill(self, n: int, ahead: int = 0) -> None:
        """Have `n` bytes, if there are as many; up to `ahead` more are taken if they are there at once."""
        while len(self._buffer) < n and not self._at_end:
            data = self._stream.read(min(n + ahead - len(self._buffer), self._left))
            self._buffer += data
            self._left -= len(data)
            self._at_end = not data

    def _end_in_time(self) -> None:
        """What lies beyond the end is not there."""
        if self._end is not None:
            n_bytes = self._end.offset - self.position.offset
            del self._buffer[n_bytes:]
            self._left = n_bytes - len(self._buffer)

    def _take(self, n: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:n])
        self._leave(data, n)
        return data

    def _leave(self, data: bytes, n: int) -> None:
        """Go past the first `n` bytes of the buffer, which are those of `data`."""
        del self._buffer[:n]
        self._tail = data[n - TAIL_BYTES : n] if n >= TAIL_BYTES else (self._tail + data[:n])[-TAIL_BYTES:]


def _read_up_to(stream: Stream, n: int) -> bytes:
    parts = bytearray()
    while len(parts) < n and (data := stream.read(n - len(parts))):
        parts += data
    return bytes(parts)


def _tail_hash(tail: bytes) -> str:
    return blake2b(tail, digest_size=16).hexdigest()
