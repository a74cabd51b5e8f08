"""Where records begin and end: `scan_record` against the stdlib, and `split` against `scan_record`."""

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest_service.errors import RowError
from ingest_service.formats.delimited import records
from ingest_service.formats.delimited.records import Dialect, scan_record, split

COMMA = Dialect(b",", 3)
PLAIN_TEXT = st.text(st.characters(exclude_characters='\0",;\t|\r\n', exclude_categories=["Cs"]), max_size=8)
ANY_TEXT = st.text(
    st.sampled_from('ab ,;"\t\n\r') | st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
)


def scan_all(data: bytes, dialect: Dialect) -> list[tuple[int, int, list[str] | RowError]]:
    found = []
    position = 0
    while position < len(data):
        record = scan_record(data, position, dialect, eof=True)
        assert record is not None
        assert position < record.next_start <= len(data)
        assert position <= record.end <= record.next_start
        if record.fields is not None:
            found.append((position, record.end, record.fields))
        position = record.next_start
    return found


@given(
    rows=st.lists(st.lists(ANY_TEXT, min_size=3, max_size=3), max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_fully_quoted_files_are_read_as_the_csv_module_reads_them(
    rows: list[list[str]], delimiter: str, end: str, ended: bool
) -> None:
    """Whatever the csv module writes in quotes is read back: delimiters, quotes and line ends of any kind."""
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=end).writerows(rows)
    text = file.getvalue() if ended else file.getvalue().removesuffix(end)
    assert list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) == rows
    found = scan_all(text.encode(), Dialect(delimiter.encode(), 3))
    assert [fields for _, _, fields in found] == rows


@given(
    rows=st.lists(st.lists(PLAIN_TEXT | st.just('a "b" c'), min_size=2, max_size=4), max_size=8),
    delimiter=st.sampled_from(",;|"),
    end=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_plain_files_are_read_as_the_csv_module_reads_them(rows: list[list[str]], delimiter: str, end: str) -> None:
    """Without a quote at a field's start every row of the right arity has the stdlib's fields, the others an error."""
    text = "".join(delimiter.join(row) + end for row in rows)
    expected = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    assert expected == rows
    found = [fields for _, _, fields in scan_all(text.encode(), Dialect(delimiter.encode(), 3))]
    assert len(found) == len(rows)
    for fields, row in zip(found, rows, strict=True):
        if len(row) == 3:
            assert fields == row
        else:
            assert isinstance(fields, RowError)
            assert fields.code == "wrong_arity"


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b'"a" , "b"\t,c', ["a", "b", "c"]),
        (b'"a,b","c""d","\n"', ["a,b", 'c"d', "\n"]),
        (b'a"b,c"d,"e"', ['a"b', 'c"d', "e"]),
        (b'\v"a",b,c', ['\v"a"', "b", "c"]),
        (b'"","",""', ["", "", ""]),
        (b",,", ["", "", ""]),
        (b'"a\r\nb",c,d', ["a\r\nb", "c", "d"]),
        ("é,😀,\u2028".encode(), ["é", "😀", "\u2028"]),
    ],
)
def test_well_formed_records(line: bytes, fields: list[str]) -> None:
    """Quotes enclose a field only where the grammar says so."""
    for ending in (b"", b"\n", b"\r\n"):
        ((start, end, found),) = scan_all(line + ending, COMMA)
        assert found == fields
        assert (start, end) == (0, len(line))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'"a"x,b,c', "bad_quote"),
        (b'"a" "b",c,d', "bad_quote"),
        (b'"a,b,c', "unclosed_quote"),
        (b'a,b,"c""', "unclosed_quote"),
        (b'a,"b\nc",d,e', "unclosed_quote"),
        (b'a,"b\nc"x,d', "unclosed_quote"),
        (b'a,"b\n\xff",d,e', "unclosed_quote"),
        (b"a\0,b,c", "nul_byte"),
        (b'"a\0,b,c', "nul_byte"),
        (b"\xff", "invalid_utf8"),
        (b'"\xff', "invalid_utf8"),
        (b"\xed\xa0\x80,b,c", "invalid_utf8"),
        (b"a", "wrong_arity"),
        (b"a,b,c,", "wrong_arity"),
        ("\u00a0".encode(), "wrong_arity"),
    ],
)
def test_malformed_records(line: bytes, code: str) -> None:
    """What breaks the grammar is refused by its first line alone."""
    (_, end, error), *_ = scan_all(line + b"\n1,2,3\n", COMMA)
    assert isinstance(error, RowError)
    assert error.code == code
    assert end == line.find(b"\n") if b"\n" in line else len(line)


def unquoted(field: bytes) -> bytes:
    """A field that is given by position: quotes enclose it, or it has none."""
    trimmed = field.strip(b" \t")
    return trimmed[1:-1] if trimmed.startswith(b'"') else field


@given(data=st.lists(st.sampled_from(list(b'ab12,,,""\n\n\r \t\0\xff')), max_size=60).map(bytes))
@example(data=b'a,"b"x,c\n1,2,3\n')
@example(data=b'a,b"x,"c"\n1,2,3\n')
@example(data=b'"a" ,"b""x", "c"x\n1,2,3\n')
@settings(max_examples=1500, derandomize=True, deadline=None)
def test_split_finds_the_records_that_scanning_one_by_one_finds(data: bytes) -> None:
    """Bounds, lines and fields of all records in a block are those of the specification, at the end and before it."""
    if not data:
        return
    expected = scan_all(data, COMMA)
    whole = split(data, COMMA, eof=True)
    assert whole.consumed == len(data)
    assert whole.lines_consumed == data.count(b"\n")
    assert list(zip(whole.starts.tolist(), whole.ends.tolist(), strict=True)) == [bounds[:2] for bounds in expected]
    assert whole.lines.tolist() == [data.count(b"\n", 0, start) for start, _, _ in expected]
    for index, (start, end, fields) in enumerate(expected):
        if index in whole.scanned:
            other = whole.scanned[index]
            assert str(other) == str(fields)
        else:
            cuts = whole.delimiters[whole.plain.tolist().index(index)].tolist()
            raw = [
                data[first:last] for first, last in zip([start, *(cut + 1 for cut in cuts)], [*cuts, end], strict=True)
            ]
            assert [unquoted(field).decode() for field in raw] == fields
    part = split(data, COMMA, eof=False)
    assert len(part) == sum(start < part.consumed for start, _, _ in expected)
    assert part.consumed == len(data) or data[: part.consumed].endswith(b"\n") or not part.consumed
    assert part.starts.tolist() == whole.starts[: len(part)].tolist()
    assert part.ends.tolist() == whole.ends[: len(part)].tolist()


@given(
    data=st.lists(st.sampled_from(list(b'ab,,,""\n\n\r ')), min_size=1, max_size=40).map(bytes),
    more=st.lists(st.sampled_from(list(b'ab,,,""\n\n\r ')), max_size=40).map(bytes),
)
@settings(max_examples=1000, derandomize=True, deadline=None)
def test_a_record_once_decided_is_not_changed_by_what_follows(data: bytes, more: bytes) -> None:
    """If the bytes so far decide a record, it is the same one whatever comes after them."""
    early = scan_record(data, 0, COMMA, eof=False)
    if early is None:
        return
    late = scan_record(data + more, 0, COMMA, eof=True)
    assert late is not None
    assert (early.end, early.next_start, str(early.fields)) == (late.end, late.next_start, str(late.fields))


@given(length=st.integers(1, 90), quoted=st.integers(0, 80), eof=st.booleans())
@settings(max_examples=400, derandomize=True, deadline=None)
def test_the_limit_of_a_record_over_lines_does_not_depend_on_what_was_read(length: int, quoted: int, eof: bool) -> None:
    """A record over two lines is whole up to the limit; longer, its first line is refused, read at once or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "MAX_RECORD_BYTES", 64)
        data = b'"\n' + b"q" * quoted + b'",' + b"x" * length + b",z\r\n1,2,3\n"
        size = data.index(b"\r")
        found = scan_all(data, COMMA)[0]
        assert (found[1] == size) == (size <= 64)
        assert isinstance(found[2], RowError) == (size > 64)
        for cut in range(130, len(data)):
            part = scan_record(data[:cut], 0, COMMA, eof=eof and cut == len(data))
            assert part is not None
            assert part.end == found[1]
