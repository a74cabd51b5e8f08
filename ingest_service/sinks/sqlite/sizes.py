"""The disk that rows take in SQLite: records of a table without row ids (sqlite.org, "Database File Format", 2.1)."""

from typing import ClassVar

import numpy as np

from ingest_service.rows.chunk import Chunk
from ingest_service.rows.texts import lengths
from ingest_service.sinks.sizes import Found, Sizes, Tally
from ingest_service.sinks.sqlite.rows import values

_CELL_BYTES = 4  # where it begins, and how long it is
_FILLED = 0.89  # of a page, once rows came in between those that were there


class SQLiteTally(Tally):
    rows_per_s: ClassVar[int] = 170_000
    within: ClassVar[float] = 0.1

    def __init__(self) -> None:
        self._n = self._bytes = 0

    def add(self, chunk: Chunk) -> None:
        columns = chunk.columns
        texts = values(columns).values()
        sizes = np.zeros(len(columns), np.int64) + lengths(list(texts))
        self._n += len(columns)
        self._bytes += int(sizes.sum()) + len(columns) * (_CELL_BYTES + 2 + len(texts))  # each value has its kind

    def sizes(self, found: Found) -> Sizes:
        row_bytes = self._bytes / max(self._n, 1) / _FILLED
        return {"rows": found.kept, "disk_bytes": round(found.kept * row_bytes)}
