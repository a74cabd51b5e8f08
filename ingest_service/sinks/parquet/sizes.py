"""What rows take as Parquet files: told by some of them, written into memory as the sink writes them."""

from io import BytesIO
from typing import ClassVar

from ingest_service.rows.chunk import Chunk
from ingest_service.sinks.parquet.tables import GROUP_ROWS, Partition, Rows, divided, in_groups, write_groups
from ingest_service.sinks.sizes import Found, Sizes, Tally

_TOGETHER = 2 * GROUP_ROWS  # written at once: whole groups, whose dictionaries are of the usual length


class ParquetTally(Tally):
    """Of so many rows at the beginning all are written, and later the fewer, the more have gone by."""

    rows_per_s: ClassVar[int] = 450_000
    within: ClassVar[float] = 0.1

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._n = self._written_rows = self._written_bytes = 0
        self._waiting: list[Rows] = []

    def add(self, chunk: Chunk) -> None:
        self._n += len(chunk.columns)
        if self._waiting or self._n >= 2 * self._written_rows:
            self._waiting.append(Rows.of(chunk, replayed=False))
            if sum(rows.n for rows in self._waiting) >= _TOGETHER:
                self._write()

    def _write(self) -> None:
        for _, parts in divided(self._waiting, self._partition):
            file = BytesIO()
            write_groups(file, in_groups(parts, GROUP_ROWS))
            self._written_bytes += file.tell()
            self._written_rows += sum(part.n for part in parts)
        self._waiting.clear()

    def sizes(self, found: Found) -> Sizes:
        if self._waiting and not self._written_rows:
            self._write()
        rows = round(self._n * found.scale)
        return {"rows": rows, "disk_bytes": round(rows * self._written_bytes / max(self._written_rows, 1))}
