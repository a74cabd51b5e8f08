"""What a data set is: its columns by role, and how a row's values become a record."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from ingest_service import models, parse
from ingest_service.columns import Columns
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.records import Bools, Dialect, Ints, Records

# The texts of an interaction. Ids and times need no escaping in JSON; `session_id` is free text. `timestamp` is the
# stored 27-character form; the number `epoch_ms` is the same instant.
RECORD_TEXTS = ("user_id", "video_id", "event_type", "timestamp", "device", "session_id")

DELIMITERS = b",\t;|"


@dataclass(frozen=True, slots=True)
class Column:
    """One column that the data set needs. `names` are the headers it goes by, in lower case."""

    role: str
    kind: Literal["id", "timestamp"]
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A shape of file, and the one way its rows become records.

    records: values (int64[n] by role; timestamps in microseconds since 1970 UTC) to records as columns.
    interaction: the same for one row, as the specification.
    """

    name: str
    columns: tuple[Column, ...]
    unit: models.TimeUnit
    records: Callable[[Mapping[str, Ints]], Columns]
    interaction: Callable[[Mapping[str, int]], models.VideoInteraction]


@dataclass(frozen=True, slots=True)
class Layout:
    """A data set bound to one file: its dialect, and at which field each column stands."""

    dataset: Dataset
    dialect: Dialect
    fields: tuple[int, ...]
    header: str

    def row(self, fields: Sequence[str]) -> list[int]:
        """The values of one row, in the order of the data set's columns; RowError says what is wrong with it."""
        values: list[int] = []
        for column, index in zip(self.dataset.columns, self.fields, strict=True):
            if column.kind == "id":
                values.append(models.parse_id(fields[index], column.role))
            else:
                at = models.parse_timestamp(fields[index], column.role, self.dataset.unit)
                values.append(micros_of(at))
        return values

    def columns(self, data: bytes, records: Records) -> tuple[list[Ints], Bools]:
        """The values of all plain records: an int64 array a column, and which rows are surely right."""
        buffer = parse.padded(data)
        n = len(records.plain)
        valid = np.ones(n, np.bool_)
        values = [np.empty(n, np.int64) for _ in self.fields]
        for first in range(0, n, parse.SLICE_ROWS):
            rows = slice(first, first + parse.SLICE_ROWS)
            for column, index, column_values in zip(self.dataset.columns, self.fields, values, strict=True):
                starts, ends = records.field(index, rows)
                starts, ends = parse.bare(buffer, starts + parse.PAD, ends + parse.PAD, has_quotes=records.has_quotes)
                if column.kind == "id":
                    column_values[rows], good = parse.integers(buffer, starts, ends)
                else:
                    column_values[rows], good = parse.timestamps(buffer, starts, ends, self.dataset.unit)
                valid[rows] &= good
        return values, valid


def micros_of(at: datetime) -> int:
    return (at - models.EPOCH) // timedelta(microseconds=1)


def bind(dataset: Dataset, header_line: bytes, names: Mapping[str, str] | None = None) -> Layout:
    """Find the data set's columns in a file's header; `names` maps roles to the user's own column names."""
    try:
        header = header_line.decode().strip(" \r\n")  # not a tab, which may delimit a nameless last column
    except UnicodeDecodeError:
        raise ConfigurationError("The header is not valid UTF-8; is this a text file?") from None
    best: Layout | None = None
    missing = "nothing"
    for delimiter in DELIMITERS:
        found = [_bare_name(name) for name in _split_header(header, chr(delimiter))]
        wanted = [_wanted_names(column, names) for column in dataset.columns]
        fields = [next((i for i, name in enumerate(found) if name in want), -1) for want in wanted]
        if all(index >= 0 for index in fields):
            best = Layout(dataset, Dialect(bytes([delimiter]), len(found)), tuple(fields), header)
            break
        if delimiter == DELIMITERS[0]:
            missing = ", ".join(column.role for column, index in zip(dataset.columns, fields, strict=True) if index < 0)
    if best is None:
        raise ConfigurationError(
            f"The header has no column for: {missing}. Name your own with --column, for example "
            f"--column {dataset.columns[0].role}=uid; the first line must be a header."
        )
    return best


def _split_header(header: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # a CR inside (line ends that are CR alone), or a name longer than the module takes
        return []


def _bare_name(name: str) -> str:
    return name.strip(models.WHITESPACE).strip('"').strip(models.WHITESPACE).lower()


def _wanted_names(column: Column, names: Mapping[str, str] | None) -> frozenset[str]:
    own = (names or {}).get(column.role)
    return frozenset({_bare_name(own)}) if own else column.names


def specify(fields: Sequence[str] | RowError, layout: Layout) -> list[int] | RowError:
    """One record through the specification: its values, or why not."""
    if isinstance(fields, RowError):
        return fields
    try:
        return layout.row(fields)
    except RowError as error:
        return error
