"""How a file begins: what may stand before its header, which column is which, and what is no file of rows."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import ConfigurationError, LocalIOError, SourceNotFound, UsageError
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.rows.chunk import DeadRow
from ingest_service.sources import sources_named
from tests.formats.specification import Bytes, Row, chunks_of, content
from tests.formats.test_blocks import resumed
from tests.formats.ugly import HEADER

ROWS = b"1,2,3\n4,5,6\n"


def reader_of(data: bytes, **columns: str) -> DelimitedReader:
    return DelimitedReader(Bytes(data, [7]), MICROLENS, columns=columns)


def users_of(reader: DelimitedReader) -> list[int]:
    return [int(user) for chunk in chunks_of(reader) for user in chunk.columns.owner[0]]


# --- before the header ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "lines",
    [
        [b"sep=,"],
        [b"SEP=;"],
        [b'"sep=\t"'],
        [b"", b"  ", b"\t"],
        [b"# exported 2024-01-01", b"#", b"#a,b,c,d"],
        [b"", b"# a comment", b"sep=,", b""],
        [b"# " + b"x" * 10_000],
    ],
    ids=lambda lines: repr(lines)[:30],
)
@pytest.mark.fault(55)
def test_lines_before_the_header_are_passed_over(lines: list[bytes], end: bytes) -> None:
    """Blank lines, comments and Excel's `sep=`: rows keep the lines and offsets of the file, and can be resumed."""
    before = b"".join(line + end for line in lines)
    for mark in (b"", b"\xef\xbb\xbf"):
        data = mark + before + HEADER + ROWS
        reader = reader_of(data)
        chunks = chunks_of(reader)
        first, second = content(chunks)
        assert isinstance(first, Row)
        assert isinstance(second, Row)
        assert (first.line, second.line) == (len(lines) + 2, len(lines) + 3)
        assert (first.raw, first.offset) == (b"1,2,3", len(data) - len(ROWS))
        assert reader.rows.recipe == "user,item,timestamp"
        assert [row.raw for row in resumed(data + b"7,8,9\n", chunks[-1].end)] == [b"7,8,9"]


def test_a_header_that_looks_like_a_comment_is_one() -> None:
    """A line that can be the header is never passed over."""
    assert users_of(reader_of(b"#user,item,timestamp\n1,2,3\n", user="#user")) == [1]


def test_the_header_of_numpy_is_one() -> None:
    """np.savetxt puts its mark of a comment before it."""
    text = io.BytesIO()
    np.savetxt(text, np.array([[7, 2, 3], [8, 5, 6]]), fmt="%d", delimiter=",", header="user,item,timestamp")
    assert text.getvalue().startswith(b"# user,item,timestamp\n7,2,3\n")
    assert users_of(reader_of(text.getvalue())) == [7, 8]


@pytest.mark.parametrize("data", [b"\n\n", b"# only\n# comments", b"sep=;\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_file_of_nothing_else_has_no_header(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="must begin with a header"):
        reader_of(data)


def test_the_search_for_a_header_ends() -> None:
    """A file of nothing but blank lines is not read to its end."""
    with pytest.raises(ConfigurationError, match="too long for a header"):
        DelimitedReader(Bytes(b"\n" * (1 << 20) + b"x" * (1 << 20)), MICROLENS)


# --- which column -----------------------------------------------------------------------------------


def test_a_column_by_its_place() -> None:
    """`#1` is the first column, whatever its name; a column that is really named so comes before."""
    assert users_of(reader_of(b"a;item;timestamp\n1;2;3\n", user="#1")) == [1]
    assert users_of(reader_of(b"user,user,item,timestamp\n1,2,3,4\n", user="#2")) == [2]
    assert users_of(reader_of(b"a,b,c\n7,8,9\n", user="#2", item="#1", timestamp="#3")) == [8]
    assert users_of(reader_of(b"item,#1,timestamp\n5,6,7\n", user="#1")) == [6]
    for place in ("#4", "#0", "#x", "#"):
        with pytest.raises(ConfigurationError, match="no column for: user"):
            reader_of(b"a,item,timestamp\n1,2,3\n", user=place)


@pytest.mark.fault(56)
def test_a_column_that_is_there_twice_is_refused() -> None:
    """Unless its place is given; what the data set does not need may be there as often as it likes."""
    for header in (b"user,item,timestamp,user\n", b'user,item,timestamp,"User "\n'):
        with pytest.raises(ConfigurationError, match="--column user=#1"):
            reader_of(header)
    assert users_of(reader_of(b"x,user,item,timestamp,x,,\n0,1,2,3,4,,\n")) == [1]


@pytest.mark.fault(56)
def test_one_column_for_two_roles_is_refused() -> None:
    for columns in ({"item": "user"}, {"item": "#1"}, {"user": "#2", "timestamp": "#2"}):
        with pytest.raises(UsageError, match="would be both"):
            reader_of(HEADER + ROWS, **columns)


def test_a_first_line_that_is_a_row_is_not_taken_for_a_header() -> None:
    """Columns by place fit any line, so a row would get lost without a word."""
    with pytest.raises(ConfigurationError, match="first line is a row"):
        reader_of(b"1,2,1583366400000\n3,4,5\n", user="#1", item="#2", timestamp="#3")


def test_a_second_header_is_one_dead_letter() -> None:
    """As where files were put together: with its own code, and the rows after it are read."""
    found = content(chunks_of(reader_of(HEADER + ROWS + b"\xef\xbb\xbf" + HEADER + ROWS)))
    (again,) = [row for row in found if isinstance(row, DeadRow)]
    assert (again.line, again.stage, again.code) == (4, "parse", "header_again")
    assert len(found) == 5


# --- no text ----------------------------------------------------------------------------------------


def tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("rows.csv")
        info.size = len(HEADER + ROWS)
        archive.addfile(info, io.BytesIO(HEADER + ROWS))
    return packed.getvalue()


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


TEXT = HEADER + ROWS
KINDS: dict[str, tuple[bytes, str]] = {
    "gzip in gzip": (gzip.compress(gzip.compress(TEXT)), "packed twice"),
    "bzip2 in xz": (lzma.compress(bz2.compress(TEXT)), "packed twice"),
    "xz in gzip": (gzip.compress(lzma.compress(TEXT)), "packed twice"),
    "tar": (tar(), "a tar archive"),
    "tar.gz": (gzip.compress(tar()), "a tar archive"),
    "zip in gzip": (gzip.compress(zipped(a=TEXT)), "a zip archive in"),
    "Parquet": (
        b"PAR1\x15\4\x15\n\0\0",
        "a Parquet file; describe it by a schema file",
    ),
    "Arrow": (b"ARROW1\0\0\xff\xff", "an Arrow file"),
    "SQLite": (b"SQLite format 3\0" + bytes(84), "a SQLite database"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "an old Excel"),
    "UTF-16": (TEXT.decode().encode("utf-16"), "UTF-16; describe it"),
    "UTF-16BE": (b"\xfe\xff" + TEXT.decode().encode("utf-16-be"), "UTF-16; describe it"),
    "UTF-16LE without a mark": (TEXT.decode().encode("utf-16-le"), "ingest-service infer FILE"),
    "UTF-16BE without a mark": (TEXT.decode().encode("utf-16-be"), "ingest-service infer FILE"),
    "UTF-32": (TEXT.decode().encode("utf-32"), "UTF-32"),
    "HTML": (b"\n <!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page"),
    "XML": (b'<?xml version="1.0"?>\n<rows/>', "XML"),
    "JSON": (b'{"user": 1, "item": 2}\n', "JSON; describe it by a schema file"),
    "JSON array": (b'[\n{"user": 1}]\n', "JSON"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "PDF": (b"%PDF-1.7\n", "a PDF"),
    "zeros": (bytes(3 << 20), "binary"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.fault(55)
def test_what_is_no_text_is_named(tmp_path: Path, name: str) -> None:
    """Each kind of file that is no text of rows is told by its content, whatever its name says."""
    data, words = KINDS[name]
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    (source,) = sources_named(str(path))
    with pytest.raises(ConfigurationError) as refused:
        DelimitedReader(source, MICROLENS, columns={"user": "#1", "item": "#2", "timestamp": "#3"})
    assert words in str(refused.value)
    assert str(refused.value).startswith("The source is ")


# --- zip --------------------------------------------------------------------------------------------


@pytest.mark.fault(55)
def test_the_only_member_of_a_zip_is_read(tmp_path: Path) -> None:
    """Without `#member`; what macOS adds does not count. Percent is of the member's own bytes."""
    path = tmp_path / "rows.csv.zip"
    path.write_bytes(zipped(**{"a/rows.csv": gzip.compress(TEXT), "__MACOSX/a/._rows.csv": b"x", "a/.DS_Store": b"x"}))
    (source,) = sources_named(str(path))
    reader = DelimitedReader(source, MICROLENS)
    assert users_of(reader) == [1, 4]
    assert source.uri == path.as_uri()
    assert reader.stored_position() == source.size() == len(gzip.compress(TEXT))


@pytest.mark.parametrize(
    ("members", "error", "words"),
    [
        ({"a.csv": TEXT, "b.csv": TEXT}, SourceNotFound, r"2 files; name one as rows.zip#member: 'a.csv', 'b.csv'"),
        ({f"{n}.csv": TEXT for n in range(11)}, SourceNotFound, r"11 files; .*'9.csv', …"),
        ({"evil\n.csv": TEXT, "b.csv": TEXT}, SourceNotFound, r"'evil\\n.csv'"),
        ({}, SourceNotFound, "without a file"),
        ({"[Content_Types].xml": b"<", "xl/workbook.xml": b"<"}, ConfigurationError, "save its sheet as CSV"),
        ({"../up.csv": TEXT}, LocalIOError, "refused"),
        ({"in.zip": zipped(a=TEXT)}, ConfigurationError, "a zip archive in"),
    ],
    ids=["two", "eleven", "control characters", "none", "xlsx", "leads out", "zip in zip"],
)
def test_other_zips_are_named(tmp_path: Path, members: dict[str, bytes], error: type[Exception], words: str) -> None:
    path = tmp_path / "rows.zip"
    path.write_bytes(zipped(**members))
    (source,) = sources_named(str(path))
    with pytest.raises(error, match=words):
        DelimitedReader(source, MICROLENS)
