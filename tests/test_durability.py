"""The order of durable things: a stored watermark never runs ahead of rows or dead letters."""

import asyncio
import os
import random
from pathlib import Path
from unittest.mock import patch

import pytest

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.formats import text
from ingest_service.formats.delimited import records
from ingest_service.pipeline import lane, load
from ingest_service.pipeline.checkpoint import decode
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.run import Silent
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written
from ingest_service.sources.local import FileSource
from tests.pipeline.test_checkpoint import MemoryCheckpoints


class Watched(MemoryCheckpoints):
    """Looks, at each swap, whether what the new watermark promises is kept by then."""

    def __init__(self, sink: "Recorder") -> None:
        super().__init__()
        self._sink = sink
        self.offsets: list[int] = []

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        mark = decode(new, stream, self._sink.name).watermark
        self.offsets.append(mark.position.offset)
        assert mark.counts.balanced
        rows = {n for n in self._sink.all_rows if n < mark.position.offset}
        assert rows <= self._sink.in_store | self._sink.durable_letters()
        return await super().swap(stream, old, new)


class Recorder(Sink[None]):
    """Stores the offsets of rows after a while, refuses some, and fails where it is told to."""

    scheme = "recorder"

    def __init__(self, letters: Path, all_rows: set[int], seed: int, fail_at: int) -> None:
        super().__init__(SinkOptions.model_validate({"consumers": 4, "retry_budget_s": 1}))
        self.checkpoints = Watched(self)
        self.all_rows = all_rows
        self.in_store: set[int] = set()
        self.synced = 0
        self.most_at_once = 0
        self._letters = letters
        self._random = random.Random(seed)
        self._fail_at = fail_at
        self._at_once = 0

    def durable_letters(self) -> set[int]:
        """Offsets in that part of the dead letters which an fsync covered."""
        if not self._letters.exists():
            return set()
        text = self._letters.read_bytes()[: self.synced]
        return {int(line.split(b'"offset": ')[1].split(b",")[0]) for line in text.splitlines()}

    async def open(self) -> None: ...

    def prepare(self, chunk: Chunk) -> None: ...

    async def write(self, chunk: Chunk, prepared: None) -> Written:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(self._random.uniform(0, 0.01))
        self._at_once -= 1
        offsets = chunk.offsets.tolist()
        if any(offset >= self._fail_at for offset in offsets):
            raise RuntimeError("the sink fails here")
        dead = [row for row, offset in enumerate(offsets) if offset % 7 == 0]
        self.in_store |= {offset for row, offset in enumerate(offsets) if row not in dead}
        return Written(len(offsets) - len(dead), 0, [chunk.dead_row(r, "recorder", "refused", "No.") for r in dead])

    async def check(self, *, create: bool) -> list[Finding]:
        return []

    def preview(self, columns: Columns) -> list[str]:
        return []

    async def close(self) -> None: ...


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.fault(28)
async def test_a_watermark_promises_only_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Run, fail, run again: at every save all rows before the watermark are stored or in synced dead letters."""
    path = tmp_path / "rows.csv"
    lines = [b"%d,%d,%d\n" % (n, n, n) if n % 11 else b"bad,%d\n" % n for n in range(400)]
    path.write_bytes(b"user,item,timestamp\n" + b"".join(lines))
    starts, at = set(), len(b"user,item,timestamp\n")
    for line in lines:
        starts.add(at)
        at += len(line)
    letters = tmp_path / "state" / "rows" / "dead-letters.jsonl"
    sink = Recorder(letters, starts, seed, fail_at=2500)
    fsync = os.fsync

    def watched(fd: int) -> None:
        fsync(fd)
        if letters.exists() and os.path.samestat(os.fstat(fd), letters.stat()):
            sink.synced = letters.stat().st_size

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(lane, "CHECKPOINT_EVERY_S", 0.002)
    job = Job(FileSource(path), "rows", MICROLENS, tmp_path / "state", block_bytes=128)
    with patch.object(records, "MAX_RECORD_BYTES", 64), patch.object(text, "MAX_RECORD_BYTES", 64):
        with pytest.raises(RuntimeError, match="fails here"):
            await load.load(job, [sink], asyncio.Event(), Silent())
        first = sink.checkpoints.offsets[-1]  # type: ignore[attr-defined]
        assert first <= min(start for start in starts if start >= 2500)
        sink._fail_at = 1 << 60
        report = await load.load(job, [sink], asyncio.Event(), Silent())
    assert report.balanced
    offsets = sink.checkpoints.offsets  # type: ignore[attr-defined]
    assert offsets == sorted(offsets)
    assert offsets[-1] == path.stat().st_size
    assert sink.in_store | sink.durable_letters() == starts
    assert len(letters.read_bytes().splitlines()) == len(starts - sink.in_store)
    assert sink.most_at_once > 1
