"""Chunks that wait to be stored together: while some are, the next ones gather, so the slower the store, the more.

A source that is slower than the store has each of its chunks stored as it comes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ingest_service.sinks.base import Stored
from ingest_service.sinks.sqlite.packed import Packed

Together = Callable[[Sequence[Packed]], Awaitable[None]]

_MOST_BYTES = 96 << 20  # where nobody says


class Gathering:
    """What was taken and is not yet stored, in its order: at most so many rows and bytes, but one chunk in any case."""

    def __init__(self, store: Together, most_rows: int) -> None:
        self.most_bytes = _MOST_BYTES
        self._most_rows = most_rows
        self._store = store
        self._waiting: list[Packed] = []
        self._storing = asyncio.Lock()
        self._changed = asyncio.Condition()

    async def take(self, packed: Packed) -> Stored:
        """Take a chunk once there is room. What is returned is to be called, and returns when it is stored."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting or self._has_room(packed))
            self._waiting.append(packed)
        return lambda: self._stored(packed)

    def _has_room(self, packed: Packed) -> bool:
        held = [*self._waiting, packed]
        n_bytes = sum(one.n_bytes for one in held)
        return sum(one.n for one in held) <= self._most_rows and n_bytes <= self.most_bytes

    async def _stored(self, packed: Packed) -> None:
        """Whoever comes first stores all that waits; the others find theirs stored."""
        try:
            async with self._storing:
                if packed in self._waiting:
                    together = list(self._waiting)
                    await self._store(together)
                    await self._forget(together)
        except BaseException:
            await self._forget([packed])  # its rows are not settled, so they will be written again
            raise

    async def _forget(self, done: Sequence[Packed]) -> None:
        async with self._changed:
            self._waiting = [one for one in self._waiting if one not in done]
            self._changed.notify_all()
