"""A source cut into blocks of whole records, and a block turned into a chunk.

A block is what lies between its start and the last record's end within the next `BLOCK_BYTES`, and not more than one
record for each `ROW_BYTES` of them: where it ends depends on nothing but where it begins. So a resumed run cuts the
same blocks as one that was never interrupted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError, LineContinued, RowError, SourceChanged
from ingest_service.formats.delimited.layout import Layout, bind, specify
from ingest_service.formats.delimited.records import BLANKS, MAX_RECORD_BYTES, Records, scan_record, split
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow, Position
from ingest_service.rows.columns import Values, chained, taken
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.kinds import binary_kind, likely_kind

MEMORY_MB: Final = 350
MIN_MEMORY_MB: Final = 182  # of which a block holds the longest record twice over
# Measured peaks, whatever the file and the sinks: the program itself, and for each MiB of block what is made of it
# in the two chunks and the two blocks that are there at a time (benchmarks, section memory).
_PROGRAM_MB, _MB_PER_BLOCK_MB = 126, 28
_MB_PER_SINK = 8  # more for each MiB of block, for each sink beyond two that encodes the same chunk
_MIN_BLOCK_BYTES = 2 * MAX_RECORD_BYTES


def block_bytes_within(memory_mb: int, n_sinks: int = 1) -> int:
    """The length of the blocks with which a run into so many sinks stays within a peak of `memory_mb`."""
    per_block_mb = _MB_PER_BLOCK_MB + _MB_PER_SINK * max(0, n_sinks - 2)
    return max(_MIN_BLOCK_BYTES, ((memory_mb - _PROGRAM_MB) << 20) // per_block_mb)


BLOCK_BYTES: Final = block_bytes_within(MEMORY_MB)
ROW_BYTES: Final = 32  # a row takes memory by itself, so a block of shorter rows has no more of them
TAIL_BYTES: Final = 1 << 20
_HEADER_BYTES = 1 << 12
BOM = b"\xef\xbb\xbf"
_SEPARATOR_LINE = re.compile(rb"\"?sep=.\"?[\s,;|]*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records between two positions; `data` begins at `start.offset`, and may go on beyond the last of them.

    `is_unended`: they are records only because the source ends here, and others if it goes on.
    """

    start: Position
    end: Position
    data: bytes
    records: Records
    is_unended: bool = False


class BlockReader:
    """Reads one source from a position on. Blocks the caller; not thread-safe."""

    def __init__(
        self,
        source: Source,
        dataset: Dataset,
        *,
        columns: dict[str, str] | None = None,
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
            self.layout, head = self._read_header()
        except BaseException:
            self.close()
            raise
        self._first = self._position = Position(len(head), 0, head.count(b"\n"), _tail_hash(self._tail))

    @property
    def first(self) -> Position:
        """Where the first data row begins."""
        return self._first

    @property
    def position(self) -> Position:
        """Where the next block begins."""
        return self._position

    @property
    def is_done(self) -> bool:
        """Whether there is no next block: the end or the limit is reached."""
        return self.reached_end or (self._limit is not None and self._position.row >= self._limit)

    @property
    def warnings(self) -> Sequence[str]:
        """What of the source was passed over so far."""
        return self._stream.warnings

    def stored_position(self) -> int:
        return self._stream.stored_position()

    def close(self) -> None:
        self._stream.close()

    def require_header(self, header: str) -> None:
        """SourceChanged unless the source still has the header that was ingested."""
        if header != self.layout.header:
            raise SourceChanged(
                "The source's header is not the one that was ingested; use --restart to start it again."
            )

    def resume(self, at: Position, *, was_unended: bool = False) -> None:
        """Go on at `at`, which an earlier run reached. SourceChanged if this is not the file that it read.

        LineContinued if its last line, or with `was_unended` its last record, had no end then, and went on since.
        """
        if at.offset <= self._first.offset:
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
        self._position = at
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

    def next(self) -> Block | None:
        """The next block, or None at the end or the limit (`reached_end` tells which)."""
        if self.is_done:
            return None
        self.source_size = self._source.size()  # a file may grow while it is read
        self._fill(self._block_bytes + 1)
        if not self._buffer:
            self.reached_end = True
            return None
        eof = self._at_end and len(self._buffer) <= self._block_bytes
        data = bytes(memoryview(self._buffer)[: self._block_bytes])
        records = split(data, self.layout.dialect, eof=False)
        # What only the end decides comes last, by itself: it may be taken back when the source goes on.
        is_unended = eof and not records.consumed
        if is_unended:
            records = split(data, self.layout.dialect, eof=True)
        if not records.consumed:
            return self._giant(data)
        rows = max(1, self._block_bytes // ROW_BYTES)
        if self._limit is not None:
            rows = min(rows, self._limit - self._position.row)
        is_unended &= len(records) <= rows
        records = records.head(rows)
        start = self._position
        self._leave(data, records.consumed)
        self._position = Position(
            start.offset + records.consumed,
            start.row + len(records),
            start.line + records.lines_consumed,
            _tail_hash(self._tail),
        )
        return Block(start, self._position, data, records, is_unended)

    def _giant(self, head: bytes) -> Block:
        """A line longer than a block: pass over it, keep its first block."""
        start, length, newline = self._position, 0, -1
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
            delimiters=np.empty((0, self.layout.dialect.n_fields - 1), np.int64),
            has_quotes=False,
            scanned={0: RowError("parse", "record_too_long", reason)},
            consumed=length,
            lines_consumed=int(newline >= 0),
        )
        end_line = start.line + records.lines_consumed
        self._position = Position(start.offset + length, start.row + 1, end_line, _tail_hash(self._tail))
        return Block(start, self._position, head, records, is_unended=newline < 0)

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


def parse_block(block: Block, layout: Layout) -> Chunk:
    """Typed columns for the rows that are plainly right; the specification decides on each of the others."""
    records = block.records
    is_other = np.ones(len(records), np.bool_)
    parts: list[tuple[Ints, list[Values]]] = []
    if len(records.plain):
        plain, valid = layout.columns(block.data, records)
        rows = records.plain if valid.all() else records.plain[valid]
        parts.append((rows, plain if valid.all() else [taken(values, np.flatnonzero(valid)) for values in plain]))
        is_other[rows] = False
    rejects: list[DeadRow] = []
    others: dict[int, list[Any]] = {}
    for index in np.flatnonzero(is_other).tolist():
        result = specify(record_fields(block, index, layout), layout)
        if isinstance(result, RowError):
            rejects.append(_dead_row(block, index, result))
        else:
            others[index] = result
    if others or not parts:
        kinds = [column.kind for column in layout.dataset.columns]
        columns = [kind.gathered([row[i] for row in others.values()]) for i, kind in enumerate(kinds)]
        parts.append((np.array(list(others), np.int64), columns))
    accepted, values = _in_order(parts)
    by_role = {column.role: one for column, one in zip(layout.dataset.columns, values, strict=True)}
    return Chunk(
        block.start,
        block.end,
        block.data,
        block.start.offset,
        layout.dataset.records(by_role),
        records.starts[accepted],
        records.ends[accepted],
        block.start.line + records.lines[accepted] + 1,
        rejects,
        is_unended=block.is_unended,
    )


def _in_order(parts: Sequence[tuple[Ints, list[Values]]]) -> tuple[Ints, list[Values]]:
    """Which rows there are, and their values by column, out of parts that have some rows each."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part for part, _ in parts])
    order = np.argsort(rows)
    columns = zip(*(values for _, values in parts), strict=True)
    return rows[order], [taken(chained(column), order) for column in columns]


def _dead_row(block: Block, index: int, error: RowError) -> DeadRow:
    start, end = int(block.records.starts[index]), int(block.records.ends[index])
    line = block.start.line + int(block.records.lines[index]) + 1
    return DeadRow(block.start.offset + start, line, block.data[start:end], error.stage, error.code, error.reason)


def record_fields(block: Block, index: int, layout: Layout) -> list[str] | RowError:
    """The fields of one record as text, by the specification; or why it is refused."""
    records = block.records
    if index in records.scanned:
        return records.scanned[index]
    raw = block.data[records.starts[index] : records.ends[index]]
    # With its line end again: without, a CR that ends the last field would be taken for one.
    record = scan_record(raw + b"\r\n", 0, layout.dialect, eof=True)
    assert record is not None and record.fields is not None, "a plain record is whole and not blank"
    return record.fields
