"""Chunks that wait to be stored together: while some are, the next ones gather, so the slower the store, the more.

A source that is slower than the store has each of its chunks stored as it comes, unless the store is patient.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from ingest_service.sinks.base import Stored

_MOST_BYTES = 96 << 20  # where nobody says
WAITING_S = 10  # for which rows wait at most


def most_waiting(most_rows: int, rate: float | None) -> int:
    """How many rows may wait where at most `rate` of them are stored a second."""
    return most_rows if rate is None else min(most_rows, int(rate * WAITING_S))


class Part(Protocol):
    """What waits of a chunk."""

    @property
    def n(self) -> int:
        """Rows."""

    @property
    def n_bytes(self) -> int: ...


T = TypeVar("T", bound=Part)


class Gathering(Generic[T]):
    """What was taken and is not yet stored, in its order: at most so many rows and bytes, but one chunk in any case.

    patience_s: for how long a chunk waits for others, until they are half of the most or `hurry` says that none come.
    """

    def __init__(
        self, store: Callable[[Sequence[T]], Awaitable[None]], most_rows: int, *, patience_s: float = 0
    ) -> None:
        self.most_bytes = _MOST_BYTES
        self._most_rows = most_rows
        self._patience_s = patience_s
        self._store = store
        self._waiting: list[T] = []
        self._storing = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._hurries = False

    async def take(self, part: T) -> Stored:
        """Take a chunk once there is room. What is returned is to be called, and returns when it is stored."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting or self._has_room(part))
            self._waiting.append(part)
            self._hurries = False
            self._changed.notify_all()
        return lambda: self._stored(part)

    async def hurry(self) -> None:
        """No chunk comes for now: what has been taken is not to wait for more."""
        async with self._changed:
            self._hurries = True
            self._changed.notify_all()

    def _has_room(self, part: T) -> bool:
        return self._fit([*self._waiting, part], self._most_rows, self.most_bytes)

    def _fit(self, parts: Sequence[T], most_rows: int, most_bytes: int) -> bool:
        return sum(one.n for one in parts) <= most_rows and sum(one.n_bytes for one in parts) <= most_bytes

    async def _stored(self, part: T) -> None:
        """Whoever comes first stores all that waits; the others find theirs stored."""
        try:
            if self._patience_s:
                await self._others(part)
            async with self._storing:
                if part in self._waiting:
                    together = list(self._waiting)
                    await self._store(together)
                    await self._forget(together)
        except BaseException:
            await self._forget([part])  # its rows are not settled, so they will be written again
            raise

    async def _others(self, part: T) -> None:
        """Wait for more chunks, while they may come and half of what may wait is free for those behind them."""
        half = self._most_rows // 2, self.most_bytes // 2
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s), self._changed:
                await self._changed.wait_for(
                    lambda: self._hurries or part not in self._waiting or not self._fit(self._waiting, *half)
                )

    async def _forget(self, done: Sequence[T]) -> None:
        async with self._changed:
            self._waiting = [one for one in self._waiting if one not in done]
            self._changed.notify_all()
