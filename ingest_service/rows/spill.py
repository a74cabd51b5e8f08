"""Rows set aside on disk, to be had again by user: what lets a whole file be compared in little memory."""

import math
import tempfile
from collections.abc import Iterator
from io import BytesIO
from types import TracebackType
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ingest_service.errors import LocalIOError

PARTITION_ROWS = 50_000  # about 15 MB as a frame, several times that while it is compared
MAX_PARTITIONS = 1_024
_USER_HASH = pl.col("user_id").hash(seed=0)


class Spill:
    """Frames with a column `user_id`, in an unnamed temporary file that goes with the process, however it ends.

    All rows of a user come back in one partition, in the order in which they were added. With `sample`, only those of
    that many users are kept: the ones with the smallest hashes, so that a second run chooses the same.
    """

    def __init__(self, rows: int | None, sample: int | None = None, *, by: pl.Expr = _USER_HASH) -> None:
        """`rows`: about how many there will be, None if that is not known. `by`: a hash of more than the user."""
        wanted = 64 if rows is None else math.ceil(rows / PARTITION_ROWS)
        self.partitions = min(MAX_PARTITIONS, max(1, wanted))
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._pieces: list[list[tuple[int, int]]] = [[] for _ in range(self.partitions)]
        self._by = by.alias("hash")
        self._sample = sample
        self._chosen: NDArray[np.uint64] = np.empty(0, np.uint64)

    def add(self, frame: pl.DataFrame) -> None:
        """LocalIOError if the temporary folder is full."""
        frame = self._only_chosen(frame.with_columns(self._by))
        partition = (pl.col("hash") % self.partitions).alias("partition")
        pieces = frame.with_columns(partition).partition_by("partition", as_dict=True, include_key=False)
        try:
            for (number,), piece in pieces.items():
                packed = BytesIO()
                piece.write_ipc(packed, compression="lz4")
                start = self._file.tell()
                self._file.write(packed.getbuffer())
                self._pieces[number].append((start, packed.getbuffer().nbytes))
        except OSError as error:
            raise LocalIOError(
                f"Rows cannot be set aside in {tempfile.gettempdir()} ({error.strerror}); make room or set TMPDIR."
            ) from error

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """The partitions, those without rows left out; once, after the last `add`."""
        for pieces in self._pieces:
            frames = [self._only_chosen(self._read(*piece)) for piece in pieces]
            if frames and (frame := pl.concat(frames)).height:
                yield frame.drop("hash")

    def _read(self, start: int, length: int) -> pl.DataFrame:
        self._file.seek(start)
        return pl.read_ipc(BytesIO(self._file.read(length)))

    def _only_chosen(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self._sample is None:
            return frame
        hashes = frame["hash"].to_numpy()
        self._chosen = np.unique(np.concatenate((self._chosen, hashes)))[: self._sample]
        return frame.filter(pl.col("hash") <= self._chosen[-1]) if self._chosen.size else frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
