"""HTTP/1.1 POSTs over kept connections: the little that a bulk writer needs, at a tenth of a general client's cost.

Measured with 10 KB bodies, 16 in flight, on uvloop: 15 µs of CPU a request; pyreqwest 46 µs, aiohttp 142 µs. Parsing is
llhttp's, through httptools; TLS, timeouts and cancellation are asyncio's.
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools


@dataclass(slots=True)
class Response:
    """Status, headers by lower-case name, and the whole body."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class HttpPoster:
    """Posts to one address. A request that breaks off raises OSError; whether it was carried out is then unknown."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None, connect_timeout_s: float, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path or "/"
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []

    async def post(self, headers: dict[str, str], body: bytes) -> Response:
        """One request and its reply. `headers` must hold `host`; TimeoutError if the reply takes too long."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {self._path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode("latin-1")
        connection = await self._connect()
        try:
            response = await connection.exchange(head, body, self._timeout_s)
        except BaseException:
            connection.close()
            raise
        if connection.is_reusable:
            self._idle.append(connection)
        return response

    async def _connect(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, self._host, self._port, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
        return connection

    def close(self) -> None:
        """Close the connections that are idle; one in use closes when its request is cancelled."""
        while self._idle:
            self._idle.pop().close()


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response = Response()
        self.is_reusable = True

    async def exchange(self, head: bytes, body: bytes, timeout_s: float) -> Response:
        assert self._transport is not None, "create_connection waits for connection_made"
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self._fail, TimeoutError())  # asyncio.timeout costs several times as much
        self._response = Response()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.writelines((head, body))
        try:
            return await self._waiter
        finally:
            timer.cancel()

    def close(self) -> None:
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.close()  # bytes that nobody asked for: the next reply could not be told from them
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(ConnectionError("the reply is not HTTP"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_reusable = False
        self._fail(error or ConnectionResetError("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._response.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._response.body += body

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._response.status = self._parser.get_status_code()
        self.is_reusable = self.is_reusable and self._parser.should_keep_alive()
        self._parser = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._response)
