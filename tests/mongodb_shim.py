"""A stand-in between a client and a real server of MongoDB's protocol: it forges the answers that a server cannot be
made to give.

async with MongoShim(mongodb_url, lambda name, nth: NOT_PRIMARY if (name, nth) == ("insert", 1) else None) as shim:
    ...                        # shim.url
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

import bson

_HOST = "127.0.0.1"
_HEADER = struct.Struct("<iiii")  # MongoDB Wire Protocol, "Standard Message Header": length, id, answers, opcode
_OP_MSG = 2013
_MORE_TO_COME = 2


@dataclass(frozen=True)
class Forged:
    """Answer with `fields`; instead of the server, or over its own answer once it has `applied` the command."""

    fields: dict[str, Any]
    applied: bool = False


NOT_PRIMARY = Forged({"ok": 0, "code": 10107, "codeName": "NotWritablePrimary", "errmsg": "injected"})
UNCONFIRMED = Forged({"writeConcernError": {"code": 64, "errmsg": "injected"}}, applied=True)
THROTTLED = Forged({"ok": 0, "code": 16500, "errmsg": "injected"})
UNAUTHORIZED = Forged({"ok": 0, "code": 13, "codeName": "Unauthorized", "errmsg": "a canary row"})

Policy: TypeAlias = Callable[[str, int], Forged | None]


class MongoShim:
    """Forwards to a real server, except where the policy, asked with a command's name and count, forges an answer."""

    def __init__(self, url: str, policy: Policy) -> None:
        self.policy = policy
        self.counts: Counter[str] = Counter()
        parts = urlsplit(url)
        assert parts.port is not None
        self._server_port = parts.port
        # Polled, a server sends one answer a request; streamed, it would send heartbeats on its own.
        self._path = f"{parts.path}?{parts.query}&serverMonitoringMode=poll"
        self._server: asyncio.Server
        self._links: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"mongodb://{_HOST}:{self._server.sockets[0].getsockname()[1]}{self._path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, _HOST, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        server, to_server = await asyncio.open_connection(_HOST, self._server_port)
        try:
            while True:
                request = await _message(client)
                to_client.write(await self._answer(request, server, to_server))
                await to_client.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(task)
            to_client.close()
            to_server.close()

    async def _answer(self, request: bytes, server: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> bytes:
        _, number, _, opcode = _HEADER.unpack_from(request)
        forged: Forged | None = None
        if opcode == _OP_MSG:
            name = next(iter(_document(request)))
            self.counts[name] += 1
            forged = self.policy(name, self.counts[name])
        fields: dict[str, Any] = {}
        if forged is None or forged.applied:
            to_server.write(request)
            answer = await _message(server)
            if forged is None:
                return answer
            fields = _document(answer)
        assert forged is not None
        body = struct.pack("<iB", 0, 0) + bson.encode(fields | forged.fields)
        return _HEADER.pack(_HEADER.size + len(body), 1, number, _OP_MSG) + body


async def _message(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "little") - 4)


def _document(message: bytes) -> dict[str, Any]:
    """The body of an OP_MSG; the client puts it first."""
    flags, kind = struct.unpack_from("<iB", message, _HEADER.size)
    assert kind == 0
    assert not flags & _MORE_TO_COME
    start = _HEADER.size + 5
    (size,) = struct.unpack_from("<i", message, start)
    return dict(bson.decode(message[start : start + size]))
