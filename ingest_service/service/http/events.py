"""Server-sent events: what `live` tells, for as long as the reader keeps up."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext, suppress

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Message, Receive, Scope, Send

from ingest_service.service.http.login import Session
from ingest_service.service.live import Live

_HEARTBEAT_S = 15.0
_SEND_S = 10.0
First = Callable[[], Awaitable[Sequence[bytes]]]


class EventStream(StreamingResponse):
    """Begins with what `first` finds; ends with the service, with the session, or when the reader takes too long."""

    def __init__(self, live: Live, number: int | None, first: First, session: Session | None = None) -> None:
        self._events = _events(live, number, first, session)
        super().__init__(self._events, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(_SEND_S):
                await send(message)

        async with aclosing(self._events):
            with suppress(TimeoutError):
                await super().__call__(scope, receive, send_in_time)


async def _events(
    live: Live, number: int | None, first: First, session: Session | None = None
) -> AsyncGenerator[bytes, None]:
    with live.watch(number) as watcher, session.until_end(watcher.end) if session else nullcontext():
        yield KEEPALIVE_COMMENT
        for event in await first():  # looked for only now: what changes meanwhile comes after it
            yield event
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    event_or_end = await watcher.events.get()
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            if event_or_end is None:
                return
            yield event_or_end
