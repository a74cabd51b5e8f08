"""The columnar path against its specification: whole files, ugly ones included, cut into blocks anywhere."""

import csv
import os
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import CODES, ConfigurationError, LineContinued, SourceChanged
from ingest_service.formats.delimited import records
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.formats.memory import BLOCK_BYTES, MEMORY_MB, MIN_MEMORY_MB, block_bytes_within
from ingest_service.formats.text import BOM
from ingest_service.rows.chunk import DeadRow, Position
from ingest_service.rows.interaction import timestamp_text
from ingest_service.sources.local import FileSource
from tests.formats.specification import (
    Bytes,
    Row,
    assert_whole,
    chunks_of,
    content,
    record_of,
    small_records,
    specification,
)
from tests.formats.ugly import (
    HEADER,
    LIMITS,
    SIZES,
    files,
)

# The same examples each time, unless more of them are asked for.
EXAMPLES = os.environ.get("INGEST_TEST_EXAMPLES")
THOROUGH = settings(
    max_examples=int(EXAMPLES or 300),
    derandomize=EXAMPLES is None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


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
    of_sinks = {"wrong_type", "item_too_large", "bad_key", "duplicate_key", "unknown_movie", "refused", "out_of_range"}
    of_other_data_sets = {"bad_rating", "bad_number", "bad_value", "missing_value", "bad_json", "bad_literal"}
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


@pytest.mark.parametrize("mark", [b"", BOM])
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
