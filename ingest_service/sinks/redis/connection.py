"""redis-py connections that also carry ready-made commands in bulk.

redis-py packs every command and awaits every reply as Python objects, which costs more than Redis needs to run them.
These connections log in, encrypt and close as redis-py's do, and add one method that sends bytes which are already
RESP (redis.io, "Redis serialization protocol specification") and counts the replies; another is mended.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import AbstractConnection

from ingest_service.runtime import fault

_SLICE_BYTES = 1 << 18  # what is handed to the transport at once: bounds its copy of what waits
_READ_BYTES = 1 << 18


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
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # as redis-py does: nobody will read the reply
            raise asyncio.CancelledError

    async def exchange(
        self, payloads: AsyncIterator[memoryview], n_replies: int, idle_timeout_s: float, heard: Callable[[], None]
    ) -> dict[int, str]:
        """Send commands and read as many replies, each an integer or an error; `heard` is called as they come.

        Returns the errors by their index: the first word of each, since the rest may quote the row. OSError, EOFError
        or TimeoutError if the connection breaks or no reply comes for `idle_timeout_s`. Then, and after a cancellation,
        the connection must be dropped: what was applied is unknown.
        """
        sender = asyncio.create_task(self._send(payloads))
        try:
            errors = await self._receive(n_replies, idle_timeout_s, heard)
            await sender
            return errors
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, payloads: AsyncIterator[memoryview]) -> None:
        assert self._writer is not None, "the pool hands out connected connections"
        async for payload in payloads:
            for first in range(0, len(payload), _SLICE_BYTES):
                self._writer.write(payload[first : first + _SLICE_BYTES])
                await self._writer.drain()
                fault.point("redis-sending")

    async def _receive(self, n_replies: int, idle_timeout_s: float, heard: Callable[[], None]) -> dict[int, str]:
        assert self._reader is not None, "the pool hands out connected connections"
        errors: dict[int, str] = {}
        index = 0
        begun = b""  # a reply whose end has not come yet
        while index < n_replies:
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
                        errors[index + number] = line[1:].split(maxsplit=1)[0].decode("ascii", "replace")
            index += data.count(b"\n")
        return errors


class BulkConnection(_Bulk, Connection):
    pass


class BulkSSLConnection(_Bulk, SSLConnection):
    pass
