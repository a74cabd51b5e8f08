"""Sinks that are asked again and again: each is opened at its first question, and kept."""

import asyncio
from collections.abc import Sequence

from ingest_service.sinks.base import AnySink


class Kept:
    """Sinks of one event loop. Whoever keeps them calls `close`."""

    def __init__(self, sinks: Sequence[AnySink]) -> None:
        self.sinks = sinks
        self._opening = {sink.name: asyncio.Lock() for sink in sinks}
        self._opened: set[str] = set()

    async def open(self, sink: AnySink) -> None:
        async with self._opening[sink.name]:
            if sink.name not in self._opened:
                await sink.open()
                self._opened.add(sink.name)

    async def close(self) -> None:
        for sink in self.sinks:
            await sink.close()
