"""Between a client and a real server: `TcpProxy` knows only bytes, `TlsProxy` TLS.

async with TcpProxy(redis_url) as proxy:
    await proxy.cut_reply()    # the next request is applied, its reply never comes
"""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import Self, TypeAlias
from urllib.parse import urlsplit

import trustme

_HOST = "127.0.0.1"

_PIECE = 64 * 1024
_QUIET_S = 0.05


@dataclass
class _CutReply:
    containing: bytes
    left: int


@dataclass
class _CutAfter:
    budget: int
    left: int
    passed: int = 0


@dataclass(frozen=True)
class _Blackhole:
    pass


@dataclass(frozen=True)
class _Trickle:
    size: int
    pause_s: float


_TcpFault: TypeAlias = _CutReply | _CutAfter | _Blackhole | _Trickle


class _Link:
    """One client's connection, and the one to the server behind it."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.from_client, self.to_client = client
        self.from_server, self.to_server = server
        self.asked_at = 0.0  # loop time of the last request bytes
        self.tail = b""  # of the requests so far: a marker may lie across two reads
        self.marked = False
        self.lost_bytes = False


class TcpProxy:
    """Forwards bytes to the server of `url`, faulty as told. `.url` is `url` with the proxy's address.

    A fault also holds for connections that are open already, and lasts until another one or `heal`; the
    cuts end by themselves after `times` connections. TLS passes through, as bytes.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError("the server's URL needs a host and a port")
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self._server_url = parts
        self._server_address = (parts.hostname, parts.port)
        self._fault: _TcpFault | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._reserved: socket.socket

    @property
    def url(self) -> str:
        userinfo, at, _ = self._server_url.netloc.rpartition("@")
        return self._server_url._replace(netloc=f"{userinfo}{at}{_HOST}:{self.port}").geturl()

    async def cut_reply(self, *, times: int = 1, containing: bytes = b"") -> None:
        """Let a request be applied whole, then drop the connection instead of replying.

        With `containing`, only requests with these bytes in them: a client's greeting has none.
        """
        await self._set(_CutReply(containing, times))

    async def cut_after(self, request_bytes: int, *, times: int = 1) -> None:
        """Drop the connection once so many more bytes of requests went through, over all connections."""
        await self._set(_CutAfter(request_bytes, times))

    async def blackhole(self) -> None:
        """Swallow every byte both ways and say nothing; connecting still works."""
        await self._set(_Blackhole())

    async def refuse(self) -> None:
        """Be a server that is down: open connections are reset, new ones refused."""
        self._fault = None
        self._stop_listening()
        self._abort(self._links)

    async def slow(self, bytes_per_s: int) -> None:
        """Let so many bytes a second through, each way on each connection."""
        size = max(1, bytes_per_s // 20)
        await self._set(_Trickle(size, size / bytes_per_s))

    async def slices(self, size: int = 1) -> None:
        """Pass everything on in pieces of so many bytes."""
        await self._set(_Trickle(size, 0))

    async def heal(self) -> None:
        """Forward faithfully again. Connections that lost bytes in the black hole are reset."""
        await self._set(None)

    async def __aenter__(self) -> Self:
        # Bound but never listening: it keeps the port ours while connections are refused.
        self._reserved = _bound_socket(0)
        self.port = self._reserved.getsockname()[1]
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop_listening()
        self._abort(self._links)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reserved.close()

    async def _set(self, fault: _TcpFault | None) -> None:
        self._fault = fault
        self._abort({link for link in self._links if link.lost_bytes})
        for link in self._links:
            link.tail, link.marked = b"", False
        if self._listener is None:
            await self._listen()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, sock=_bound_socket(self.port))

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @staticmethod
    def _abort(links: set[_Link]) -> None:
        for link in links:
            link.to_client.transport.abort()

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            server = await asyncio.open_connection(*self._server_address)
        except OSError:
            to_client.transport.abort()
            return
        link = _Link((from_client, to_client), server)
        self._links.add(link)
        try:
            if self._listener is not None:  # else: refused while it was being connected
                await self._serve(link)
        finally:
            self._links.discard(link)
            link.to_client.transport.abort()
            link.to_server.transport.abort()

    async def _serve(self, link: _Link) -> None:
        pumps = [
            asyncio.create_task(self._pass_requests(link)),
            asyncio.create_task(self._pass_replies(link)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            outcomes = await asyncio.gather(*pumps, return_exceptions=True)
        # A reset could make the server throw away requests that it has not read yet; an end after them
        # cannot. So it is told of the end, and only once it hung up does the client see the cut: what was
        # passed on is applied by then.
        with contextlib.suppress(OSError):
            link.to_server.write_eof()
            while await link.from_server.read(_PIECE):
                pass
        if any(outcome is True for outcome in outcomes):
            link.to_client.transport.abort()
        else:
            link.to_client.close()  # after what is still to be sent to it
        with contextlib.suppress(OSError):
            await link.to_client.wait_closed()

    def _claim_cut(self, fault: _CutReply | _CutAfter) -> None:
        """Count a cut when it is decided on, so that no other connection takes the same one."""
        self.cuts += 1
        fault.left -= 1
        if fault.left <= 0:
            self._fault = None

    async def _pass_requests(self, link: _Link) -> bool:
        """Pump until the client ends; return True if the connection is to be cut."""
        while data := await _read(link.from_client):
            link.asked_at = asyncio.get_running_loop().time()
            match self._fault:
                case _CutReply(containing):
                    searched = link.tail + data
                    link.marked = link.marked or containing in searched
                    link.tail = searched[-len(containing) :] if containing else b""
                case _CutAfter(budget) as fault:
                    data = data[: budget - fault.passed]
                    fault.passed += len(data)
                    if fault.passed >= budget:
                        fault.passed = 0
                        self._claim_cut(fault)
                        await self._pass_on(data, link.to_server, link)
                        return True
                case _:
                    pass
            await self._pass_on(data, link.to_server, link)
        return False

    async def _pass_replies(self, link: _Link) -> bool:
        """Pump until the server ends; return True if the connection is to be cut."""
        while data := await _read(link.from_server):
            if isinstance(self._fault, _CutReply) and link.marked:
                self._claim_cut(self._fault)
                await _until_quiet(link)
                return True
            await self._pass_on(data, link.to_client, link)
        return False

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter, link: _Link) -> None:
        with contextlib.suppress(OSError):  # the reading side of a broken connection will end the link
            while data:
                match self._fault:
                    case _Blackhole():
                        link.lost_bytes = True
                        return
                    case _Trickle(size, pause_s):
                        piece, data = data[:size], data[size:]
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(pause_s)
                    case _:
                        writer.write(data)
                        await writer.drain()
                        return


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_PIECE)
    except OSError:
        return b""


async def _until_quiet(link: _Link) -> None:
    """Swallow replies until neither side has sent anything for a moment: the request is applied whole."""
    while True:
        try:
            async with asyncio.timeout(_QUIET_S):
                if not await _read(link.from_server):
                    return
        except TimeoutError:
            if asyncio.get_running_loop().time() - link.asked_at >= _QUIET_S:
                return


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Inherited by what is accepted: with the system's megabytes a slow sink would not be felt for long.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
    bound.bind((_HOST, port))
    return bound


class TlsProxy:
    """Ends TLS before the server at `url`: for clients it is the server, with a certificate of `authority`."""

    def __init__(self, url: str, authority: trustme.CA, name: str = _HOST) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self._context)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server
        self.port = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, _HOST, 0, ssl=self._context)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_reader, server_writer = await asyncio.open_connection(*self._address)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pump(reader, server_writer))
                ways.create_task(_pump(server_reader, writer))
        except* OSError:
            pass
        finally:
            writer.close()
            server_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
