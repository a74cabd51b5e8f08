"""A Parquet file: its row groups, and batches of their rows in bounded memory."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from typing import IO, TYPE_CHECKING

import numpy as np

from ingest_service.errors import ConfigurationError, IngestError, LocalIOError
from ingest_service.sources.base import Source

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema
    from pyarrow.parquet import ColumnChunkMetaData

BATCH_ROWS = 1 << 16
_ROW_BYTES = 32  # a row takes memory by itself
_PAGE_BYTES = 1 << 20  # read ahead at once of each column
_TAIL_BYTES = 1 << 20
_MAGIC = b"PAR1"


class ParquetFile:
    """The file of a source, open. `n_rows` in all; `schema` that of Arrow."""

    def __init__(self, source: Source) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise ConfigurationError("Parquet needs pyarrow; install ingest-service[parquet].") from None
        self._file: IO[bytes] = source.open_at_random()
        try:
            self.size = self._file.seek(0, 2)
            if self._bytes(self.size - len(_MAGIC), self.size) != _MAGIC:
                raise ConfigurationError("The source is not a Parquet file, or one that is cut off: its end is none.")
            with errors_translated():
                # Without `pre_buffer` pages are read as they are needed, and no row group is held as a whole.
                self._parquet = parquet.ParquetFile(
                    self._file, pre_buffer=False, buffer_size=_PAGE_BYTES, page_checksum_verification=True
                )
                self.schema: Schema = self._parquet.schema_arrow
                metadata = self._parquet.metadata
                groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
                self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
                self.n_rows = int(self._ends[-1]) if groups else 0
                if metadata.num_rows != self.n_rows:
                    raise ValueError("its row groups have not as many rows as it says")
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._parquet.close()
        self._file.close()

    def group_from(self, row: int) -> int | None:
        """The first row of the first row group that begins at `row` or after it, if there is one."""
        starts = np.append(0, self._ends[:-1])
        starts = starts[starts >= row]
        return int(starts[0]) if len(starts) else None

    def group_of(self, row: int) -> tuple[int, int]:
        """The row group in which a row is, and its first row."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        return number, int(self._ends[number - 1]) if number else 0

    def batches(self, row: int, columns: Sequence[str], block_bytes: int) -> Iterator[tuple[int, "RecordBatch"]]:
        """From a row on, batches with the row at which each begins, which end at the same rows wherever one begins.

        None is of two row groups, nor much longer than `block_bytes`.
        """
        while row < self.n_rows:
            number, first = self.group_of(row)
            with errors_translated():
                size = self._batch_rows(number, columns, block_bytes)
                batches = self._parquet.iter_batches(size, row_groups=[number], columns=list(columns))
            while True:
                with errors_translated():
                    batch = next(batches, None)
                if batch is None:
                    break
                end = first + batch.num_rows
                for piece_end in _cuts(batch, block_bytes):
                    if first + piece_end > row:
                        yield row, batch.slice(row - first, first + piece_end - row)
                        row = first + piece_end
                first = end
            if row < self._ends[number]:
                raise LocalIOError("The source cannot be read as Parquet: a row group has fewer rows than it says.")

    def _batch_rows(self, number: int, columns: Sequence[str], block_bytes: int) -> int:
        wanted = sum(chunk.total_uncompressed_size for chunk in self._chunks(number, tuple(columns)))
        row_bytes: int = max(_ROW_BYTES, wanted // max(self._parquet.metadata.row_group(number).num_rows, 1))
        return max(1, min(BATCH_ROWS, block_bytes // row_bytes))

    @lru_cache(maxsize=2)  # noqa: B019 - it lives as long as the file
    def _chunks(self, number: int, columns: tuple[str, ...]) -> list["ColumnChunkMetaData"]:
        """What the footer says of these columns in a row group.

        A row of them is read first: where the footer is damaged, Arrow says so there, and ends the process here.
        """
        next(self._parquet.iter_batches(1, row_groups=[number], columns=list(columns)), None)
        group, paths = self._parquet.metadata.row_group(number), self._parquet.schema
        return [
            group.column(index)
            for index in range(len(paths))
            if any((paths.column(index).path + ".").startswith(name + ".") for name in columns)
        ]

    def hash_before(self, row: int, columns: Sequence[str]) -> str:
        """Of the footer, which has the sizes and statistics of all columns, and of bytes of these columns before a row.

        They are the last before the row's group ends. With it a later run proves that the file is still the same.
        """
        with errors_translated():
            return self._hash_of(self.group_of(row - 1)[0] if row else -1, tuple(columns))

    @lru_cache(maxsize=2)  # noqa: B019 - it lives as long as the file
    def _hash_of(self, number: int, columns: tuple[str, ...]) -> str:
        found = blake2b(digest_size=16)
        length = int.from_bytes(self._bytes(self.size - 8, self.size - 4), "little")
        found.update(self._bytes(max(0, self.size - 8 - length), self.size))
        if number >= 0:
            end = max(_start(chunk) + chunk.total_compressed_size for chunk in self._chunks(number, columns))
            found.update(self._bytes(max(0, end - _TAIL_BYTES), end))
        return found.hexdigest()

    def _bytes(self, start: int, end: int) -> bytes:
        start = max(0, start)
        try:
            self._file.seek(start)
            parts = bytearray()
            while len(parts) < end - start and (data := self._file.read(end - start - len(parts))):
                parts += data
        except OSError as error:
            raise LocalIOError(f"The source cannot be read: {error.strerror or error}.") from error
        return bytes(parts)


def _start(chunk: "ColumnChunkMetaData") -> int:
    """Where a column's pages begin in the file."""
    start: int = chunk.data_page_offset
    return min(start, chunk.dictionary_page_offset) if chunk.has_dictionary_page else start


def _cuts(batch: "RecordBatch", block_bytes: int) -> Iterator[int]:
    """Where a batch that takes more than a block is cut."""
    n_pieces = max(1, -(-batch.nbytes // block_bytes))
    size = -(-batch.num_rows // n_pieces)
    yield from range(size, batch.num_rows, size)
    yield batch.num_rows


@contextmanager
def errors_translated() -> Iterator[None]:
    """Whatever Arrow makes of a file that is damaged is LocalIOError; some of it are the interpreter's own errors."""
    import pyarrow

    try:
        yield
    except IngestError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError) as error:
        raise LocalIOError(f"The source cannot be read as Parquet: {json.dumps(str(error)[:200])}.") from error
