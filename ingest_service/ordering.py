"""Keeps the order of equal keys while chunks are written side by side.

The later row of the file wins. So a chunk that shares a record's key with an earlier one still being written waits for
it; real data almost never repeats a key, and such chunks never wait.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ingest_service.chunk import Chunk

RECORD_KEY = ("user_id", "timestamp", "video_id")


@dataclass(slots=True, eq=False)
class _Turn:
    chunk: Chunk
    hashes: NDArray[np.uint64] | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class KeyOrder:
    """The turns of one sink's chunks. Chunks must ask for theirs in the order of the file."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []

    @asynccontextmanager
    async def turn(self, chunk: Chunk) -> AsyncIterator[None]:
        """Wait until no earlier chunk with one of this one's keys is being written; then hold the turn."""
        mine = _Turn(chunk)
        earlier = list(self._turns)
        self._turns.append(mine)
        try:
            for other in earlier:
                if not other.done.is_set() and await asyncio.to_thread(_share_a_key, mine, other):
                    await other.done.wait()
            yield
        finally:
            self._turns.remove(mine)
            mine.done.set()


def _share_a_key(one: _Turn, other: _Turn) -> bool:
    a, b = one.chunk.frame, other.chunk.frame
    if not a.height or not b.height:
        return False
    (a_low, a_high), (b_low, b_high) = _time_range(a), _time_range(b)
    if a_low > b_high or b_low > a_high:
        return False  # files are mostly in time order, so this is the usual answer
    return bool(np.intersect1d(_key_hashes(one), _key_hashes(other), assume_unique=True).size)


def _time_range(frame: pl.DataFrame) -> tuple[int, int]:
    return frame.select(pl.col("epoch_ms").min().alias("low"), pl.col("epoch_ms").max().alias("high")).row(0)


def _key_hashes(turn: _Turn) -> NDArray[np.uint64]:
    """Distinct 64-bit hashes of the keys. Two keys with one hash only cost a wait."""
    if turn.hashes is None:
        turn.hashes = np.unique(turn.chunk.frame.select(pl.struct(RECORD_KEY).hash()).to_series().to_numpy())
    return turn.hashes
