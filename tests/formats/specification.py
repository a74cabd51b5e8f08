"""What a file of delimited text says, one record after the other; and what chunks say, in the same form."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from unittest.mock import patch

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats import text
from ingest_service.formats.base import Reader
from ingest_service.formats.delimited import records
from ingest_service.formats.delimited.layout import Layout, bind, specify
from ingest_service.formats.text import BOM
from ingest_service.rows.chunk import Chunk, DeadRow, Position
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.sources.base import Source, Stream

# --- a source that reads in odd sizes ---------------------------------------------------------------


class Bytes(Source):
    """A source in memory whose `read` returns what `sizes` say, over and over."""

    uri = "memory:"

    def __init__(self, data: bytes, sizes: list[int] | None = None) -> None:
        self.data = data
        self.sizes = sizes or [1 << 30]

    def size(self) -> int:
        return len(self.data)

    def open(self) -> Stream:
        return _BytesStream(self.data, self.sizes)


class _BytesStream(Stream):
    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = cycle(sizes)
        self._position = 0

    def read(self, n: int) -> bytes:
        start = self._position
        self._position = min(len(self._data), start + min(n, next(self._sizes)))
        return self._data[start : self._position]

    def stored_position(self) -> int:
        return self._position

    def close(self) -> None:
        pass


# --- the specification ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An accepted row and where it stands."""

    offset: int
    line: int
    raw: bytes
    values: tuple[object, ...]


def header_of(data: bytes) -> tuple[Layout, int]:
    """What the header binds, and one past its end. Blank lines, `sep=;` and comments that are none stand before it."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        line = data[start:end].removeprefix(b"" if start else BOM).rstrip(b"\r\n")
        start = end
        if line.strip(b" \t\r\v\f") and not re.fullmatch(rb"\"?sep=.\"?[\s,;|]*", line, re.IGNORECASE | re.DOTALL):
            try:
                return bind(MICROLENS, line, by_position=not line.startswith(b"#")), end
            except ConfigurationError:
                if not line.startswith(b"#"):
                    raise
    raise ConfigurationError("The source is empty.")


def specification(data: bytes, block_bytes: int) -> tuple[list[Row | DeadRow], int]:
    """Everything in the file, one record after the other; and the length of the header."""
    layout, first = header_of(data)
    found: list[Row | DeadRow] = []
    position = first
    while position < len(data):
        line = data.count(b"\n", 0, position) + 1
        newline = data.find(b"\n", position)
        end = newline if newline >= 0 else len(data)
        if end - position > block_bytes or (end - position == block_bytes and newline >= 0):
            # Longer than a block: the one thing that the reader decides, so as not to hold it in memory.
            length = (newline + 1 if newline >= 0 else len(data)) - position
            limit = records.MAX_RECORD_BYTES
            reason = f"The record is longer than {limit} bytes; of its {length} bytes the first {block_bytes} are kept."
            raw = data[position : position + block_bytes]
            found.append(DeadRow(position, line, raw, "parse", "record_too_long", reason))
            position += length
            continue
        record = records.scan_record(data, position, layout.dialect, eof=True)
        assert record is not None
        if record.fields is not None:
            raw = data[position : record.end]
            row = specify(record.fields, layout)
            if isinstance(row, RowError):
                found.append(DeadRow(position, line, raw, row.stage, row.code, row.reason))
            else:
                found += [Row(position, line, raw, record_of(values, layout)) for values in row]
        position = record.next_start
    return found, first


def record_of(values: list[int], layout: Layout) -> tuple[object, ...]:
    roles = [column.role for column in layout.dataset.columns]
    assert layout.dataset.interaction is not None
    interaction = layout.dataset.interaction(dict(zip(roles, values, strict=True)))
    return columns_of(interaction)


def columns_of(interaction: VideoInteraction) -> tuple[object, ...]:
    return (
        str(interaction.user_id),
        str(interaction.video_id),
        timestamp_text(interaction.timestamp),
        interaction.event_type.value,
        interaction.device.value,
        interaction.session_id,
    )


# --- the columnar path ------------------------------------------------------------------------------


def chunks_of(reader: Reader[Any]) -> list[Chunk]:
    chunks = []
    while (block := reader.next()) is not None:
        chunks.append(reader.chunk(block))
    return chunks


def content(chunks: list[Chunk]) -> list[Row | DeadRow]:
    """What the chunks hold, in the order of the file."""
    found: list[Row | DeadRow] = []
    for chunk in chunks:
        rows = zip(chunk.columns.frame().iter_rows(), chunk.offsets.tolist(), chunk.lines.tolist(), strict=True)
        accepted = [Row(offset, line, chunk.raws.raw(row), values) for row, (values, offset, line) in enumerate(rows)]
        found += sorted([*accepted, *chunk.rejects], key=lambda row: row.offset)
    return found


def assert_whole(chunks: list[Chunk], first: Position, data: bytes) -> None:
    """The chunks follow each other without a gap up to the end, and their positions count right."""
    at = first
    for chunk in chunks:
        assert chunk.start == at
        assert chunk.end.offset > at.offset
        assert chunk.end.row == at.row + chunk.read
        assert chunk.end.line == data.count(b"\n", 0, chunk.end.offset)
        at = chunk.end
    assert at.offset == len(data)


@contextmanager
def small_records(max_record: int, tail: int) -> Iterator[None]:
    """Limits so small that block borders, and the borders of the last MiB, fall everywhere."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(records, "MAX_RECORD_BYTES", max_record))
        stack.enter_context(patch.object(text, "MAX_RECORD_BYTES", max_record))
        stack.enter_context(patch.object(text, "TAIL_BYTES", tail))
        yield
