"""The disk that a table and its primary key take in PostgreSQL (documentation, "Database Page Layout")."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import FieldKind
from ingest_service.sinks.postgres.tables import key_of
from ingest_service.sinks.sizes import Found, Sizes, Tally

_PAGE_BYTES, _PAGE_HEADER, _POINTER = 8_192, 24, 4
_TUPLE_HEADER, _ENTRY_HEADER = 24, 8
_WIDTHS = {FieldKind.UUID: 16, FieldKind.TIME: 8, FieldKind.INT: 8, FieldKind.FLOAT: 8, FieldKind.TRUTH: 1}
_SHORT = 126  # bytes of a text whose length takes one byte
_FILLED_AT_ONCE, _FILLED = 0.9, 0.69  # an index that was made in order, and one whose pages were halved since (ln 2)


class PostgresTally(Tally):
    rows_per_s: ClassVar[int] = 280_000
    within: ClassVar[float] = 0.1

    def __init__(self) -> None:
        self._n = self._row_bytes = self._entry_bytes = self._n_chunks = 0

    def add(self, chunk: Chunk) -> None:
        columns = chunk.columns
        names = [field.name for field in columns.schema.fields]
        self._n += len(columns)
        self._n_chunks += 1
        self._row_bytes += int((_TUPLE_HEADER + _aligned(columns, names)).sum())
        self._entry_bytes += int((_ENTRY_HEADER + _aligned(columns, key_of(columns.schema))).sum())

    def sizes(self, found: Found) -> Sizes:
        row, entry = (total / max(self._n, 1) + _POINTER for total in (self._row_bytes, self._entry_bytes))
        table = found.kept * _PAGE_BYTES / max(1, (_PAGE_BYTES - _PAGE_HEADER) // row)
        index = found.kept * entry / (_FILLED_AT_ONCE if self._n_chunks == 1 else _FILLED)
        return {"rows": found.kept, "table_bytes": round(table), "index_bytes": round(index)}


def _aligned(columns: Columns, names: Iterable[str]) -> Ints:
    """The bytes of some fields together, in words of eight."""
    kinds = {field.name: field.kind for field in columns.schema.fields}
    total = np.zeros(len(columns), np.int64)
    for name in names:
        if (width := _WIDTHS.get(kinds[name])) is not None:
            total += width
        else:
            widths = np.asarray(columns.texts[name].widths)
            total += widths + np.where(widths <= _SHORT, 1, 4)
    return (total + 7) // 8 * 8
