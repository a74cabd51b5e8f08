"""Delimited text as a table: what stands between fields, whether quotes enclose them, and whether there is a header."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats.delimited.layout import header_names
from ingest_service.formats.delimited.reader import stands_before_a_header
from ingest_service.formats.delimited.records import Dialect, scan_record
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.inference.found import Sampled, Table
from ingest_service.inference.names import is_known
from ingest_service.inference.profile import profile_of

MAX_COLUMNS = 1_000  # as many as a schema may have
_DELIMITERS = (b",", b"\t", b";", b"|", b"::", b"\x01", b"^", b"~")
_LAST_RESORT = (b" ",)  # which stands in texts and times, too
_RARELY_QUOTED = (b"\t", b"::", b"\x01")  # such files have quotes that are text, like `"Heroes" (live)`
_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
_LOOKED_AT_LINES, _MOST = 300, 0.9
_PREAMBLE_LINES = 20
_MAX_ROWS, _MAX_FIELDS, _ROWS_OF_A_PIECE = 4_000, 300_000, 500
_WORDS = {",": "commas", "\t": "tabs", ";": "semicolons", " ": "blanks"}


@dataclass(frozen=True, slots=True)
class _Header:
    """Of `fields` the names, if the first row has them; `skip`: lines that a schema must pass over."""

    names: tuple[str, ...]
    is_there: bool
    skip: int = 0
    doubt: str = ""


def table_of(head: bytes, later: Sequence[bytes]) -> Table:
    """ConfigurationError if it is none whose rows could be records."""
    all_lines = [line.rstrip(b"\r") for line in head.split(b"\n", _LOOKED_AT_LINES + 50)[: _LOOKED_AT_LINES + 50]]
    before = _lines_before(all_lines)
    lines = [line for line in all_lines[before:] if line.strip()]
    if not lines:
        raise ConfigurationError("The source is empty; it takes some rows to tell what they are.")
    if len(lines[0]) > MAX_RECORD_BYTES:
        raise ConfigurationError("The source's first line is longer than 1 MiB; is this a text file?")
    if b"\r" in lines[0]:
        raise ConfigurationError("The source's lines end in CR alone; write LF, for example with tr.")
    delimiter, n_fields = _delimiter(lines[:_LOOKED_AT_LINES])
    preamble = _preamble(all_lines[before:], delimiter, n_fields)
    before += preamble
    lines = [line for line in all_lines[before:] if line.strip()]
    start = sum(len(line) + 1 for line in head.split(b"\n", before)[:before])
    # Comments and blank lines are passed over anyway.
    has_separator = any(line.lower().startswith((b"sep=", b'"sep=')) for line in all_lines[:before])
    skip = before if preamble or has_separator else 0
    header, dialect = _header(head[start:], lines, delimiter, n_fields, skip)
    if header.skip < 0:  # its first line is none that the reader can take
        header = replace(header, skip=before + 1)
    limit = max(20, min(_MAX_ROWS, _MAX_FIELDS // n_fields))
    first_row = (head.find(b"\n", start) + 1 or len(head)) if header.is_there or header.skip > before else start
    rows = list(_rows(head[first_row:], dialect, limit))
    rows += [row for piece in later for row in list(_rows(piece, dialect, min(limit, _ROWS_OF_A_PIECE)))[1:]]
    rows = [row for row in rows if row != list(header.names)]  # the header again, of files that were put together
    good = [row for row in rows if isinstance(row, list)]
    if not good:
        raise ConfigurationError("The source has a header and no rows; it takes some to tell what its columns hold.")
    columns = [Sampled(name, [row[place] for row in good]) for place, name in enumerate(header.names)]
    doubts = [header.doubt] if header.doubt else []
    if len(good) < len(rows):
        doubts.append(f"{len(rows) - len(good):,} of {len(rows):,} rows looked at have not {n_fields} fields")
    keys: dict[str, object] = {"delimiter": delimiter.decode(), "header": header.is_there}
    keys |= {} if dialect.has_quotes else {"quoteChar": ""}
    keys |= {"x-skipLines": header.skip} if header.skip else {}
    words = f"{_named(delimiter.decode())} between fields, {'a' if header.is_there else 'no'} header"
    return Table("csv", f"delimited text: {words}", columns, len(good), keys, doubts=doubts)


def _named(delimiter: str) -> str:
    return _WORDS.get(delimiter) or ascii(delimiter).strip("'")


def _lines_before(lines: Sequence[bytes]) -> int:
    """How many blank ones, comments and `sep=;` stand at the beginning. The last comment may be the header."""
    before = 0
    while before < len(lines) - 1 and stands_before_a_header(lines[before].rstrip(b"\r")):
        before += 1
    comments = before
    while comments < len(lines) and lines[comments].startswith(b"#"):
        comments += 1
    if before < comments < len(lines) and not _is_like(lines[comments - 1], lines[comments]):
        return comments
    return max(before, comments - 1)


def _preamble(lines: Sequence[bytes], delimiter: bytes, n_fields: int) -> int:
    """How many lines of another kind stand before the header or the rows, like a title and a date."""
    for number, line in enumerate(lines[:_PREAMBLE_LINES]):
        parts = _QUOTED.sub(b"", line).split(delimiter)
        is_named = any(is_known(part.decode("utf-8", "replace")) for part in line.split(delimiter))
        if len(parts) in (n_fields, n_fields - 1) or is_named or b'"' in line:
            return number
    return 0


def _is_like(header: bytes, row: bytes) -> bool:
    """Whether they have as many fields."""
    return any(header.count(one) == row.count(one) > 1 for one in (*_DELIMITERS, *_LAST_RESORT))


def _delimiter(lines: Sequence[bytes]) -> tuple[bytes, int]:
    """What splits most lines into the same number of fields, the most of them; and that number."""
    by_line = [_QUOTED.sub(b"", line) if b'"' in line else line for line in lines]
    across = _QUOTED.sub(b"", b"\n".join(lines)).split(b"\n")  # where quotes enclose line ends
    tries = [(bare, some) for some in (_DELIMITERS, _LAST_RESORT) for bare in (by_line, across)]
    best, most = next(filter(None, (_best(bare[1:] or bare, some) for bare, some in tries)), (b"", 0))
    if not best:
        raise ConfigurationError(
            "The source's lines are not split into three fields or more; a record has a user, an item and a time. Where"
            " a line is an item and its title, or a user and his items, write the schema by hand (x-about: items, or "
            "x-each; see docs/SCHEMAS.md), or take --dataset microlens-titles or microlens-pairs."
        )
    if most > MAX_COLUMNS:
        raise ConfigurationError(f"The source has {most:,} columns; a schema may have {MAX_COLUMNS:,}.")
    return best, most


def _best(lines: Sequence[bytes], delimiters: Sequence[bytes]) -> tuple[bytes, int] | None:
    best: tuple[bytes, int] | None = None
    for delimiter in delimiters:
        counts = Counter(line.count(delimiter) + 1 for line in lines)
        n, times = counts.most_common(1)[0]
        if times >= _MOST * counts.total() and n > (best[1] if best else 2):
            best = delimiter, n
    return best


def _rows(text: bytes, dialect: Dialect, limit: int) -> Iterator[list[str] | RowError]:
    at = 0
    while at < len(text) and limit > 0:
        record = scan_record(text, at, dialect, eof=True)
        assert record is not None, "the text ends"
        at = record.next_start
        if record.fields is not None:
            limit -= 1
            yield record.fields


def _header(text: bytes, lines: Sequence[bytes], delimiter: bytes, n_fields: int, skip: int) -> tuple[_Header, Dialect]:
    dialect = _dialect(text, delimiter, n_fields)
    first, *rest = lines
    try:
        names = header_names(first.decode().strip(" \r\n"), delimiter)
        shown = tuple(_shown(first, delimiter))
    except UnicodeDecodeError:
        raise ConfigurationError("The source's first line is not text in its encoding.") from None
    if len(names) == n_fields - 1 and len(shown) == len(names):
        # R writes no name for row names, and some end each row with a delimiter.
        ends = sum(line.endswith(delimiter) for line in rest) == len(rest)
        names = (*shown, "") if ends else ("", *shown)
        return _Header(names, False, -1, "the header has a name too few"), dialect
    if len(names) != n_fields or len(shown) != n_fields:
        if len(lines) == 1 or not any(map(is_known, names)):
            return _Header(("",) * n_fields, False, skip), dialect
        raise ConfigurationError(
            f"The source's header has {len(names):,} fields, and its rows {n_fields:,}; give it one name for each."
        )
    is_header, doubt = _is_header(shown, list(_rows(text, dialect, _LOOKED_AT_LINES))[1:])
    if is_header:
        return _Header((shown[0].lstrip("# "), *shown[1:]), True, skip, doubt), dialect
    return _Header(("",) * n_fields, False, skip, doubt), dialect


def _shown(line: bytes, delimiter: bytes) -> list[str]:
    """The names of a header as they are written."""
    parts = scan_record(
        line, 0, Dialect(delimiter, len(header_names(line.decode().strip(" \r\n"), delimiter))), eof=True
    )
    return [field.strip() for field in parts.fields] if parts and isinstance(parts.fields, list) else []


def _dialect(text: bytes, delimiter: bytes, n_fields: int) -> Dialect:
    """With quotes, unless more rows are right without, or it is hardly ever done so and nothing shows that it is."""
    quoted, plain = (Dialect(delimiter, n_fields, has_quotes) for has_quotes in (True, False))
    if b'"' not in text:
        return plain if delimiter in _RARELY_QUOTED else quoted
    bad = {one: sum(isinstance(row, RowError) for row in _rows(text, one, _LOOKED_AT_LINES)) for one in (quoted, plain)}
    if bad[plain] < bad[quoted]:
        return plain
    fields = [field for row in _rows(text, plain, _LOOKED_AT_LINES) if isinstance(row, list) for field in row]
    has_quoted = bad[quoted] < bad[plain] or any(field.startswith('"') for field in fields)
    return quoted if has_quoted or delimiter not in _RARELY_QUOTED else plain


def _is_header(names: Sequence[str], rows: Sequence[list[str] | RowError]) -> tuple[bool, str]:
    """A first row is one if it has no number or time where those below have."""
    good = [row for row in rows if isinstance(row, list)]
    known = sum(map(is_known, names))
    if not good:
        return bool(known) and not any(_is_typed([name]) for name in names), ""
    typed = [place for place in range(len(names)) if _is_typed([row[place] for row in good])]
    alike = [place for place in typed if _is_typed([names[place]])]
    if not alike and any(names[place] for place in typed):
        return True, ""
    if alike and known < 2:
        return False, ""
    return known > 1, "whether the first line is a header"


def _is_typed(texts: list[str]) -> bool:
    """Whether they are numbers, UUIDs or times, nearly all."""
    profile = profile_of(Sampled("", texts))
    return profile.holds in ("integer", "number", "uuid") or profile.time is not None
