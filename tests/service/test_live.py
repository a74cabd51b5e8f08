"""Those who watch."""

import asyncio
import re
import socket
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI

from ingest_service.service import live as live_
from ingest_service.service.http.events import EventStream, _events
from ingest_service.service.live import Live, progress_event
from ingest_service.service.runs import Run, Runs, Task
from tests.helpers import until
from tests.service.conftest import Service

TASK = Task("run", "file:///a.csv", "/a.csv")


def run(tmp_path: Path) -> Run:
    runs = Runs(tmp_path, keep=100)
    found, _ = runs.announce(TASK, "a", ())
    runs.close()
    return found


async def test_a_slow_watcher_is_dropped(tmp_path: Path) -> None:
    """Whoever does not take what comes gets an end instead, and the others everything; nobody is waited for."""
    live, one = Live(), run(tmp_path)
    with live.watch(None) as slow, live.watch(one.number) as quick, live.watch(99) as other:
        for number in range(live_._QUEUED_EVENTS + 10):
            live.progressed(one.number, {"offset": number})
            assert quick.events.get_nowait()
        seen = []
        while not slow.events.empty():
            seen.append(slow.events.get_nowait())
        assert None in seen and len(seen) <= live_._QUEUED_EVENTS
        assert other.events.empty()
    assert not live._watchers


async def test_a_stream_misses_nothing_that_happens_while_it_begins() -> None:
    """What changes while it looks how things stand is told after that."""
    live = Live()

    async def first() -> list[bytes]:
        live.progressed(1, {"offset": 2})
        return [progress_event(1, {"offset": 1})]

    stream = _events(live, None, first)
    told = [await anext(stream) for _ in range(3)]
    await stream.aclose()
    assert told[1:] == [progress_event(1, {"offset": 1}), progress_event(1, {"offset": 2})]


async def test_states_never_go_back(tmp_path: Path) -> None:
    """The announcement of a run that a worker has begun meanwhile is not told after its beginning."""
    live, queued = Live(), run(tmp_path)
    with live.watch(None) as watcher:
        live.changed(replace(queued, state="running", attempt=1))
        live.changed(queued)
        live.changed(replace(queued, state="done", attempt=1))
        live.changed(replace(queued, attempt=1))
        events = [watcher.events.get_nowait() or b"" for _ in range(3)]
        assert [re.findall(rb'"state": "(\w+)"', event) for event in events] == [[b"running"], [b"done"], [b"queued"]]
        assert watcher.events.empty()


async def test_progress_is_remembered_while_it_runs(tmp_path: Path) -> None:
    """The newest, and none any more when the run has ended."""
    live, one = Live(), run(tmp_path)
    live.changed(replace(one, state="running", attempt=1))
    live.progressed(one.number, {"offset": 1})
    live.progressed(one.number, {"offset": 2})
    assert live.progress == {one.number: {"offset": 2}}
    live.changed(replace(one, state="done", attempt=1))
    assert not live.progress
    await asyncio.sleep(0)


async def test_a_reader_that_reads_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection takes no more; after a while the stream ends, and holds neither memory nor a task."""
    monkeypatch.setattr("ingest_service.service.http.events._SEND_S", 0.2)
    live, app = Live(), FastAPI()

    async def nothing() -> list[bytes]:
        return []

    app.add_api_route("/events", lambda: EventStream(live, None, nothing), response_class=EventStream)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server._serve([listener]))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    await loop.sock_connect(client, listener.getsockname())
    await loop.sock_sendall(client, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: live._watchers)
    async with asyncio.timeout(60):
        while live._watchers:
            live.progressed(1, {"padding": "x" * 65_536})
            await asyncio.sleep(0.01)
    client.close()
    server.should_exit = True
    await serving


def test_a_service_that_is_watched_can_stop(service: Service) -> None:
    """Streams have no end of their own; a stop ends them, whether they are read or not."""
    service.start("")
    address = urlsplit(service.url).netloc.split(":")
    with socket.create_connection((address[0], int(address[1]))) as watching:
        watching.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in watching.recv(1000)
        assert service.stop() == 0
