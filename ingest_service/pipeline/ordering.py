"""Keeps the order of equal keys while chunks are written side by side.

The later row of the file wins. So a chunk that shares a record's key with an earlier one still being written waits for
it; real data almost never repeats a key, and such chunks never wait.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from ingest_service.rows.chunk import Chunk


@dataclass(slots=True, eq=False)
class _Turn:
    chunk: Chunk
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
                if not other.done.is_set() and await asyncio.to_thread(_share_a_key, chunk, other.chunk):
                    await other.done.wait()
            yield
        finally:
            self._turns.remove(mine)
            mine.done.set()


def _share_a_key(one: Chunk, other: Chunk) -> bool:
    """Whether they do, or seem to: two keys with one hash only cost a wait."""
    if not one.accepted or not other.accepted:
        return False
    times, other_times = one.columns.times, other.columns.times
    if times.min() > other_times.max() or other_times.min() > times.max():
        return False  # files are mostly in time order, so this is the usual answer
    found = np.searchsorted(one.key_hashes, other.key_hashes)
    return bool((one.key_hashes[np.minimum(found, one.accepted - 1)] == other.key_hashes).any())
