"""SQLite: rows and checkpoint in one transaction, and a file that others may hold."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.pipeline.checkpoint import Fingerprint, Lease
from ingest_service.pipeline.tracker import Watermark
from ingest_service.rows.chunk import Position
from ingest_service.sinks.base import Written
from ingest_service.sinks.sqlite.sink import SQLiteSink
from ingest_service.sinks.testing.rows import chunk_of, interactions
from ingest_service.sinks.urls import sink_at
from tests.helpers import sqlite_rows, until

SOURCE = Fingerprint("file:///pairs.csv", "user,item,timestamp", None, "")


async def opened(path: Path, options: str = "") -> SQLiteSink:
    sink = sink_at(f"sqlite:///{path}{options}")
    assert isinstance(sink, SQLiteSink)
    await sink.open()
    return sink


async def test_rows_and_checkpoint_are_committed_together(tmp_path: Path) -> None:
    """Other clients see neither until the checkpoint is saved, and then both; what came after it goes with a crash."""
    path = tmp_path / "a.db"
    sink = await opened(path)
    lease = Lease(sink.checkpoints, "stream", sink.name)
    await lease.acquire(SOURCE, Watermark(Position()), restart=False)
    rows = interactions(20)
    await sink.store(chunk_of(rows[:10]))
    assert sqlite_rows(path) == {}
    await lease.save(SOURCE, Watermark(Position(10, 1, 1)), complete=False)
    assert len(sqlite_rows(path)) == 10
    await sink.store(chunk_of(rows[10:]))
    await sink.close()
    assert len(sqlite_rows(path)) == 10


async def test_a_refused_checkpoint_takes_the_rows_back(tmp_path: Path) -> None:
    """A runner that was fenced leaves nothing of what it wrote since its last checkpoint."""
    path = tmp_path / "a.db"
    sink = await opened(path)
    await sink.checkpoints.swap("stream", None, "theirs")
    await sink.store(chunk_of(interactions(10)))
    assert not await sink.checkpoints.swap("stream", "ours", "new")
    await sink.flush()
    await sink.close()
    assert sqlite_rows(path) == {}


async def test_a_file_that_another_program_holds_is_waited_for(tmp_path: Path) -> None:
    """Its lock is retried within the budget, then given up."""
    path = tmp_path / "a.db"
    sink = await opened(path, "?retry_budget_s=0.1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SinkUnavailable, match="another program holds the file"):
        await sink.store(chunk_of(interactions(5)))
    await sink.close()
    sink = await opened(path)
    writing = asyncio.create_task(sink.store(chunk_of(interactions(5))))
    await until(lambda: sink.retrier.retries >= 1)
    other.execute("ROLLBACK")
    other.close()
    assert await writing == Written(5)
    await sink.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://rows.db", "sqlite:///a.db?timeout=3"])
def test_impossible_urls_are_refused(url: str) -> None:
    """Without touching a file."""
    with pytest.raises(ConfigurationError):
        sink_at(url)
