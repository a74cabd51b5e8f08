"""The process of a run: started, listened to, stopped."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingest_service.pipeline.run import DRAIN_S
from ingest_service.runtime.process import Reason
from ingest_service.service.forks import Forked, Forks

_KILL_S = DRAIN_S + 0.5


@dataclass(slots=True, eq=False)
class Child:
    """What is known of a run's process so far. What it tells comes over a connection of its own, apart from its log."""

    process: Forked
    stop_asked: bool = False
    progress: dict[str, Any] | None = None
    reason: Reason | None = None

    @classmethod
    async def start(
        cls, forks: Forks, arguments: Sequence[str], environment: Mapping[str, str], *, nice: int = 0
    ) -> "Child":
        """OSError if it cannot be started. `nice`: by how much it yields to others."""
        return cls(await forks.fork(arguments, environment, nice))

    def stop(self) -> None:
        """Let it drain; if it does not in time, kill it: what it had not settled is repeated."""
        if self.stop_asked or self.process.returncode is not None:
            return
        self.stop_asked = True
        self.process.send_signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(_KILL_S, self.kill)

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()

    def close(self) -> None:
        """It is no longer listened to, nor left to itself."""
        self.kill()
        self.process.close()

    async def report(self) -> dict[str, Any] | None:
        """What the run printed at its end: its report, where it came to one."""
        text = await self.process.stdout.read()
        try:
            report = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return report if isinstance(report, dict) else None


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Its lines to its end, but for those that are longer than any of ours."""
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # the rest of it is read on, as if it were a line
            continue
        if not line:
            return
        yield line
