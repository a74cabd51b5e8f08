"""Sources read once more, chunk by chunk, and what tells their records apart."""

import asyncio
from collections.abc import Iterator

import numpy as np
import polars as pl

from ingest_service.errors import Stopped
from ingest_service.pipeline.job import Job
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns


def chunks_of(job: Job, stop: asyncio.Event, when_stopped: str) -> Iterator[tuple[Chunk, int]]:
    """All of a source, each with how far its stored bytes are read. Blocks the caller; Stopped once `stop` is set."""
    reader = job.open_reader(limit=job.limit)
    try:
        while (block := reader.next()) is not None:
            if stop.is_set():
                raise Stopped.on_request(when_stopped)
            yield reader.chunk(block), reader.stored_position()
    finally:
        reader.close()


def keys_of(columns: Columns) -> pl.DataFrame:
    """For a `Spill`: 64-bit hashes of user and key. Two keys of a user have the same once in billions of billions."""
    return pl.DataFrame({"user_id": columns.owner_hashes(), "key": columns.identity_hashes()})


def sent(chunk: Chunk) -> Chunk:
    """The accepted rows that a load would send of a chunk: of those with one key the last."""
    rows = chunk.last_of_each_key()
    if len(rows) == chunk.accepted:
        return chunk
    wanted = np.zeros(chunk.accepted, np.bool_)
    wanted[rows] = True
    return chunk.only(wanted)
