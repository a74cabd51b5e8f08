"""Delimited text cut into blocks of whole records.

A block is what lies between its start and the last record's end within the next `BLOCK_BYTES`, and not more than one
record for each `ROW_BYTES` of them: where it ends depends on nothing but where it begins.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError, LineContinued, RowError, SourceChanged
from ingest_service.formats.base import Reader
from ingest_service.formats.delimited.chunks import DelimitedBlock, chunk_of, fields_of
from ingest_service.formats.delimited.layout import Layout, bind, specify
from ingest_service.formats.delimited.records import BLANKS, MAX_RECORD_BYTES, Records, split
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.kinds import binary_kind, likely_kind

ROW_BYTES: Final = 32  # a row takes memory by itself, so a block of shorter rows has no more of them
TAIL_BYTES: Final = 1 << 20
_HEADER_BYTES = 1 << 12
BOM = b"\xef\xbb\xbf"
_SEPARATOR_LINE = re.compile(rb"\"?sep=.\"?[\s,;|]*", re.IGNORECASE | re.DOTALL)


class DelimitedReader(Reader[DelimitedBlock]):
    """Reads delimited text."""

    rows: Layout

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
        self._block_bytes = block_bytes
        self._source = source
        self._stream: Stream = source.open()
        self.source_size = source.size()
        self._buffer = bytearray()
        self._at_end = False
        self._tail = b""
        self.reached_end = False
        try:
            self.rows, head = self._read_header()
        except BaseException:
            self.close()
            raise
        self.first = self.position = Position(len(head), 0, head.count(b"\n"), _tail_hash(self._tail))

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
            raise SourceChanged(
                "The source's header is not the one that was ingested; use --restart to start it again."
            )

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
            head += self._read_up_to(at.offset - base - len(head))
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
        self._refuse_continued_line(tail, was_unended)

    def _refuse_continued_line(self, tail: bytes, was_unended: bool) -> None:
        """A last line without an end was ingested as it stood; if the file grew by its rest, the row is another."""
        is_within_quotes = was_unended and tail.endswith(b"\n")
        if tail.endswith(b"\n") and not is_within_quotes:
            return
        self._fill(2)
        if self._buffer and (is_within_quotes or not self._buffer.startswith((b"\n", b"\r\n"))):
            raise LineContinued(
                "The source's last line had no line end when it was ingested, and was continued since; "
                + ("load it again first." if was_unended else "use --restart to start it again.")
            )

    def next(self) -> DelimitedBlock | None:
        if self.is_done:
            return None
        self.source_size = self._source.size()  # a file may grow while it is read
        self._fill(self._block_bytes + 1)
        if not self._buffer:
            self.reached_end = True
            return None
        eof = self._at_end and len(self._buffer) <= self._block_bytes
        data = bytes(memoryview(self._buffer)[: self._block_bytes])
        records = split(data, self.rows.dialect, eof=False)
        # What only the end decides comes last, by itself: it may be taken back when the source goes on.
        is_unended = eof and not records.consumed
        if is_unended:
            records = split(data, self.rows.dialect, eof=True)
        if not records.consumed:
            return self._giant(data)
        rows = max(1, self._block_bytes // ROW_BYTES)
        if self._limit is not None:
            rows = min(rows, self._limit - self.position.row)
        is_unended &= len(records) <= rows
        records = records.head(rows)
        start = self.position
        self._leave(data, records.consumed)
        self.position = Position(
            start.offset + records.consumed,
            start.row + len(records),
            start.line + records.lines_consumed,
            _tail_hash(self._tail),
        )
        return DelimitedBlock(start, self.position, is_unended, data, records)

    def chunk(self, block: DelimitedBlock) -> Chunk:
        return chunk_of(block, self.rows)

    def values(self, block: DelimitedBlock) -> Iterator[list[Any] | RowError]:
        return (specify(fields_of(block, index, self.rows), self.rows) for index in range(len(block.records)))

    def ended(self, block: DelimitedBlock, end: Position) -> DelimitedBlock:
        data = block.data[: end.offset - block.start.offset]
        return DelimitedBlock(block.start, end, True, data, split(data, self.rows.dialect, eof=True))

    def _giant(self, head: bytes) -> DelimitedBlock:
        """A line longer than a block: pass over it, keep its first block."""
        start, length, newline = self.position, 0, -1
        while True:
            newline = self._buffer.find(b"\n")
            length += len(self._take(newline + 1 if newline >= 0 else len(self._buffer)))
            if newline >= 0:
                break
            self._fill(self._block_bytes)
            if not self._buffer:
                break
        reason = (
            f"The record is longer than {MAX_RECORD_BYTES} bytes; of its {length} bytes the first {len(head)} are kept."
        )
        records = Records(
            starts=np.zeros(1, np.int64),
            ends=np.full(1, len(head)),
            lines=np.zeros(1, np.int64),
            plain=np.empty(0, np.int64),
            delimiters=np.empty((0, self.rows.dialect.n_fields - 1), np.int64),
            has_quotes=False,
            scanned={0: RowError("parse", "record_too_long", reason)},
            consumed=length,
            lines_consumed=int(newline >= 0),
        )
        end_line = start.line + records.lines_consumed
        self.position = Position(start.offset + length, start.row + 1, end_line, _tail_hash(self._tail))
        return DelimitedBlock(start, self.position, newline < 0, head, records)

    def _read_header(self) -> tuple[Layout, bytes]:
        """The header, and all bytes up to its end: what stands before it is passed over."""
        start = 0
        while True:
            end = self._line_end(start)
            if not start:
                self._refuse_what_is_no_text()
            line = bytes(self._buffer[start:end]).removeprefix(b"" if start else BOM).rstrip(b"\r\n")
            if not _stands_before_a_header(line):
                layout = self._bind(line)
                if layout is not None:
                    return layout, self._take(end)
            start = end

    def _line_end(self, start: int) -> int:
        """One past the line that begins at `start`. ConfigurationError if there is none that could be a header."""
        while (newline := self._buffer.find(b"\n", start)) < 0 and not self._at_end:
            if len(self._buffer) >= MAX_RECORD_BYTES:
                break
            self._fill(len(self._buffer) + 1, ahead=_HEADER_BYTES)
        if start >= len(self._buffer):
            raise ConfigurationError("The source is empty; it must begin with a header line.")
        if newline < 0 and len(self._buffer) >= MAX_RECORD_BYTES:
            self._refuse_what_is_no_text(likely=True)
            raise ConfigurationError("The source's first line is too long for a header; is this a text file?")
        return newline + 1 if newline >= 0 else len(self._buffer)

    def _bind(self, line: bytes) -> Layout | None:
        """None for a comment. Some mark their header like one, so a line that can be a header is one."""
        is_comment = line.startswith(b"#")
        try:
            return bind(self._dataset, line, self._columns, by_position=not is_comment)
        except ConfigurationError:
            if is_comment:
                return None
            self._refuse_what_is_no_text(likely=True)
            raise

    def _refuse_what_is_no_text(self, *, likely: bool = False) -> None:
        head = bytes(self._buffer[:_HEADER_BYTES])
        kind = binary_kind(head) or (likely_kind(head) if likely else "")
        if kind:
            raise ConfigurationError(f"The source is {kind}.")

    def _fill(self, n: int, ahead: int = 0) -> None:
        """Have `n` bytes, if there are as many; up to `ahead` more are taken if they are there at once."""
        while len(self._buffer) < n and not self._at_end:
            data = self._stream.read(n + ahead - len(self._buffer))
            self._buffer += data
            self._at_end = not data

    def _read_up_to(self, n: int) -> bytes:
        parts = bytearray()
        while len(parts) < n and (data := self._stream.read(n - len(parts))):
            parts += data
        return bytes(parts)

    def _take(self, n: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:n])
        self._leave(data, n)
        return data

    def _leave(self, data: bytes, n: int) -> None:
        """Go past the first `n` bytes of the buffer, which are those of `data`."""
        del self._buffer[:n]
        self._tail = data[n - TAIL_BYTES : n] if n >= TAIL_BYTES else (self._tail + data[:n])[-TAIL_BYTES:]


def _stands_before_a_header(line: bytes) -> bool:
    """Whether a line is blank, or says the delimiter as Excel wants it."""
    return not line.strip(BLANKS) or _SEPARATOR_LINE.fullmatch(line) is not None


def _tail_hash(tail: bytes) -> str:
    return blake2b(tail, digest_size=16).hexdigest()
