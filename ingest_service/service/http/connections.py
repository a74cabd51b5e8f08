"""Connections within bounds, before anyone has logged in: how long and how large a request's head may be, how many
there are. uvicorn bounds none of it.

Where there are too many, the one that has waited longest for its client gives way: half-sent requests, idle ones,
answers that nobody fetches. Only where all are at work, newcomers get no answer but that of the service's health.
"""

import asyncio
import resource
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingest_service.service.http.gate import HEADERS, is_upload
from ingest_service.service.http.problems import Problem

MAX_HEAD_BYTES = 64 << 10
HEAD_S = 10.0
_MAX_MESSAGE_BYTES = 1 << 20  # with a body of single bytes in chunks; trailers and the like count too
_PIECE_BYTES = 4 << 10
_LINGER_S = 1.0  # for the client to read why it was refused, before what it still sends makes the kernel forget that
_MOST = 512
_AT_LEAST = 16
_HEALTH = (b"/healthz", b"/readyz", b"/metrics")
_HEALTH_RESERVE = 16
_FILES = 64  # that the service has open itself: its store, inboxes, looks at sinks
_FILES_A_RUN = 8
_MESSAGE_LINE_BYTES = len(b"  HTTP/1.1\r\n\r\n")
_HEADER_LINE_BYTES = len(b": \r\n")


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections there may be, and how many may wait to be accepted, which comes on top at worst."""

    most: int
    backlog: int

    @classmethod
    def for_runs(cls, runs_at_once: int) -> "Room":
        """As many as leave descriptors for runs and the service itself, by the limit of this process."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        files = files if files != resource.RLIM_INFINITY else 1 << 20
        backlog = max(_AT_LEAST, min(256, files // 8))
        rest = files - 2 * backlog - _FILES - _HEALTH_RESERVE - _FILES_A_RUN * runs_at_once
        return cls(max(_AT_LEAST, min(_MOST, rest)), backlog)


@dataclass(slots=True)
class Crowd:
    """The connections there are, the oldest first."""

    most: int
    members: dict["BoundedProtocol", None] = field(default_factory=dict)

    def enter(self, newcomer: "BoundedProtocol") -> None:
        if len(self.members) >= self.most:
            waiting = next((one for one in self.members if one.waits_for_client), None)
            if waiting is not None:
                self.leave(waiting)
                waiting.transport.abort()
            elif len(self.members) < self.most + _HEALTH_RESERVE:
                newcomer.answers_for_health_alone()
            else:
                newcomer.transport.abort()
                return
        self.members[newcomer] = None

    def leave(self, one: "BoundedProtocol") -> None:
        self.members.pop(one, None)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, which calls the `on_…` for what it finds in the bytes that it is fed."""

    crowd: ClassVar[Crowd]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True  # of a request that is coming, or may come
        self._is_whole = False  # the last request that began
        self._fed_bytes = 0  # of the head, and a little of what came before it at most
        self._message_bytes = 0
        self._is_refused = False
        self._head_timer: asyncio.TimerHandle | None = None

    @property
    def waits_for_client(self) -> bool:
        is_at_work = self._is_whole and self.cycle is not None and not self.cycle.response_complete
        return self._is_refused or not is_at_work

    def answers_for_health_alone(self) -> None:
        app = self.app

        async def health_or_busy(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["raw_path"] in _HEALTH:
                await app(scope, receive, send)
            else:
                busy = Problem(503, "There are too many connections; come again later.", {"Connection": "close"})
                await busy.response()(scope, receive, send)

        self.app = health_or_busy

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_timer()
        self.crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_timer()
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            if self._is_refused or self.transport.is_closing():
                return
            if self._in_head and self._head_timer is None:
                self._begin_timer()
            piece = data[start : start + _PIECE_BYTES]
            super().data_received(piece)
            self._fed_bytes += len(piece)
            self._message_bytes += len(piece)
            if self._in_head and self._fed_bytes > MAX_HEAD_BYTES + _PIECE_BYTES:
                self._refuse(431, f"A request's head may have {MAX_HEAD_BYTES} bytes.")
            elif self._message_bytes > _MAX_MESSAGE_BYTES:
                self._refuse(413, f"A request may have {_MAX_MESSAGE_BYTES} bytes, however it is cut.")

    def on_message_begin(self) -> None:
        self._fed_bytes = self._message_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._end_timer()
        self._in_head = self._is_whole = False
        size = _MESSAGE_LINE_BYTES + len(self.parser.get_method()) + len(self.url)
        size += sum(_HEADER_LINE_BYTES + len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._refuse(431, f"A request's head may have {MAX_HEAD_BYTES} bytes.")
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._is_refused:
            return
        if is_upload(self.scope["method"], self.scope["path"]):
            self._message_bytes -= len(body)  # what is no body is limited all the same
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = self._is_whole = True
        self._fed_bytes = 0
        if not self._is_refused:
            super().on_message_complete()

    def _begin_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._on_late)

    def _end_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_late(self) -> None:
        if self._fed_bytes == 0:
            self.transport.close()
        else:
            self._refuse(408, f"A request's head must come within {HEAD_S:g} seconds.")

    def _refuse(self, status: int, detail: str) -> None:
        """Say why, take in nothing more, and end the connection."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # in the middle of another answer there is no way to say it
            return
        response = Problem(status, detail, {"Connection": "close", **HEADERS}).response()
        head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
        self.transport.write(b"HTTP/1.1 %d \r\n%s\r\n%s" % (status, head, bytes(response.body)))
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)


def protocol_within(room: Room) -> type[BoundedProtocol]:
    """The protocol for a service that has so much room."""

    class Protocol(BoundedProtocol):
        crowd = Crowd(room.most)

    return Protocol
