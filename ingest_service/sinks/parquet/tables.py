"""Records as tables of Arrow, a column at a time: what the files hold, and in which types."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import FieldKind, Schema
from ingest_service.rows.texts import Texts, concatenate

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE, OFFSET = "_source", "_offset"  # the stream of a record, and where in it it stood
GROUP_ROWS = 1 << 16  # in a row group
REPLAYED = 1 << 62  # the first offset of records that were replayed: they are newer than what the source says
_MOST_TEXT_BYTES = (1 << 31) - 1  # of a column whose offsets have 32 bits


class Partition(StrEnum):
    """By what the files are divided into folders, `month=2020-03`: the time of their records, in UTC."""

    DAY = "day"
    MONTH = "month"
    YEAR = "year"
    NONE = "none"

    def of(self, times: Ints) -> tuple[Ints, list[str]]:
        """The partition of each record by number, and the folders by that number. times: µs since 1970 UTC."""
        if self is Partition.NONE:
            return np.zeros(len(times), np.int64), [""]
        units = times.view("datetime64[us]").astype(f"datetime64[{self.value[0].upper()}]")
        distinct, numbers = np.unique(units, return_inverse=True)
        name = "date" if self is Partition.DAY else self.value
        return numbers, [f"{name}={one}" for one in distinct.astype(str).tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Records of a chunk, without what tells them apart, and where each stood: `offsets`, all in [start, end)."""

    columns: Columns
    offsets: Ints
    start: int
    end: int

    @classmethod
    def of(cls, chunk: Chunk, replayed: bool) -> "Rows":
        rows = chunk.last_of_each_key()
        offsets = np.arange(REPLAYED, REPLAYED + chunk.accepted) if replayed else chunk.offsets
        columns = chunk.columns.take(rows)
        time = columns.schema.key[0]
        texts = {name: _compact(texts) for name, texts in columns.texts.items() if name != time}
        return cls(
            replace(columns, owner=(), parts=(), texts=texts), offsets[rows], chunk.start.offset, chunk.end.offset
        )

    @property
    def n(self) -> int:
        return len(self.columns)

    @property
    def n_bytes(self) -> int:
        """What is held of memory; of texts that other chunks have too, no more than these take."""
        texts = sum(_n_bytes(texts) for texts in self.columns.texts.values())
        return texts + 16 * self.n + sum(int(numbers.nbytes) for numbers in self.columns.numbers.values())

    def take(self, rows: Ints | slice) -> "Rows":
        return Rows(self.columns.take(rows), self.offsets[rows], self.start, self.end)


def _compact(texts: Texts) -> Texts:
    """Not with a whole block of the source for a few of its texts."""
    return concatenate([texts]) if len(texts.buffer) > 2 * _width(texts) and texts.constant_bytes is None else texts


def _n_bytes(texts: Texts) -> int:
    per_row = 0 if texts.constant_bytes is not None else 8 if isinstance(texts.widths, int) else 16
    return min(len(texts.buffer), _width(texts)) + per_row * len(texts)


def _width(texts: Texts) -> int:
    return texts.widths * len(texts) if isinstance(texts.widths, int) else int(texts.widths.sum())


def divided(parts: Sequence[Rows], partition: Partition) -> Iterator[tuple[str, Sequence[Rows]]]:
    """The rows of these, of each partition together, in their order, and the folder of each."""
    numbers, folders = partition.of(np.concatenate([part.columns.times for part in parts]))
    if len(folders) == 1:
        yield folders[0], parts
        return
    by_part = np.split(numbers, np.cumsum([part.n for part in parts])[:-1])
    orders = [np.argsort(mine, kind="stable") for mine in by_part]
    edges = [
        np.searchsorted(mine[order], np.arange(len(folders) + 1)) for mine, order in zip(by_part, orders, strict=True)
    ]
    for number, folder in enumerate(folders):
        mine = (
            part.take(order[edge[number] : edge[number + 1]])
            for part, order, edge in zip(parts, orders, edges, strict=True)
        )
        yield folder, [part for part in mine if part.n]


def in_groups(parts: Sequence[Rows], most_rows: int) -> "Iterator[pa.Table]":
    """The records of all these as tables of so many rows, but for the last."""
    import pyarrow as pa

    tables: list[pa.Table] = []
    missing = most_rows
    for part in parts:
        first = 0
        while first < part.n:
            some = part.take(slice(first, first + missing))
            tables.append(table_of(some.columns, some.offsets))
            first, missing = first + some.n, missing - some.n
            if not missing:
                yield pa.concat_tables(tables)
                tables, missing = [], most_rows
    if tables:
        yield pa.concat_tables(tables)


def write_groups(where: Path | BytesIO, tables: "Iterator[pa.Table]") -> None:
    """A file with these tables, of which there is one at least, as its row groups."""
    import pyarrow.parquet as parquet

    first = next(tables)
    with parquet.ParquetWriter(where, first.schema, compression="zstd") as writer:
        for table in chain((first,), tables):
            writer.write_table(table)


def table_of(columns: Columns, offsets: Ints) -> "pa.Table":
    """The fields in the schema's order under their names, and `_offset`. The time is taken from `times`."""
    import pyarrow as pa

    arrays = {field.name: _array(columns, field.name, field.kind) for field in columns.schema.fields}
    return pa.table({**arrays, OFFSET: pa.array(offsets, pa.int64())})


def shape_of(schema: Schema) -> dict[str, str]:
    """The columns of the files, and their types as text."""
    import pyarrow as pa

    nothing = table_of(_nothing(schema), np.empty(0, np.int64))
    return {SOURCE: str(pa.string())} | {field.name: str(field.type) for field in nothing.schema}


def _nothing(schema: Schema) -> Columns:
    none = np.empty(0, np.int64)
    texts = {name: Texts.of([]) for name in schema.texts}
    kinds = {field.name: np.float64 if field.kind is FieldKind.FLOAT else np.int64 for field in schema.fields}
    return Columns(schema, (none,), (), none, texts, {name: np.empty(0, kinds[name]) for name in schema.numbers})


def _array(columns: Columns, name: str, kind: FieldKind) -> "pa.Array[Any]":
    import pyarrow as pa

    schema = columns.schema
    if kind is FieldKind.TIME and schema.key[:1] == (name,):
        return pa.array(columns.times, pa.int64()).cast(pa.timestamp("us", "UTC"))
    if name in columns.numbers:
        return pa.array(columns.numbers[name])
    texts = columns.texts[name]
    if kind is FieldKind.TRUTH:
        return pa.array(texts.buffer[texts.starts] == ord("t") if len(texts) else np.empty(0, np.bool_))
    return _strings(texts)


def _strings(texts: Texts) -> "pa.Array[Any]":
    import pyarrow as pa

    n = len(texts)
    if not n:
        return pa.array([], pa.string())
    if (constant := texts.constant_bytes) is not None:
        return pa.repeat(pa.scalar(constant.decode(), pa.string()), n)
    packed = concatenate([texts])
    ends = np.append(np.asarray(packed.starts), len(packed.buffer))
    assert ends[-1] <= _MOST_TEXT_BYTES, "a chunk is much smaller"
    return pa.StringArray.from_buffers(n, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(packed.buffer))
