"""redis-py connections that also carry ready-made commands in bulk.

redis-py packs every command and awaits every reply as Python objects, which costs more than Redis needs to run them.
These connections log in, encrypt and close as redis-py's do, and add one method that sends bytes which are already
RESP (redis.io, "Redis serialization protocol specification") and counts the replies; others are mended.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from ingest_service.runtime import fault

fault.declare(
    {
        "redis-sending": "part of a chunk's commands is on its way to Redis",
    }
)

_SLICE_BYTES = 1 << 18  # what is handed to the transport at once: bounds its copy of what waits
_READ_BYTES = 1 << 18
GATHER_S = 0.005  # replies are left to come together for so long
_CLOSE_S = 0.2


class Replies:
    """What was asked on a connection and what has been answered: how many replies, and the errors among them.

    Errors go by their index and are the first word of each, since the rest may quote the row.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.n = 0
        self.errors: dict[int, str] = {}
        self.is_all_asked = False
        self._changed = asyncio.Event()

    def change(self) -> None:
        """Wake whoever waits for a reply, or for something to be asked."""
        self._changed.set()

    async def changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def reach(self, n: int) -> None:
        """Wait for so many replies in all."""
        while self.n < n:
            await self.changed()


# Commands, and how many replies they have: each an integer or an error.
Payloads = Callable[[Replies], AsyncIterator[tuple[memoryview, int]]]


class _Bulk(AbstractConnection):
    """Mixed into redis-py's connections; uses the streams that these keep in `_reader` and `_writer`."""

    _reader: asyncio.StreamReader | None
    _writer: asyncio.StreamWriter | None

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """As redis-py's, but a cancellation that comes with the end of the sending is not lost.

        redis-py sends under asyncio.wait_for, which swallows it before Python 3.12 (python/cpython#86296).
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        with _closed_by_peer():
            await super().send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # as redis-py does: nobody will read the reply
            raise asyncio.CancelledError

    async def disconnect(self, nowait: bool = False, *arguments: Any, **options: Any) -> None:
        """As redis-py's, but it does not wait for a server that has fallen silent to take what is still to be sent."""
        writer = self._writer
        if nowait or asyncio.current_task() is None:
            await super().disconnect(nowait, *arguments, **options)
            if writer is not None:
                writer.transport.abort()  # nobody will read a reply, so what is still to be sent need not be
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await super().disconnect(nowait, *arguments, **options)
        except (TimeoutError, RedisError):
            if writer is not None:
                writer.transport.abort()

    async def exchange(self, payloads: Payloads, idle_timeout_s: float, heard: Callable[[], None]) -> Replies:
        """Send commands and read all their replies, which `payloads` sees as they come; `heard` is called then.

        OSError, EOFError or TimeoutError if the connection breaks or no reply comes for `idle_timeout_s`. Then, and
        after a cancellation, the connection must be dropped: what was applied is unknown.
        """
        replies = Replies()
        sender = asyncio.create_task(self._send(payloads(replies), replies))
        try:
            await self._receive(replies, idle_timeout_s, heard)
            await sender
            return replies
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, payloads: AsyncIterator[tuple[memoryview, int]], replies: Replies) -> None:
        assert self._writer is not None, "the pool hands out connected connections"
        try:
            async for payload, n_replies in payloads:
                replies.asked += n_replies
                replies.change()
                for first in range(0, len(payload), _SLICE_BYTES):
                    with _closed_by_peer():
                        self._writer.write(payload[first : first + _SLICE_BYTES])
                        await self._writer.drain()
                    fault.point("redis-sending")
        finally:
            replies.is_all_asked = True
            replies.change()

    async def _receive(self, replies: Replies, idle_timeout_s: float, heard: Callable[[], None]) -> None:
        assert self._reader is not None, "the pool hands out connected connections"
        begun = b""  # a reply whose end has not come yet
        while True:
            if replies.n == replies.asked:
                if replies.is_all_asked:
                    return
                await replies.changed()
                continue
            async with asyncio.timeout(idle_timeout_s):
                data = await self._reader.read(_READ_BYTES)
            if not data:
                raise EOFError
            heard()
            # Integers and errors take one line each, and no integer here is negative.
            whole, newline, rest = data.rpartition(b"\n")
            if not newline:
                begun += data
                continue
            data, begun = begun + whole + newline, rest
            if b"-" in data:
                for number, line in enumerate(data.split(b"\n")):
                    if line.startswith(b"-"):
                        code = line[1:].split(maxsplit=1)[0].decode("ascii", "replace")
                        replies.errors[replies.n + number] = code
            replies.n += data.count(b"\n")
            replies.change()
            if replies.n < replies.asked:
                await self._gather()

    async def _gather(self) -> None:
        """Leave replies in the socket for a moment: to wake up for a few of them costs more than to count many."""
        assert self._writer is not None, "the pool hands out connected connections"
        transport = cast(asyncio.Transport, self._writer.transport)
        with _closed_by_peer():
            transport.pause_reading()
        await asyncio.sleep(GATHER_S)
        with _closed_by_peer():
            transport.resume_reading()

    async def acknowledged(self, replicas: int, timeout_ms: int) -> int:
        """How many replicas have all that was written on this connection, waiting for so many (WAIT)."""
        await self.send_command("WAIT", replicas, timeout_ms)
        return int(await self.read_response())


@contextmanager
def _closed_by_peer() -> Iterator[None]:
    """uvloop calls a transport that the peer has just closed a programming error."""
    try:
        yield
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise ConnectionResetError("the server closed the connection") from error


class BulkConnection(_Bulk, Connection):
    pass


class BulkSSLConnection(_Bulk, SSLConnection):
    pass


class BulkSocketConnection(_Bulk, UnixDomainSocketConnection):
    pass
