"""redis-py connections that also carry ready-made commands in bulk.

redis-py packs every command and awaits every reply as Python objects, which costs more than Redis needs to run them.
These connections log in, encrypt and close as redis-py's do, and add one method that sends bytes which are already
RESP (redis.io, "Redis serialization protocol specification") and counts the replies in with hiredis.
"""

import asyncio
from collections.abc import AsyncIterator

import hiredis
from redis.asyncio import Connection, SSLConnection

_SLICE_BYTES = 1 << 18  # what is handed to the transport at once: bounds its copy of what waits
_READ_BYTES = 1 << 18


class ErrorReply(Exception):
    """An error reply. Only its first word is kept: the rest may quote the row."""

    def __init__(self, text: str) -> None:
        self.code = text.partition(" ")[0]
        super().__init__(self.code)


class _Bulk:
    """Mixed into redis-py's connections; uses the streams that these keep in `_reader` and `_writer`."""

    _reader: asyncio.StreamReader | None
    _writer: asyncio.StreamWriter | None

    async def exchange(
        self, payloads: AsyncIterator[bytes], n_replies: int, idle_timeout_s: float
    ) -> dict[int, ErrorReply]:
        """Send commands and read as many replies; returns those that are errors, by their index.

        OSError, EOFError or TimeoutError if the connection breaks or no reply comes for `idle_timeout_s`. Then, and
        after a cancellation, the connection must be dropped: what was applied is unknown.
        """
        sender = asyncio.create_task(self._send(payloads))
        try:
            errors = await self._receive(n_replies, idle_timeout_s)
            await sender
            return errors
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, payloads: AsyncIterator[bytes]) -> None:
        assert self._writer is not None, "the pool hands out connected connections"
        async for payload in payloads:
            view = memoryview(payload)
            for first in range(0, len(view), _SLICE_BYTES):
                self._writer.write(view[first : first + _SLICE_BYTES])
                await self._writer.drain()

    async def _receive(self, n_replies: int, idle_timeout_s: float) -> dict[int, ErrorReply]:
        assert self._reader is not None, "the pool hands out connected connections"
        replies = hiredis.Reader(replyError=ErrorReply)
        errors: dict[int, ErrorReply] = {}
        index = 0
        while index < n_replies:
            async with asyncio.timeout(idle_timeout_s):
                data = await self._reader.read(_READ_BYTES)
            if not data:
                raise EOFError
            replies.feed(data)
            while (reply := replies.gets()) is not False:
                if isinstance(reply, ErrorReply):
                    errors[index] = reply
                index += 1
        return errors


class BulkConnection(_Bulk, Connection):
    pass


class BulkSSLConnection(_Bulk, SSLConnection):
    pass
