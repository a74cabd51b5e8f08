"""A data set bound to one delimited file: its dialect, and at which field each of its columns stands."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ingest_service.datasets.base import Column, Dataset, bare_name
from ingest_service.datasets.forms import Delimited
from ingest_service.errors import ConfigurationError, RowError, UsageError, declare_codes
from ingest_service.formats.base import Rows, RowValues
from ingest_service.formats.delimited.records import BLANKS, Dialect, Records, scan_record
from ingest_service.formats.delimited.splitting import Parts, find_parts, parts_of
from ingest_service.rows import parse
from ingest_service.rows.arrays import QUOTE, Bools, Ints
from ingest_service.rows.chunk import DeadRow
from ingest_service.rows.columns import Values, chained, taken

declare_codes(
    {
        "header_again": "the header once more, in the middle: files that were put together",
    }
)

DELIMITERS = b",\t;|"
_ADVICE = {"invalid_utf8": "Write the file as UTF-8."}
_POSITION = re.compile(r"#([1-9][0-9]{0,5})")
_HEADER_AGAIN = RowError("parse", "header_again", "The record is the header once more.")


@dataclass(frozen=True, slots=True)
class Layout(Rows):
    """A data set bound to one file: its dialect, and at which field each column stands. The recipe is the header."""

    dataset: Dataset
    dialect: Dialect
    fields: tuple[int, ...]
    recipe: str

    def advice(self, refused: DeadRow) -> str:
        if refused.code == "wrong_arity":
            return self._advice_on_arity(refused.raw)
        return _ADVICE.get(refused.code) or self.dataset.advice(refused.code)

    def _advice_on_arity(self, raw: bytes) -> str:
        own, n = self.dialect.delimiter, self.dialect.n_fields
        line = raw.rstrip(b"\r\n")
        for other in (bytes([byte]) for byte in DELIMITERS):
            if other != own and line.count(other) == n - 1:
                return f"The rows are split by {_named(other)} and the header by {_named(own)}; write one for both."
        if line.count(own) == n:
            if line.endswith(own):
                return f"Each row ends with {_named(own)}: end the header with one, too."
            return "Each row has one field more, as with row names: give the header a name for it."
        return "Does the header belong to these rows?"

    def row(self, raw: bytes) -> RowValues | RowError:
        """With or without its line end."""
        record = scan_record(raw, 0, self.dialect, eof=True)
        if record is None or record.fields is None:
            return RowError("parse", "wrong_arity", "The record is blank.")
        if raw[record.next_start :].strip(BLANKS + b"\n"):
            return RowError("parse", "wrong_arity", "The text holds more than one record.")
        return specify(record.fields, self)

    def records(self, fields: Sequence[str]) -> RowValues:
        """The values of one row's records; RowError says what is wrong with it."""
        columns = list(zip(self.dataset.columns, self.fields, strict=True))
        parts: Sequence[Sequence[str]] = ((),)
        for column, index in columns:
            if column.split:
                parts = parts_of(fields[index], column.split, column.role)
                break
        return [
            [
                column.kind.one(part[column.split.index] if column.split else fields[index], column.role)
                for column, index in columns
            ]
            for part in parts
        ]

    def plain(self, data: bytes, records: Records) -> tuple[Ints, list[Values], Bools]:
        """The records of all plain rows: each one's row, among these, and values; and which rows are surely right."""
        buffer = parse.padded(data)
        quotes: Ints = np.flatnonzero(buffer == QUOTE) if records.has_quotes else np.empty(0, np.int64)
        n = len(records.plain)
        valid = np.ones(n, np.bool_)
        slices: list[list[Values]] = [[] for _ in self.dataset.columns]
        rows: list[Ints] = []
        for first in range(0, max(n, 1), parse.SLICE_ROWS):
            some = slice(first, first + parse.SLICE_ROWS)
            found = self._parts(buffer, records, some)
            rows.append(np.arange(first, first + len(valid[some])) if found is None else first + found.rows)
            for number, values in enumerate(slices):
                one, good = self._column(buffer, quotes, records, some, number, found)
                values.append(one)
                valid[some] &= good
        return np.concatenate(rows), [chained(found) if len(found) > 1 else found[0] for found in slices], valid

    def _parts(self, buffer: parse.Bytes, records: Records, rows: slice) -> Parts | None:
        """The records of the field that is several; None where there is none."""
        for column, index in zip(self.dataset.columns, self.fields, strict=True):
            if column.split:
                starts, ends = (bound + parse.PAD for bound in records.field(index, rows))
                starts, ends = parse.bare(buffer, starts, ends, has_quotes=records.has_quotes)
                return find_parts(buffer, starts, ends, column.split)
        return None

    def _column(
        self, buffer: parse.Bytes, quotes: Ints, records: Records, rows: slice, number: int, parts: Parts | None
    ) -> tuple[Values, Bools]:
        """A value a record of some rows, and which of these rows are surely right by it."""
        column = self.dataset.columns[number]
        if column.split and parts is not None:
            starts, ends = parse.bare(buffer, *parts.bounds[column.split.index], has_quotes=False)
            values, good = column.kind.many(buffer, starts, ends)
            right = np.ones(len(records.plain[rows]), np.bool_)
            right[parts.rows[~(good & parts.good)]] = False
            return values, right
        starts, ends = (bound + parse.PAD for bound in records.field(self.fields[number], rows))
        well = np.ones(len(starts), np.bool_)
        if not column.kind.is_verbatim:
            starts, ends = parse.bare(buffer, starts, ends, has_quotes=records.has_quotes)
        elif records.has_quotes:
            starts, ends, well = parse.unquoted(buffer, quotes, starts, ends)
        values, good = column.kind.many(buffer, starts, ends)
        return values if parts is None else taken(values, parts.rows), good & well


def form_of(dataset: Dataset) -> Delimited:
    """How the data set's files are delimited."""
    assert isinstance(dataset.form, Delimited), "its format says so"
    return dataset.form


def _named(delimiter: bytes) -> str:
    return {b"\t": "tabs"}.get(delimiter, f"'{delimiter.decode()}'")


def bind(
    dataset: Dataset, header_line: bytes, names: Mapping[str, str] | None = None, *, by_position: bool = True
) -> Layout:
    """Find the data set's columns in a file's header; `names` maps roles to the user's own names or places of columns.

    ConfigurationError if a column is not there, or there twice. UsageError if one is to serve as two.
    """
    try:
        header = header_line.decode().strip(" \r\n")  # not a tab, which may delimit a nameless last column
    except UnicodeDecodeError:
        raise ConfigurationError("The header is not valid UTF-8; is this a text file?") from None
    own = dict(names or {})
    missing = "nothing"
    form = form_of(dataset)
    delimiters = (form.delimiter,) if form.delimiter else tuple(bytes([byte]) for byte in DELIMITERS)
    for delimiter in delimiters:
        found = header_names(header, delimiter)
        fields = [_place_of(column, found, own.get(column.role), by_position) for column in dataset.columns]
        if all(index >= 0 for index in fields):
            dialect = Dialect(delimiter, len(found), form.quotes)
            layout = Layout(dataset, dialect, tuple(fields), header)
            _refuse_doubtful(layout, found, own)
            return layout
        if delimiter == delimiters[0]:
            missing = ", ".join(column.role for column, index in zip(dataset.columns, fields, strict=True) if index < 0)
    role = dataset.columns[0].role
    raise ConfigurationError(
        f"The header has no column for: {missing}. Name your own with --column, for example --column {role}=uid, "
        f"or --column {role}=#1 for the first; the first line must be a header. "
        "For files of another shape ingest-service infer FILE writes a schema for --dataset."
    )


def bind_by_place(dataset: Dataset, names: Mapping[str, str] | None = None) -> Layout:
    """The layout of a file without a header. UsageError for a column by name, of which there are none."""
    form = form_of(dataset)
    fields = {column.role: column.place for column in dataset.columns}
    for role, own in (names or {}).items():
        position = _POSITION.fullmatch(own)
        if position is None or int(position[1]) > form.n_fields:
            raise UsageError(
                f"The files of {dataset.name} have no header, and {form.n_fields} columns; name one by its place: "
                f"--column {role}=#1."
            )
        fields[role] = int(position[1]) - 1
    dialect = Dialect(form.delimiter, form.n_fields, form.quotes)
    recipe = f"{form.n_fields} fields by {_named(form.delimiter)}, no header"
    layout = Layout(dataset, dialect, tuple(fields.values()), recipe)
    _refuse_doubles(layout)
    return layout


@lru_cache(maxsize=8)  # asked for each refused row of a file
def header_names(header: str, delimiter: bytes) -> tuple[str, ...]:
    """The names of a header's columns in the form in which they are compared."""
    return tuple(bare_name(name) for name in _split_header(header, delimiter.decode()))


def _place_of(column: Column, found: Sequence[str], own: str | None, by_position: bool) -> int:
    """At which field a column stands, -1 if at none: by the user's own name or position for it, or by its names."""
    wanted = frozenset({bare_name(own)}) if own else column.names
    named = next((index for index, name in enumerate(found) if name in wanted), -1)
    if named < 0 and own is None and found and found[0].startswith("#") and found[0].lstrip("# ") in column.names:
        named = 0  # numpy puts its mark of a comment before a header
    position = _POSITION.fullmatch(own or "")
    if named >= 0 or position is None or not by_position:
        return named
    return int(position[1]) - 1 if int(position[1]) <= len(found) else -1


def _refuse_doubtful(layout: Layout, found: Sequence[str], own: Mapping[str, str]) -> None:
    """What could be read in two ways, or is no header at all."""
    _refuse_doubles(layout)
    roles = [column.role for column in layout.dataset.columns]
    has_positions = False
    for role, index in zip(roles, layout.fields, strict=True):
        is_named = not _POSITION.fullmatch(own.get(role, "")) or found[index] == bare_name(own[role])
        has_positions |= not is_named
        if is_named and found.count(found[index]) > 1:
            raise ConfigurationError(
                f"The header has more than one column that is named like {role}; "
                f"say which by its position: --column {role}=#{index + 1}."
            )
    if has_positions and not isinstance(
        specify(_split_header(layout.recipe, layout.dialect.delimiter.decode()), layout), RowError
    ):
        raise ConfigurationError(
            f"The first line is a row, and would get lost as a header; put a line before it: {','.join(roles)}."
        )


def _refuse_doubles(layout: Layout) -> None:
    roles = [column.role for column in layout.dataset.columns]
    fields = [index for column, index in zip(layout.dataset.columns, layout.fields, strict=True) if not column.split]
    for index in fields:
        if fields.count(index) > 1:
            both = [one for one, place in zip(roles, layout.fields, strict=True) if place == index]
            raise UsageError(f"One column would be both {' and '.join(both)}; give each its own with --column.")


def _split_header(header: str, delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return header.split(delimiter)
    try:
        return next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # a CR inside (line ends that are CR alone), or a name longer than the module takes
        return []


def specify(fields: Sequence[str] | RowError, layout: Layout) -> RowValues | RowError:
    """One record through the specification: its values, or why not."""
    if isinstance(fields, RowError):
        return fields
    try:
        return layout.records(fields)
    except RowError as error:
        return _HEADER_AGAIN if form_of(layout.dataset).header and _is_header(fields, layout) else error


def _is_header(fields: Sequence[str], layout: Layout) -> bool:
    """Whether a row that is none repeats the header, as where files were put together."""
    first = fields[0].removeprefix("\ufeff")
    return tuple(map(bare_name, (first, *fields[1:]))) == header_names(layout.recipe, layout.dialect.delimiter)
