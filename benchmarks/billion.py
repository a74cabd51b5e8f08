"""A source of a billion rows that is stored nowhere, loaded by workers into a sink that checks each row and keeps none.

    python -m benchmarks.billion [--rows 1000000000] [--workers 2]

Any of its bytes follow from their offset, so shards read what is theirs. The sink compares each row with what the
source must say at its place. Prints rows, time, and the memory of each worker as it went.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest_service.datasets import dataset_named
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.load import State
from ingest_service.pipeline.report import StreamReport
from ingest_service.pipeline.run import work_on
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.runtime.process import give_back_memory, rss_mb
from ingest_service.sinks.base import Sink, SinkOptions, Written
from ingest_service.sinks.file_checkpoints import FileCheckpoints
from ingest_service.sources.base import Source, Stream

HEADER = b"userID,videoID,timestamp\n"
FIRST_MS = 1_500_000_000_000
USERS, ITEMS = 99_991, 19_219  # about as MicroLens has them
ROW_BYTES = 28
_FOUR = np.char.zfill(np.arange(10_000).astype("S4"), 4).view(np.uint8).reshape(-1, 4)


def fields(rows: Ints) -> tuple[Ints, Ints, Ints]:
    """User, item and time in milliseconds of rows by their number."""
    return rows * 2_654_435 % USERS, rows * 40_503 % ITEMS, FIRST_MS + rows


def text(first: int, last: int) -> NDArray[np.uint8]:
    """Rows [first, last) as the source has them: fields of 7, 5 and 13 digits."""
    user, item, at = fields(np.arange(first, last, dtype=np.int64))
    made = np.empty((last - first, ROW_BYTES), np.uint8)
    made[:, :3], made[:, 3:7] = _FOUR[user // 10_000][:, 1:], _FOUR[user % 10_000]
    made[:, 8:9], made[:, 9:13] = _FOUR[item // 10_000][:, 3:], _FOUR[item % 10_000]
    made[:, 14:15], made[:, 15:19] = _FOUR[at // 10**12][:, 3:], _FOUR[at // 10**8 % 10_000]
    made[:, 19:23], made[:, 23:27] = _FOUR[at // 10_000 % 10_000], _FOUR[at % 10_000]
    made[:, (7, 13)], made[:, 27] = ord(","), ord("\n")
    return made.reshape(-1)


class Generated(Source):
    """So many rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.uri = f"generated://rows/{rows}.csv"

    def size(self) -> int:
        return len(HEADER) + self.rows * ROW_BYTES

    def open(self) -> Stream:
        return _Bytes(self)


class _Bytes(Stream):
    skips_unread = True

    def __init__(self, source: Generated) -> None:
        self._source = source
        self._at = 0

    def read(self, n: int) -> bytes:
        start, end = self._at, min(self._source.size(), self._at + min(n, 16 << 20))
        self._at = end
        if start < len(HEADER):
            self._at = min(end, len(HEADER))
            return HEADER[start : self._at]
        first, last = (start - len(HEADER)) // ROW_BYTES, -((len(HEADER) - end) // ROW_BYTES)
        before = len(HEADER) + first * ROW_BYTES
        return text(first, last)[start - before : end - before].tobytes()

    def skip(self, n: int) -> int:
        start, self._at = self._at, min(self._source.size(), self._at + n)
        return self._at - start

    def stored_position(self) -> int:
        return self._at

    def close(self) -> None:
        pass


class Checking(Sink[int]):
    """Compares rows with what they must be, and counts them."""

    scheme = "checking"

    def __init__(self, folder: Path) -> None:
        super().__init__(SinkOptions.model_validate({}))
        self.checkpoints = FileCheckpoints(folder, self.scheme)
        self.checked = 0

    async def open(self) -> None:
        pass

    def prepare(self, chunk: Chunk) -> int:
        user, item, at = fields((chunk.offsets - len(HEADER)) // ROW_BYTES)
        columns = chunk.columns
        for found, wanted in ((columns.owner[0], user), (columns.parts[0], item), (columns.times // 1_000, at)):
            if not np.array_equal(found, wanted):
                raise AssertionError(f"rows from {chunk.start.offset} on are not what they were")
        return len(columns)

    async def write(self, chunk: Chunk, prepared: int) -> Written:
        self.checked += prepared
        return Written(prepared, 0, [])

    async def close(self) -> None:
        pass


class _Memory:
    """An observer that notes how much memory there is."""

    every_s = 1.0

    def __init__(self) -> None:
        self.rss_mb: list[float] = []

    def warning(self, sink: str, text: str) -> None:
        pass

    def progress(self, state: State) -> None:
        self.rss_mb.append(rss_mb())

    def report(self, report: StreamReport) -> None:
        pass


def worker(rows: int, folder: Path, told: "multiprocessing.Queue[dict[str, object]]") -> None:
    give_back_memory()
    sink, observer = Checking(folder), _Memory()
    source = Generated(rows)
    job = Job(source, "generated-0000", dataset_named("microlens"), folder / "state", checkpoint_dir=folder / "ck")
    report = asyncio.run(work_on([job], [sink], asyncio.Event(), observer))
    (counts,) = [sink.counts for stream in report.streams for sink in stream.sinks.values()]
    n = len(observer.rss_mb)
    parts = [max(observer.rss_mb[n * i // 4 : n * (i + 1) // 4], default=0) for i in range(4)]
    told.put({"checked": sink.checked, "read": counts.read, "written": counts.written, "rss_mb": parts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[dict[str, object]] = context.Queue()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        team = [context.Process(target=worker, args=(options.rows, Path(folder), told)) for _ in range(options.workers)]
        for process in team:
            process.start()
        found = [told.get() for _ in team]
        for process in team:
            process.join()
    elapsed_s = time.monotonic() - began
    for one in found:
        sys.stdout.write(f"{json.dumps(one)}\n")
    checked = sum(int(str(one["checked"])) for one in found)
    rate = checked / elapsed_s
    sys.stdout.write(f"{checked:,} of {options.rows:,} rows checked in {elapsed_s:.0f} s, {rate:,.0f} rows/s\n")
    sys.exit(0 if checked == options.rows and all(one["read"] == options.rows for one in found) else 1)


if __name__ == "__main__":
    main()
