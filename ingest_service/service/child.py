"""The process of a run: started, listened to, stopped."""

import asyncio
import json
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ingest_service.pipeline.run import DRAIN_S
from ingest_service.runtime.process import EVENTS_FD, Reason

_KILL_S = DRAIN_S + 0.5
_LINE_BYTES = 1 << 20


@dataclass(slots=True, eq=False)
class Child:
    """What is known of a run's process so far. What it tells comes over a connection of its own, apart from its log."""

    process: Process
    events: asyncio.StreamReader
    _pipe: asyncio.StreamWriter
    stop_asked: bool = False
    progress: dict[str, Any] | None = None
    reason: Reason | None = None

    @classmethod
    async def start(cls, arguments: Sequence[str], environment: Mapping[str, str], *, nice: int = 0) -> "Child":
        """OSError if it cannot be started. `nice`: by how much it yields to others."""
        ours, theirs = socket.socketpair()  # of a pipe uvloop would close the number twice, whose ever it is by then
        with theirs:
            events, pipe = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
            try:
                process = await asyncio.create_subprocess_exec(
                    *arguments,
                    env={**environment, EVENTS_FD: str(theirs.fileno())},
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=PIPE,
                    pass_fds=(theirs.fileno(),),
                    limit=_LINE_BYTES,
                    start_new_session=True,  # a Ctrl-C is for the service, which tells its runs itself
                )
            except BaseException:
                pipe.close()
                raise
        with suppress(ProcessLookupError):  # its threads come later, and take this after it
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        return cls(process, events, pipe)

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
        self._pipe.close()

    async def report(self) -> dict[str, Any] | None:
        """What the run printed at its end: its report, where it came to one."""
        assert self.process.stdout is not None
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
