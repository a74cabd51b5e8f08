"""The columnar path against its specification: whole files, ugly ones included, cut into blocks anywhere."""

import csv
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import CODES, ConfigurationError, LineContinued, RowError, SourceChanged
from ingest_service.formats.delimited import blocks, records
from ingest_service.formats.delimited.blocks import DelimitedReader
from ingest_service.formats.delimited.layout import Layout, bind, specify
from ingest_service.formats.memory import BLOCK_BYTES, MEMORY_MB, MIN_MEMORY_MB, block_bytes_within
from ingest_service.rows.chunk import Chunk, DeadRow, Position
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.local import FileSource

# The same examples each time, unless more of them are asked for.
EXAMPLES = os.environ.get("INGEST_TEST_EXAMPLES")
THOROUGH = settings(
    max_examples=int(EXAMPLES or 300),
    derandomize=EXAMPLES is None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
HEADER = b"user,item,timestamp\n"

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
        line = data[start:end].removeprefix(b"" if start else blocks.BOM).rstrip(b"\r\n")
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
            values = specify(record.fields, layout)
            if isinstance(values, RowError):
                found.append(DeadRow(position, line, raw, values.stage, values.code, values.reason))
            else:
                found.append(Row(position, line, raw, record_of(values, layout)))
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


def chunks_of(reader: DelimitedReader) -> list[Chunk]:
    chunks = []
    while (block := reader.next()) is not None:
        chunks.append(reader.chunk(block))
    return chunks


def content(chunks: list[Chunk]) -> list[Row | DeadRow]:
    """What the chunks hold, in the order of the file."""
    found: list[Row | DeadRow] = []
    for chunk in chunks:
        rows = zip(
            chunk.columns.frame().iter_rows(), chunk.starts.tolist(), chunk.ends.tolist(), chunk.lines, strict=True
        )
        accepted = [
            Row(chunk.data_offset + start, int(line), chunk.data[start:end], values)
            for values, start, end, line in rows
        ]
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
        stack.enter_context(patch.object(blocks, "MAX_RECORD_BYTES", max_record))
        stack.enter_context(patch.object(blocks, "TAIL_BYTES", tail))
        yield


def either(*lists: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([text for texts in lists for text in texts])


# --- ugly files -------------------------------------------------------------------------------------

UGLY_IDS = [
    *["", "007", "+7", "-7", "-0", "+0", "+", "-", "--1", "1_000", "1.0", "1e3", "abc", "é", "\u0663", "\u00a07", "😀"],
    *["12.0", "-3.00", "1.5", ".0", "0.", "7.0.0", "1234567890123456789.0"],
    *["99999999999999999", "999999999999999999", "1000000000000000000", "9223372036854775807", "9223372036854775808"],
    *["-9223372036854775808", "-9223372036854775809", "0" * 17 + "5", "0" * 18 + "5", "0" * 45 + "5", "1" * 45],
    *["4\r", "4\v\f", "\v4", " " * 16 + "4", " " * 17 + "4", "4" + " " * 40, "1 2", "\x1c5", "5\u2028", "\x855", "nan"],
]
IDS = st.integers(0, 200).map(str) | st.integers(-5, 10**6).map(str) | st.sampled_from(UGLY_IDS)

DATES = st.one_of(
    st.sampled_from(["2020-03-05", "2022-09-12", "2024-02-29", "2000-02-29", "1970-01-01", "1969-12-31", "2261-12-31"]),
    st.sampled_from(["2262-01-01", "2023-02-29", "2100-02-29", "2020-00-10", "2020-13-01", "2020-04-31", "0000-01-01"]),
    st.sampled_from(["0001-01-01", "9999-12-31", "2020-1-05", "20200305", "2020/03/05", "2020-03-00", "-020-01-01"]),
    st.dates().map(str),
)
TIMES = st.one_of(
    st.sampled_from(
        ["00:00:00", "23:59:59", "12:34:56", "24:00:00", "23:60:00", "23:59:60", "12:34", "1:2:3", "12-34-56"]
    ),
    st.times().map(lambda time: f"{time:%H:%M:%S}"),
)
FRACTIONS = st.sampled_from(
    ["", "", ".0", ".5", ".12", ".123", ".1234", ".12345", ".123456", ".1234567", ".", ",5", ".1a"]
)
ZONES = either(
    ["", "", "Z", "z", "+00:00", "-00:00", "+05:30", "-08:00", "+23:59", "-23:59", "+24:00", "+05:60", "+0530", "+05"],
    ["+5:30", " Z", "UTC", "+aa:00", "+05-30", "\u22125:30"],
)
ISO = st.builds(
    lambda date, mark, time, fraction, zone: date + mark + time + fraction + zone,
    *(DATES, st.sampled_from(["T", " ", "T", "t", "  ", "_"]), TIMES, FRACTIONS, ZONES),
)
EPOCHS = st.one_of(
    st.integers(0, 9_214_646_400_000).map(str),
    st.integers(99_999_999_000, 100_000_001_000).map(str),
    st.integers(1_580_000_000, 1_670_000_000).map(str),
    st.integers(1_580_000_000_000, 1_670_000_000_000).map(str),
    st.integers(9_214_646_399, 9_214_646_400).map(str),
    st.builds("{}.{}".format, st.integers(0, 1_670_000_000_000), st.sampled_from(["0", "00", "5", "250", "1234567"])),
    st.integers(10**14, 10**19).map(str),
    st.integers(9_214_646_399_998, 9_214_646_400_001).map(str),
    st.sampled_from(
        ["0", "-1", "+5", "000000000005", "00000000005", "0" * 19, "1" * 18, "1" * 19, "9" * 19, "1" * 20, "1.5"]
    ),
)
TIMESTAMPS = EPOCHS | EPOCHS | ISO
PADDING = st.sampled_from(["", "", "", "", " ", "  ", "\t", "\v", "\f", "\r", " " * 17])
WRAPS = st.sampled_from(
    ["{}"] * 12
    + ['"{}"'] * 4
    + [' "{}"', '"{}" ', '\t"{}"', '" {} "', '"{}"x', '"{}" "', '"{}', '{}"', 'a"{}"', '"{}""', '""{}"', '"{}""{}"']
    + [
        '"\n{}"',
        '"{}\r\n"',
        '"{}\n\n',
        '"{},{}"',
        '"{};{}"',
        '"{}\t"',
        '""',
        '"',
        '"""{}"""',
        '\v"{}"',
        '"{}"\r',
        "'{}'",
    ]
)
UGLY_BYTES = st.sampled_from(
    [b"\0", b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\r", b'"']
)
LINE_ENDS = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r\n", b"\r\r\n", b"\n\n"])
NO_ROWS = st.sampled_from(
    [
        b"",
        b" ",
        b"\t",
        b"\v\f",
        b"\r",
        b"\xc2\xa0",
        b" " * 30,
        b"\0",
        b",",
        b",,",
        b'"',
        b'""',
        b'","',
        b"\t\t",
        b";;",
        b'"\n"',
    ]
)


@st.composite
def rows(draw: st.DrawFn, delimiter: bytes, kinds: list[str]) -> bytes:
    """One line, mostly close to right."""
    if draw(st.integers(0, 9)) == 0:
        return draw(NO_ROWS)
    fields = []
    ugly = draw(st.integers(0, 2)) > 0
    for kind in kinds:
        if not ugly:
            text = draw(st.integers(0, 300).map(str) if kind == "id" else EPOCHS)
        else:
            text = draw({"id": IDS, "timestamp": TIMESTAMPS, "other": IDS | st.text(max_size=4)}[kind])
            text = draw(PADDING) + draw(WRAPS).replace("{}", text) + draw(PADDING)
        fields.append(text.encode(errors="replace"))
    if ugly:
        change = draw(st.integers(0, 30))
        if change == 0:
            fields.append(b"1")
        elif change == 1:
            fields.pop()
        elif change == 2:
            at = draw(st.integers(0, len(fields) - 1))
            fields[at] += draw(UGLY_BYTES) + b"1"
        elif change == 3:
            at = draw(st.integers(0, len(fields) - 1))
            fields[at] += draw(st.sampled_from([b" ", b"x", b"\xc3\xa9", b'""'])) * draw(st.integers(0, 700))
    return delimiter.join(fields)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    delimiter = draw(st.sampled_from([b",", b",", b",", b";", b"\t", b"|"]))
    names = draw(
        st.sampled_from(
            [
                [b"user", b"item", b"timestamp"],
                [b"userID", b"videoID", b"timestamp"],
                [b"userID", b"itemID", b"timestamp", b"x_label"],
                [b"timestamp", b"note", b"item", b"user"],
            ]
        )
    )
    kinds = [
        "timestamp" if name == b"timestamp" else "other" if name in (b"x_label", b"note") else "id" for name in names
    ]
    header = draw(st.sampled_from([b"", b"", blocks.BOM])) + delimiter.join(names)
    lines = draw(st.lists(rows(delimiter, kinds), max_size=30))
    usual = draw(st.sampled_from([b"\n", b"\r\n", b""]))
    data = header + (usual or b"\n")
    for line in lines:
        data += line + (usual or draw(LINE_ENDS))
    return data if draw(st.booleans()) else data.rstrip(b"\n")


LIMITS = st.sampled_from([(64, 48), (100, 200), (256, 1 << 20)])
SIZES = st.lists(st.integers(1, 80), min_size=1, max_size=4) | st.just([1 << 30])


@THOROUGH
@given(data=files(), limits=LIMITS, extra=st.integers(0, 9), sizes=SIZES)
def test_blocks_say_what_the_specification_says(
    data: bytes, limits: tuple[int, int], extra: int, sizes: list[int]
) -> None:
    """Values, lines, offsets, raw bytes and rejects are those of the row-by-row path, wherever blocks end."""
    with small_records(*limits):
        block_bytes = 2 * limits[0] + extra
        expected, first = specification(data, block_bytes)
        reader = DelimitedReader(Bytes(data, sizes), MICROLENS, block_bytes=block_bytes)
        assert (reader.first.offset, reader.first.row) == (first, 0)
        chunks = chunks_of(reader)
        assert reader.reached_end
        assert content(chunks) == expected
        assert_whole(chunks, reader.first, data)
        assert all(chunk.accepted + len(chunk.rejects) == chunk.read for chunk in chunks)
        assert {row.code for row in expected if isinstance(row, DeadRow)} <= CODES.keys()


@THOROUGH
@given(data=files(), limits=LIMITS, sizes=SIZES, which=st.randoms(use_true_random=False))
def test_a_resumed_reader_gives_the_rest(data: bytes, limits: tuple[int, int], sizes: list[int], which: Random) -> None:
    """From any block's end the very same chunks follow, with their line numbers, whatever was read before."""
    with small_records(*limits):
        chunks = chunks_of(DelimitedReader(Bytes(data), MICROLENS, block_bytes=2 * limits[0]))
        for index in which.sample(range(len(chunks)), min(3, len(chunks))):
            reader = DelimitedReader(Bytes(data, sizes), MICROLENS, block_bytes=2 * limits[0])
            reader.resume(chunks[index].end)
            rest = chunks_of(reader)
            assert [(chunk.start, chunk.end) for chunk in rest] == [(c.start, c.end) for c in chunks[index + 1 :]]
            assert content(rest) == content(chunks[index + 1 :])


@THOROUGH
@given(data=files(), limits=LIMITS, share=st.floats(0, 1))
def test_only_what_comes_last_and_apart_can_change_when_a_file_goes_on(
    data: bytes, limits: tuple[int, int], share: float
) -> None:
    """Wherever a file ended once, all its rows but those marked as unended are rows of the whole, and no others."""
    with small_records(*limits):
        block_bytes = 2 * limits[0]
        reader = DelimitedReader(Bytes(data), MICROLENS, block_bytes=block_bytes)
        whole = content(chunks_of(reader))
        end = max(reader.first.offset, round(share * len(data)))
        chunks = chunks_of(DelimitedReader(Bytes(data[:end]), MICROLENS, block_bytes=block_bytes))
        assert not any(chunk.is_unended for chunk in chunks[:-1])
        settled = [chunk for chunk in chunks if not chunk.is_unended]
        sure = settled[-1].end.offset if settled else reader.first.offset
        assert content(settled) == [row for row in whole if row.offset < sure]
        if chunks and chunks[-1].is_unended and end < len(data):
            again = DelimitedReader(Bytes(data), MICROLENS, block_bytes=block_bytes)
            again.resume(chunks[-1].start)
            assert content(chunks_of(again)) == [row for row in whole if row.offset >= sure]


@THOROUGH
@given(data=files(), limits=LIMITS, limit=st.integers(1, 40))
def test_a_limit_stops_after_so_many_rows_and_can_be_raised(data: bytes, limits: tuple[int, int], limit: int) -> None:
    """A limit gives the first rows exactly, and a later run without it the rest: none twice, none left out."""
    with small_records(*limits):
        block_bytes = 2 * limits[0]
        expected, _ = specification(data, block_bytes)
        reader = DelimitedReader(Bytes(data), MICROLENS, limit=limit, block_bytes=block_bytes)
        chunks = chunks_of(reader)
        assert content(chunks) == expected[:limit]
        assert reader.is_done
        rest = DelimitedReader(Bytes(data), MICROLENS, block_bytes=block_bytes)
        if chunks:
            rest.resume(chunks[-1].end)
        assert content(chunks_of(rest)) == expected[limit:]


@THOROUGH
@given(data=files(), limits=LIMITS)
def test_after_a_position_a_chunk_has_the_rows_from_there_on(data: bytes, limits: tuple[int, int]) -> None:
    """What a sink that is ahead still needs of a chunk is what lies at or after its watermark."""
    with small_records(*limits):
        reader = DelimitedReader(Bytes(data), MICROLENS, block_bytes=2 * limits[0])
        chunks = chunks_of(reader)
        for chunk in chunks[:3]:
            assert chunk.after(chunk.end) is None
            assert chunk.after(reader.first) is chunk
            for row in content([chunk]):
                needed = chunk.after(Position(row.offset))
                assert needed is not None
                assert content([needed]) == [other for other in content([chunk]) if other.offset >= row.offset]


# --- real data --------------------------------------------------------------------------------------


def test_real_ratings_are_read_row_by_row_as_the_csv_module_reads_them(ml_latest_small: Path) -> None:
    """All ratings of MovieLens come out with the stdlib's values, lines and nothing refused."""
    path = ml_latest_small / "ratings.csv"
    reader = DelimitedReader(FileSource(path), MICROLENS)
    chunks = chunks_of(reader)
    reader.close()
    found = content(chunks)
    with path.open(newline="") as file:
        expected = list(csv.DictReader(file))
    assert len(found) == len(expected)
    layout = reader.rows
    for index, (row, fields) in enumerate(zip(found, expected, strict=True)):
        assert isinstance(row, Row)
        assert row.line == index + 2
        values = row.values
        assert values[2] == timestamp_text(_seconds(int(fields["timestamp"])))
        assert values[5] == f"session_{fields['userId']}_{str(values[2])[:10]}"
        if index % 97 == 0:
            wanted = [int(fields["userId"]), int(fields["movieId"]), int(fields["timestamp"]) * 1_000_000]
            assert values == record_of(wanted, layout)


def _seconds(value: int) -> datetime:
    return datetime.fromtimestamp(value, UTC)


# --- known answers ----------------------------------------------------------------------------------


def parsed(data: bytes, block_bytes: int = BLOCK_BYTES) -> list[Row | DeadRow]:
    return content(chunks_of(DelimitedReader(Bytes(data), MICROLENS, block_bytes=block_bytes)))


def codes(data: bytes) -> list[str]:
    return [row.code if isinstance(row, DeadRow) else "" for row in parsed(HEADER + data)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"1,2", "wrong_arity"),
        (b"1,2,3,4", "wrong_arity"),
        (b"user,item,timestamp", "header_again"),
        (b'\xef\xbb\xbf"User" , "item",TIMESTAMP', "header_again"),
        (b'"1,2,3', "unclosed_quote"),
        (b'"1"x,2,3', "bad_quote"),
        (b"1,2\xff,3", "invalid_utf8"),
        (b"1,2\0,3", "nul_byte"),
        (b"1,2," + b"3" * records.MAX_RECORD_BYTES, "record_too_long"),
        (b"1," + b" " * records.MAX_RECORD_BYTES + b"2,3", "record_too_long"),
        (b'1,"' + b"2" * records.MAX_RECORD_BYTES + b'",3', "record_too_long"),
        (b"x,2,3", "bad_id"),
        (b"1,,3", "bad_id"),
        (b"1,9223372036854775808,3", "bad_id"),
        (b"1,2,yesterday", "bad_timestamp"),
        (b"1,2,2023-02-29T00:00:00", "bad_timestamp"),
        (b"1,2,2023-02-28T23:59:60", "bad_timestamp"),
        (b"1,2,1969-12-31T23:59:59Z", "timestamp_out_of_range"),
        (b"1,2,2262-01-01T00:00:00Z", "timestamp_out_of_range"),
        (b"1,2,9999999999999999", "timestamp_out_of_range"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:24]),
)
def test_each_code_of_the_parser(line: bytes, code: str) -> None:
    """Each way to be wrong has its code, and the lines around it are none the worse."""
    assert codes(b"1,2,3\n" + line + b"\n4,5,6\n") == ["", code, ""]


def test_every_code_of_the_parser_has_a_known_answer() -> None:
    """The list above leaves no parser code out."""
    of_sinks = {"wrong_type", "item_too_large", "bad_key", "duplicate_key", "unknown_movie", "refused"}
    of_other_data_sets = {"bad_rating"}
    mark = next(m for m in test_each_code_of_the_parser.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert {code for _, code in mark.args[1]} == CODES.keys() - of_sinks - of_other_data_sets


def test_a_field_of_just_under_the_limit_is_accepted() -> None:
    """A record of exactly 1 MiB is whole; one byte more is too long."""
    fits = b"1," + b"0" * (records.MAX_RECORD_BYTES - len("1,2,0") - 1) + b"2,0"
    assert len(fits) == records.MAX_RECORD_BYTES - 1
    assert codes(fits + b" \n1,2,3\n") == ["", ""]
    assert codes(fits + b"  \n1,2,3\n") == ["record_too_long", ""]


def test_a_line_longer_than_a_block_is_passed_over() -> None:
    """Of a line of many blocks the first block is kept, and the line after it has its right number and offset."""
    giant = b"1,2," + b"7" * (5 * BLOCK_BYTES + 12_345)
    data = HEADER + b"1,2,3\n" + giant + b"\n4,5,6\n"
    first, dead, last = parsed(data)
    assert isinstance(first, Row)
    assert isinstance(dead, DeadRow)
    assert (dead.line, dead.offset, dead.code) == (3, len(HEADER) + 6, "record_too_long")
    assert dead.raw == giant[:BLOCK_BYTES]
    assert isinstance(last, Row)
    assert (last.line, last.offset) == (4, len(data) - 6)


def test_a_quoted_line_break_before_a_giant_line_refuses_its_first_line_alone() -> None:
    """A record that spans lines and is longer than the limit is no record: its first line is refused as it stands."""
    with small_records(64, 64):
        for length in (60, 70, 125, 126, 127, 128, 129, 600):
            data = HEADER + b'1,"2\n3",' + b"4" * length + b"\n5,6,7\n"
            dead, *rest = parsed(data, block_bytes=128)
            assert isinstance(dead, DeadRow)
            assert (dead.code, dead.raw) == ("unclosed_quote", b'1,"2')
            assert [row.line for row in rest] == [3, 4]


def test_an_unclosed_quote_costs_one_row() -> None:
    """A quote that never closes in line 3 of 10 leaves the other rows, each with its own line."""
    lines = [b"%d,%d,%d\n" % (n, n, n) for n in range(2, 11)]
    lines[1] = b'3,"3,3\n'
    found = parsed(HEADER + b"".join(lines))
    assert [(row.line, isinstance(row, Row)) for row in found] == [(n, n != 3) for n in range(2, 11)]


def test_a_blank_line_is_no_row_but_a_line() -> None:
    """Blank lines are not counted as rows, and lines after them keep their numbers."""
    found = parsed(HEADER + b"\n \t\r\n1,2,3\n\n4,5,6")
    assert [row.line for row in found] == [4, 6]


def test_a_quoted_line_break_counts_as_a_line() -> None:
    """A row over two lines is one row, at its first line."""
    found = parsed(HEADER + b'1,"2\n",3\n4,5,6\n')
    assert [(row.line, isinstance(row, Row)) for row in found] == [(2, True), (4, True)]


@pytest.mark.parametrize("mark", [b"", blocks.BOM])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "header",
    [b"user,item,timestamp", b"userID,videoID,timestamp", b' "userID" , videoID,"timestamp"', b"TIMESTAMP;Item;User"],
)
def test_both_headers_and_their_kin_are_known(mark: bytes, end: bytes, header: bytes) -> None:
    """The published header and the readme's, quoted or not, with either line end, with or without a BOM."""
    delimiter = b";" if b";" in header else b","
    (row,) = parsed(mark + header + end + delimiter.join([b"5", b"5", b"5"]) + end)
    assert isinstance(row, Row)
    assert row.offset == len(mark + header + end)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"a,b,c\n",
        b"user,item\n1,2\n",
        b"\xff\xfe\n",
        b"1,2,3\n",
        b"user,item,timestamp\r1,2,3\r4,5,6\r",
        b'user,item,"' + b"x" * 200_000 + b'"\n',
        b"x" * (records.MAX_RECORD_BYTES + 5),
    ],
    ids=lambda header: repr(header[:20]),
)
def test_a_file_without_a_usable_header_is_refused(header: bytes) -> None:
    """A header that lacks a column, or is none, is a ConfigurationError rather than a crash."""
    with pytest.raises(ConfigurationError):
        DelimitedReader(Bytes(header), MICROLENS)


def test_own_column_names() -> None:
    """A user's own column name stands in for a role, quoted and in any case."""
    reader = DelimitedReader(Bytes(b"UID,item,timestamp\n1,2,3\n"), MICROLENS, columns={"user": " uid"})
    assert isinstance(content(chunks_of(reader))[0], Row)
    with pytest.raises(ConfigurationError, match="item"):
        DelimitedReader(Bytes(b"uid,x,timestamp\n"), MICROLENS, columns={"user": "uid"})


def test_an_empty_last_column_of_a_tab_file_is_a_column() -> None:
    """A header that ends in a tab has one more, nameless, column."""
    (row,) = parsed(b"user\titem\ttimestamp\t\n1\t2\t3\t\n")
    assert isinstance(row, Row)


def test_block_size_must_hold_the_longest_record_twice() -> None:
    """A block too small to decide on a record is refused at once."""
    with pytest.raises(ValueError, match="twice"):
        DelimitedReader(Bytes(HEADER), MICROLENS, block_bytes=records.MAX_RECORD_BYTES)


# --- files that changed -----------------------------------------------------------------------------


def end_of(data: bytes) -> Position:
    chunks = chunks_of(DelimitedReader(Bytes(data), MICROLENS))
    return chunks[-1].end


def resumed(data: bytes, at: Position) -> list[Row | DeadRow]:
    reader = DelimitedReader(Bytes(data), MICROLENS)
    reader.resume(at)
    return content(chunks_of(reader))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_file_that_grew_goes_on(end: bytes) -> None:
    """After a last line without an end, its line end may come with the next rows, and lines are numbered on."""
    old = HEADER + b"1,2,3" + end + b"4,5,6"
    found = resumed(old + end + b"7,8,9" + end, end_of(old))
    assert [(row.line, row.raw) for row in found] == [(4, b"7,8,9")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_only_a_line_end_arriving_is_nothing_new(end: bytes) -> None:
    """A file that only got its last line end has no further rows, and later ones keep their numbers."""
    old = HEADER + b"1,2,3"
    at = end_of(old)
    reader = DelimitedReader(Bytes(old + end), MICROLENS)
    reader.resume(at)
    chunks = chunks_of(reader)
    assert content(chunks) == []
    found = resumed(old + end + b"4,5,6", chunks[-1].end)
    assert [(row.line, row.raw) for row in found] == [(3, b"4,5,6")]


@pytest.mark.parametrize("rest", [b"0", b"0\n", b",7\n", b" \n", b"\r", b"\r7"])
@pytest.mark.parametrize("was_unended", [False, True])
def test_a_last_line_that_was_continued_is_noticed(rest: bytes, was_unended: bool) -> None:
    """The row was taken as it stood; if it went on since, it was another row."""
    old = HEADER + b"1,2,3"
    with pytest.raises(LineContinued, match="load it again" if was_unended else "--restart"):
        DelimitedReader(Bytes(old + rest), MICROLENS).resume(end_of(old), was_unended=was_unended)


def test_a_truncated_file_is_a_changed_source() -> None:
    """A file that ends before the watermark is refused, however short it is now."""
    data = HEADER + b"1,2,3\n" * 5
    at = end_of(data)
    for length in range(len(HEADER), len(data)):
        with pytest.raises(SourceChanged, match="ends before"):
            resumed(data[:length], at)


def test_every_changed_byte_before_the_watermark_is_noticed() -> None:
    """One other byte among the last ones before the watermark is a changed source."""
    data = HEADER + b"1,2,3\n" * 5
    at = end_of(data)
    for index in range(len(HEADER), len(data)):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        with pytest.raises(SourceChanged, match="not those"):
            resumed(changed + b"9,9,9\n", at)


def test_a_change_within_the_last_mib_of_a_large_file_is_noticed() -> None:
    """The hash covers the last MiB before the watermark, also when the file must be skipped into."""
    data = HEADER + b"111111,222222,1600000000\n" * 120_000
    at = end_of(data)
    assert resumed(data + b"4,5,6\n", at)[0].raw == b"4,5,6"
    place = at.offset - (1 << 20) + 2
    changed = data[:place] + (b"2" if data[place : place + 1] == b"1" else b"1") + data[place + 1 :]
    with pytest.raises(SourceChanged, match="not those"):
        resumed(changed, at)


def test_a_changed_header_is_a_changed_source() -> None:
    """Another header is refused; the very same one is not."""
    reader = DelimitedReader(Bytes(HEADER), MICROLENS)
    reader.require("user,item,timestamp")
    with pytest.raises(SourceChanged, match="header"):
        reader.require("user,item,timestamp,x")


def test_header_only_files_end_at_once() -> None:
    """A file with nothing but its header is done, and so is one with only blank lines."""
    for data in (HEADER, HEADER.rstrip(), HEADER + b"\n\r\n \n"):
        reader = DelimitedReader(Bytes(data), MICROLENS)
        assert content(chunks_of(reader)) == []
        assert reader.reached_end


def test_more_sinks_have_shorter_blocks() -> None:
    """Each encodes the same chunk, so their number shortens the blocks; the longest record still fits."""
    lengths = [block_bytes_within(MEMORY_MB, n_sinks) for n_sinks in (1, 2, 3, 4)]
    assert lengths[0] == lengths[1] == BLOCK_BYTES
    assert lengths[1] > lengths[2] > lengths[3]
    assert block_bytes_within(MIN_MEMORY_MB, 9) >= 2 * records.MAX_RECORD_BYTES
