"""Parquet: positions are rows, and blocks batches of a row group's rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.kinds import Epoch, FormattedTime, Time
from ingest_service.errors import ConfigurationError, RowError, SourceChanged
from ingest_service.formats.base import Block, Reader, Rows, RowValues
from ingest_service.formats.chunks import Places, chunk_of
from ingest_service.formats.jsonl.reader import JsonRows
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.formats.parquet.columns import ArrowColumns, ArrowRows, object_at, specify
from ingest_service.formats.parquet.file import ParquetFile, errors_translated
from ingest_service.formats.paths import Paths, paths_of
from ingest_service.rows.chunk import Chunk, DeadRow, Position
from ingest_service.sources.base import Source

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema


@dataclass(frozen=True, slots=True)
class ParquetBlock(Block):
    batch: "RecordBatch"

    @property
    def places(self) -> Places:
        rows = np.arange(self.batch.num_rows)
        return Places(self.start.offset + rows, self.start.line + rows + 1, ArrowRows(self.batch, rows))


@dataclass(frozen=True, slots=True)
class ParquetRows(Rows):
    """A data set bound to a file's columns. The recipe are these, with their types."""

    dataset: Dataset
    paths: Paths
    recipe: str

    def row(self, raw: bytes) -> RowValues | RowError:
        return JsonRows(self.dataset, self.paths).row(raw)

    def advice(self, refused: DeadRow) -> str:
        return self.dataset.advice(refused.code)


class ParquetReader(Reader[ParquetBlock]):
    """Reads Parquet. An offset is a row, and so is a line: the first is line 1."""

    rows: ParquetRows

    def __init__(
        self,
        source: Source,
        dataset: Dataset,
        *,
        columns: Mapping[str, str] | None = None,
        limit: int | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._file = ParquetFile(source)
        try:
            paths = paths_of(dataset, columns)
            with errors_translated():
                types = _types(self._file.schema, paths)
            self.rows = _bound(dataset, paths, json.dumps(types))
        except BaseException:
            self._file.close()
            raise
        # A path into a list is read with all of the list.
        self._names = list(dict.fromkeys(".".join(paths.each) if paths.each and inner else ".".join(path)
                                         for path, inner in zip(paths.of, paths.is_inner, strict=True)))  # fmt: skip
        self._columns = ArrowColumns(self.rows.dataset.columns, paths)
        self._limit = limit
        self._end_row = self._file.n_rows
        self._block_bytes = block_bytes
        self._batches: Iterator[tuple[int, RecordBatch]] | None = None
        self.source_size = self._file.size
        self.first = self.position = self._at(0)
        self.reached_end = False

    @classmethod
    def rows_of(cls, dataset: Dataset, recipe: str, columns: Mapping[str, str] | None = None) -> ParquetRows:
        return _bound(dataset, paths_of(dataset, columns), recipe)

    @property
    def length(self) -> int:
        return self._file.n_rows

    @property
    def is_done(self) -> bool:
        return self.reached_end or (self._limit is not None and self.position.row >= self._limit)

    @property
    def warnings(self) -> Sequence[str]:
        return ()

    def require(self, recipe: str) -> None:
        if recipe != self.rows.recipe:
            raise SourceChanged(
                "The source's columns, or their types, are not those that were ingested; "
                "use --restart to start it again."
            )

    def resume(self, at: Position, *, was_unended: bool = False) -> None:
        if at.row > self._file.n_rows or at.tail_hash != self._at(at.row).tail_hash:
            raise SourceChanged("The source is not the file that was ingested; use --restart to start it again.")
        self.position = at
        self._batches = None

    @property
    def is_divisible(self) -> bool:
        return True

    def cut(self, offset: int) -> Position | None:
        first = self._file.group_from(offset)
        return None if first is None or first == 0 else self._at(first)

    def until(self, end: Position) -> None:
        self._end_row = end.row

    def next(self) -> ParquetBlock | None:
        if self.is_done:
            return None
        if self._batches is None:
            self._batches = self._file.batches(self.position.row, self._names, self._block_bytes)
        start = self.position
        _, batch = (0, None) if start.row == self._end_row else next(self._batches, (0, None))
        if batch is None:
            self.reached_end = True
            return None
        last = min(self._end_row, self._end_row if self._limit is None else self._limit)
        if start.row + batch.num_rows > last:
            batch = batch.slice(0, last - start.row)
        self.position = self._at(start.row + batch.num_rows)
        return ParquetBlock(start, self.position, False, batch)

    def chunk(self, block: ParquetBlock) -> Chunk:
        with errors_translated():
            plain = self._columns.plain(block.batch)
        return chunk_of(block, block.places, self.rows.dataset, plain, partial(self._specify, block))

    def values(self, block: ParquetBlock) -> Iterator[RowValues | RowError]:
        return (self._specify(block, index) for index in range(block.batch.num_rows))

    def ended(self, block: ParquetBlock, end: Position) -> ParquetBlock:
        raise AssertionError("a row of Parquet has its end")

    def stored_position(self) -> int:
        return self._file.size * self.position.row // max(1, self._file.n_rows)

    def close(self) -> None:
        self._file.close()

    def _specify(self, block: ParquetBlock, index: int) -> RowValues | RowError:
        return specify(object_at(block.batch, index), self.rows.dataset.columns, self.rows.paths)

    def _at(self, row: int) -> Position:
        return Position(row, row, row, self._file.hash_before(row, self._names))


def _types(schema: "Schema", paths: Paths) -> list[str]:
    """The type of each column. ConfigurationError if one is not there."""
    found = []
    for path, is_inner in zip(paths.of, paths.is_inner, strict=True):
        kind: Any = schema
        for name in (*(paths.each or ()), "", *path) if is_inner else path:
            kind = kind.value_type if not name else _field_of(kind, name, schema)
        found.append(str(kind))
    return found


def _field_of(kind: Any, name: str, schema: "Schema") -> Any:
    import pyarrow as pa

    has_fields = isinstance(kind, pa.Schema) or pa.types.is_struct(kind)
    index = kind.get_field_index(name) if has_fields else -1
    if index < 0:
        raise ConfigurationError(f"The source has no column {name!r}; it has: {', '.join(schema.names)}.")
    return kind.field(index).type


def _bound(dataset: Dataset, paths: Paths, recipe: str) -> ParquetRows:
    """With columns that hold instants read as such, however the schema says that texts and numbers are times."""
    types = json.loads(recipe)
    columns = tuple(
        replace(column, kind=Time()) if _is_time(column.kind) and kind.startswith(("timestamp", "date")) else column
        for column, kind in zip(dataset.columns, types, strict=True)
    )
    return ParquetRows(replace(dataset, columns=columns), paths, recipe)


def _is_time(kind: Any) -> bool:
    return isinstance(kind, Time | FormattedTime | Epoch)
