"""A bounded queue that can be closed: `asyncio.Queue` before Python 3.13 has no way to end its consumers."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """Nothing more will come, or nobody takes any more."""


class BoundedQueue(Generic[T]):
    """Many producers, many consumers, at most `capacity` items between them, in order."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: T) -> None:
        """Wait for room. Closed if the queue is."""
        async with self._changed:
            await self._until_room()
            self._items.append(item)
            self._changed.notify_all()

    async def room(self) -> None:
        """Wait until a put would not have to. Closed if the queue is."""
        async with self._changed:
            await self._until_room()

    async def _until_room(self) -> None:
        await self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
        if self._closed:
            raise Closed

    async def get(self) -> T:
        """Wait for an item. Closed once the queue is closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._items)
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    async def close(self) -> None:
        """What is in can still be taken out."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
