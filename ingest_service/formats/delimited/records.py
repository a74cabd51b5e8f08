"""Where the records of a delimited file begin and end.

The grammar is RFC 4180 with three traps closed, so that no quote can swallow a file:

- A field is quoted only if its first byte after blanks is a quote; a quote anywhere else is text. After the closing
  quote only blanks may stand before the delimiter or the line end.
- A record may span lines (a quoted line break) only if it then has as many fields as the header and at most
  `MAX_RECORD_BYTES`. Otherwise its first line alone is refused, and reading goes on at the next line.
- Lines end in LF or CRLF. A line of nothing but whitespace, without a delimiter, is blank: no record at all.

Whether a record ends somewhere depends on nothing before its first byte, so parsing from any record's start gives
the rest of the whole parse. `scan_record` is the specification, one record at a time; `split` finds the records
of a block at once with numpy and calls `scan_record` only for lines that are not plainly one record.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ingest_service.errors import RowError, declare_codes
from ingest_service.formats.lines import CR, LF, Lines, lines_of, positions
from ingest_service.formats.memory import MAX_RECORD_BYTES as MAX_RECORD_BYTES
from ingest_service.rows.arrays import QUOTE, Bools, Ints, trim

declare_codes(
    {
        "wrong_arity": "fewer or more fields than the header",
        "unclosed_quote": "a quoted field that never ends",
        "bad_quote": "text after a closing quote",
        "invalid_utf8": "bytes that are not UTF-8",
        "nul_byte": "a NUL byte",
        "record_too_long": "longer than 1 MiB",
    }
)

BLANKS = b" \t\r\v\f"
_SPACES, _SPACES_AND_TABS = re.compile(rb" *"), re.compile(rb"[ \t]*")
_UNCLOSED = RowError("parse", "unclosed_quote", "A quoted field has no closing quote.")
_BAD_QUOTE = RowError("parse", "bad_quote", "Text follows a closing quote.")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one file is written: its delimiter, how many fields a record has, and whether quotes enclose fields."""

    delimiter: bytes
    n_fields: int
    has_quotes: bool = True


@dataclass(frozen=True, slots=True)
class Scanned:
    """One record: its bytes are data[start:end], the next begins at `next_start`.

    `fields` is None for a blank line, a RowError for a record that is refused.
    """

    end: int
    next_start: int
    fields: list[str] | RowError | None


class _Unclosed(Exception):
    """The quoting breaks the grammar."""

    def __init__(self, *, multiline: bool) -> None:
        super().__init__()
        self.multiline = multiline


class _NeedMore(Exception):
    """The bytes end before the record is decided."""


def scan_record(data: bytes, start: int, dialect: Dialect, *, eof: bool) -> Scanned | None:
    """The record that begins at `start`, or None if more bytes are needed to tell (never with `eof`)."""
    newline = data.find(b"\n", start)
    if newline < 0 and not eof:
        return None
    next_start = newline + 1 if newline >= 0 else len(data)
    end = newline if newline >= 0 else len(data)
    line_end = end - 1 if end > start and data[end - 1] == CR else end
    line = data[start:line_end]
    if not line.strip(BLANKS) and dialect.delimiter not in line:
        return Scanned(line_end, next_start, None)
    error: RowError | None = None
    raw_fields: list[bytes] = []
    if b'"' not in line or not dialect.has_quotes:
        raw_fields = line.split(dialect.delimiter)
    else:
        try:
            raw_fields, record_end, record_next = _quoted_fields(data, start, dialect, eof=eof)
            is_too_long = record_end - start > MAX_RECORD_BYTES
            if record_next != next_start and (is_too_long or len(raw_fields) != dialect.n_fields):
                raise _Unclosed(multiline=True)
            line_end, next_start = record_end, record_next
        except _Unclosed as broken:
            # Whatever its fields would be goes beyond the line that is refused.
            raw_fields, error = [], _UNCLOSED if broken.multiline else _BAD_QUOTE
        except _NeedMore:
            if len(data) - start <= MAX_RECORD_BYTES + 1:  # one more for the CR of its line end
                return None
            error = _UNCLOSED  # it spans lines, and is too long for that however it ends
    fields = _decide(data[start:line_end], raw_fields, error, dialect)
    return Scanned(line_end, next_start, fields)


def _quoted_fields(data: bytes, start: int, dialect: Dialect, *, eof: bool) -> tuple[list[bytes], int, int]:
    """The fields of a record that holds quotes, with the end of its bytes and the start of the next record."""
    limit = start + MAX_RECORD_BYTES
    first_line_end = data.find(b"\n", start)
    fields: list[bytes] = []
    position = start
    while True:
        opening = _skip_blanks(data, position, dialect.delimiter)
        if opening < len(data) and data[opening] == QUOTE:
            closing = _closing_quote(data, opening + 1, limit, eof=eof)
            multiline = 0 <= first_line_end < closing
            fields.append(data[opening + 1 : closing].replace(b'""', b'"'))
            after = _skip_blanks(data, closing + 1, dialect.delimiter)
            if after >= len(data) or (data[after : after + 1] == b"\r" and after + 1 >= len(data)):
                if not eof:
                    raise _NeedMore
                return fields, after, len(data)
            if data.startswith(dialect.delimiter, after):
                position = after + len(dialect.delimiter)
            elif data[after] == LF:
                return fields, after, after + 1
            elif data[after : after + 2] == b"\r\n":
                return fields, after, after + 2
            else:
                raise _Unclosed(multiline=multiline)
        else:
            newline = data.find(b"\n", position)
            if newline < 0 and not eof:
                raise _NeedMore
            end = newline if newline >= 0 else len(data)
            delimiter = data.find(dialect.delimiter, position, end)
            if delimiter < 0:
                content_end = end - 1 if end > position and data[end - 1] == CR else end
                fields.append(data[position:content_end])
                return fields, content_end, newline + 1 if newline >= 0 else len(data)
            fields.append(data[position:delimiter])
            position = delimiter + len(dialect.delimiter)


def _skip_blanks(data: bytes, position: int, delimiter: bytes) -> int:
    blanks = _SPACES if delimiter == b"\t" else _SPACES_AND_TABS
    match = blanks.match(data, position)
    return match.end() if match else position


def _closing_quote(data: bytes, position: int, limit: int, *, eof: bool) -> int:
    while True:
        quote = data.find(b'"', position, limit)
        if quote < 0:
            if not eof and len(data) < limit:
                raise _NeedMore
            raise _Unclosed(multiline=True)
        if quote + 1 >= len(data) and not eof:
            raise _NeedMore
        if data[quote + 1 : quote + 2] != b'"':
            return quote
        position = quote + 2


def _decide(raw: bytes, fields: list[bytes], error: RowError | None, dialect: Dialect) -> list[str] | RowError:
    """The fields as text, or the first thing that is wrong with the record as a whole."""
    if len(raw) > MAX_RECORD_BYTES:
        return RowError("parse", "record_too_long", f"The record is longer than {MAX_RECORD_BYTES} bytes.")
    if b"\0" in raw:
        return RowError("parse", "nul_byte", "The record holds a NUL byte.")
    try:
        texts = [field.decode() for field in fields]
        raw.decode()
    except UnicodeDecodeError:
        return RowError("parse", "invalid_utf8", "The record is not valid UTF-8.")
    if error:
        return error
    if len(texts) != dialect.n_fields:
        return _wrong_arity(len(texts), dialect.n_fields)
    return texts


@lru_cache  # a bad file has few such errors, a million times
def _wrong_arity(n_fields: int, n_columns: int) -> RowError:
    return RowError("parse", "wrong_arity", f"The record has {n_fields} fields where the header has {n_columns}.")


@dataclass(frozen=True, slots=True)
class Records(Lines):
    """The records of one block, n of them, m of them plain.

    plain: int64[m], which records have their fields given by position: `delimiters`, int64[m, n_fields - 1].
    has_quotes: whether plain fields may stand in quotes.
    scanned: for every other record, its fields or its error, by record index.
    """

    plain: Ints
    delimiters: Ints
    has_quotes: bool
    scanned: dict[int, list[str] | RowError]
    delimiter_bytes: int

    def head(self, n: int) -> "Records":
        """The first `n` records, as if the block ended before the next one."""
        if n >= len(self):
            return self
        m = int(np.searchsorted(self.plain, n))
        return Records(
            self.starts[:n],
            self.ends[:n],
            self.lines[:n],
            int(self.starts[n]),
            int(self.lines[n]),
            self.plain[:m],
            self.delimiters[:m],
            self.has_quotes,
            {index: fields for index, fields in self.scanned.items() if index < n},
            self.delimiter_bytes,
        )

    def field(self, column: int, rows: slice) -> tuple[Ints, Ints]:
        """First byte and one past the last of one column's fields, quotes and blanks included.

        `rows` is a slice of the plain records.
        """
        after = self.delimiter_bytes
        starts = self.starts[self.plain[rows]] if column == 0 else self.delimiters[rows, column - 1] + after
        last = column == self.delimiters.shape[1]
        ends = self.ends[self.plain[rows]] if last else self.delimiters[rows, column]
        return starts, ends


def split(data: bytes, dialect: Dialect, *, eof: bool) -> Records:
    """All whole records of a block that begins at a record's start and is not empty."""
    whole_lines = len(data) if eof else data.rfind(b"\n") + 1
    buffer = np.frombuffer(data, np.uint8)[:whole_lines]
    starts, ends, next_starts = lines_of(buffer, eof=eof)
    is_quoted = dialect.has_quotes and b'"' in data
    quotes = positions(buffer, QUOTE) if is_quoted else np.empty(0, np.int64)
    delimiters, doubtful = _delimiters(buffer, dialect.delimiter)
    if quotes.size:
        delimiters = _outside_quotes(delimiters, quotes, starts)
    plain, delimiters = _of_right_arity(delimiters, starts, ends, dialect.n_fields - 1)
    plain &= ends - starts <= MAX_RECORD_BYTES
    if quotes.size:
        plain &= _well_quoted(buffer, starts, ends, delimiters, quotes, dialect)
    doubtful = np.concatenate((doubtful, _undecodable(data[:whole_lines], buffer)))
    plain[np.searchsorted(starts, doubtful, side="right") - 1] = False
    keep, scanned, consumed, n_lines = _scan_the_rest(data, starts, ends, next_starts, plain, dialect, eof=eof)
    indices = np.flatnonzero(keep[:n_lines])
    plain_records = np.flatnonzero(plain[indices])
    records_scanned = np.searchsorted(indices, np.array(list(scanned), np.int64)).tolist()
    # Where every line is a plain record, as in most blocks, nothing need be copied.
    records: Ints | slice = slice(n_lines) if len(indices) == n_lines else indices
    plain_lines: Ints | slice = slice(n_lines) if len(plain_records) == n_lines else indices[plain_records]
    return Records(
        starts[records],
        ends[records],
        indices,
        consumed,
        data.count(b"\n", 0, consumed) if eof else n_lines,
        plain_records,
        delimiters[plain_lines],
        bool(quotes.size),
        dict(zip(records_scanned, scanned.values(), strict=True)),
        len(dialect.delimiter),
    )


def _delimiters(buffer: NDArray[np.uint8], delimiter: bytes) -> tuple[Ints, Ints]:
    """Where the delimiter stands, and where it may stand in two ways, as `::` in `:::`."""
    found = positions(buffer, delimiter[0])
    for index, byte in enumerate(delimiter[1:], 1):
        found = found[found + index < buffer.size]
        found = found[buffer[found + index] == byte]
    doubtful = found[1:][np.diff(found) < len(delimiter)] if len(delimiter) > 1 else found[:0]
    return found, doubtful


def _outside_quotes(delimiters: Ints, quotes: Ints, starts: Ints) -> Ints:
    """Drop the delimiters with an odd number of quotes between them and the start of their line."""
    line_of = np.searchsorted(starts, delimiters, side="right") - 1
    before = np.searchsorted(quotes, delimiters) - np.searchsorted(quotes, starts)[line_of]
    outside: Ints = delimiters[before % 2 == 0]
    return outside


def _of_right_arity(delimiters: Ints, starts: Ints, ends: Ints, per_line: int) -> tuple[Bools, Ints]:
    """Which lines have `per_line` delimiters, and these as int64[n_lines, per_line] (zeros for other lines)."""
    n_lines = len(starts)
    inner = np.zeros((n_lines, per_line), np.int64)
    if per_line and delimiters.size == per_line * n_lines:
        # The usual block, told without a search: every line has its share, and in its own bounds.
        table = delimiters.reshape(n_lines, per_line)
        if bool((table[:, 0] >= starts).all() and (table[:, -1] < ends).all()):
            return np.ones(n_lines, np.bool_), table
    first = np.searchsorted(delimiters, starts)
    right = np.searchsorted(delimiters, ends) - first == per_line
    if per_line:
        inner[right] = delimiters[first[right, None] + np.arange(per_line)]
    return right, inner


def _well_quoted(
    buffer: NDArray[np.uint8], starts: Ints, ends: Ints, delimiters: Ints, quotes: Ints, dialect: Dialect
) -> Bools:
    """Whether every field of the line has no quote at all, or just two that enclose it."""
    well = np.ones(len(starts), np.bool_)
    quoted_lines = np.flatnonzero(np.searchsorted(quotes, ends) > np.searchsorted(quotes, starts))
    blanks = [byte for byte in b" \t" if byte != dialect.delimiter[0]]
    for column in range(dialect.n_fields):
        after = len(dialect.delimiter)
        field_starts = starts[quoted_lines] if column == 0 else delimiters[quoted_lines, column - 1] + after
        last = column == dialect.n_fields - 1
        field_ends = ends[quoted_lines] if last else delimiters[quoted_lines, column]
        field_starts, field_ends = trim(buffer, field_starts, field_ends, blanks)
        count = np.searchsorted(quotes, field_ends) - np.searchsorted(quotes, field_starts)
        at = np.minimum(field_starts, buffer.size - 1)
        enclosed = (count == 2) & (buffer[at] == QUOTE) & (buffer[np.maximum(field_ends - 1, 0)] == QUOTE)
        well[quoted_lines] &= (count == 0) | enclosed
    return well


def _undecodable(data: bytes, buffer: NDArray[np.uint8]) -> Ints:
    """Positions of bytes that make their line suspect: NUL, and any above ASCII if the block is not UTF-8."""
    suspects = np.flatnonzero(buffer == 0) if b"\0" in data else np.empty(0, np.int64)
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            suspects = np.concatenate((suspects, np.flatnonzero(buffer >= 0x80)))
    return suspects


def _scan_the_rest(
    data: bytes, starts: Ints, ends: Ints, next_starts: Ints, plain: Bools, dialect: Dialect, *, eof: bool
) -> tuple[Bools, dict[int, list[str] | RowError], int, int]:
    """Scan each line that is not plainly one record, in order; adjusts `ends` and `plain`.

    Returns which lines begin a record, the fields or error of those scanned by line, and where the first
    undecided record begins: its position, and the number of lines before it.
    """
    n_lines = len(starts)
    keep = ends > starts
    scanned: dict[int, list[str] | RowError] = {}
    resume = 0
    for line in np.flatnonzero(keep & ~plain).tolist():
        start = int(starts[line])
        if start < resume:
            continue  # inside a record that began on an earlier line
        record = scan_record(data, start, dialect, eof=eof)
        if record is None:
            return keep, scanned, start, line
        resume = record.next_start
        if resume > next_starts[line]:
            last = int(np.searchsorted(starts, resume))
            keep[line + 1 : last] = False
        if record.fields is None:
            keep[line] = False
        else:
            ends[line] = record.end
            scanned[line] = record.fields
    return keep, scanned, int(next_starts[-1]) if n_lines else 0, n_lines
