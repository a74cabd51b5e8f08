"""START HERE: the long-running service.

    API, inboxes, schedule → desk → runs (SQLite) → workers → a child process a run
                                                       └→ live → those who watch

`serve` wires it. A run is the very command that a user would start, as a process of its own; what is to be done and
what was done is in `runs`, on disk, so that a service that was killed goes on by itself.
"""

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI

from ingest_service.config import ServeSettings, Settings
from ingest_service.datasets import dataset_names
from ingest_service.errors import ConfigurationError, LeaseHeld, LocalIOError, Stopped
from ingest_service.runtime.process import stop_on_signals
from ingest_service.runtime.tasks import task_group
from ingest_service.service import schedule
from ingest_service.service.commands import Commands
from ingest_service.service.desk import Desk
from ingest_service.service.forks import Forks
from ingest_service.service.gauges import ServiceMetrics
from ingest_service.service.health import Health
from ingest_service.service.http.api import Parts, api
from ingest_service.service.http.connections import Room, protocol_within
from ingest_service.service.http.login import Login, token_of
from ingest_service.service.inbox import Inbox
from ingest_service.service.known_sinks import Sinks
from ingest_service.service.letters import Letters
from ingest_service.service.live import MAX_WATCHERS, Live
from ingest_service.service.lookups import Lookups
from ingest_service.service.places import place_at
from ingest_service.service.questions import Questions
from ingest_service.service.runs import Runs
from ingest_service.service.uploads import Uploads
from ingest_service.service.workers import Workers
from ingest_service.sinks.urls import split_url
from ingest_service.telemetry.prometheus import Exposition

LOCK_NAME = "service.lock"
_HANG_UP_S = 2  # for requests that are being answered when the service stops
_TAKES_NOTHING_MS = 30_000


async def serve(settings: Settings, config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT. Stopped if runs were interrupted: they go on at the next start."""
    stop = stop_on_signals()
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent where a file is opened while `places` looks whether it is
    login, sinks = await asyncio.to_thread(checked, settings)
    room = Room.for_runs(settings.serve.runs_at_once)
    with _folder_of_ones_own(settings.state_dir), _listening(settings.serve, room.backlog) as listener:
        runs = await asyncio.to_thread(Runs, settings.state_dir, keep=settings.serve.keep_runs)
        try:
            await asyncio.to_thread(runs.recover)
            live = Live(min(MAX_WATCHERS, room.most // 2))
            exposition = Exposition(settings.memory_mb)
            forks = Forks({split_url(url).scheme for url in sinks.urls.values()})
            commands = Commands(sinks.urls, config, settings.serve.workers)
            workers = Workers(runs, live, exposition, commands, forks, settings.serve.runs_at_once)
            desk = Desk(settings, runs, live, workers, sinks)
            inboxes = [Inbox(one, desk) for one in settings.serve.inbox]
            health = Health(sinks.urls, settings.checkpoint_dir, runs)
            exposition.registry.register(ServiceMetrics(runs, health, inboxes))
            lookups = Lookups(settings, sinks)
            uploads = Uploads(settings.serve.inbox, settings.serve.upload_mb * 1_000_000)
            await asyncio.to_thread(uploads.clear)
            letters = Letters(settings.state_dir)
            questions = Questions(desk, commands, forks)
            app = api(Parts(desk, runs, live, exposition, health, letters, login, lookups, uploads, questions))
            server = _Server(app, room)
            interrupted = 0
            async with forks, task_group() as tasks:
                work = tasks.create_task(workers.work())
                coming_in = [tasks.create_task(inbox.watch()) for inbox in inboxes]
                coming_in += [tasks.create_task(schedule.keep(one, desk)) for one in settings.serve.schedule]
                answering = tasks.create_task(server.serve([listener]))
                structlog.get_logger().info("serving", url=_url(listener))
                await stop.wait()
                for task in coming_in:
                    task.cancel()
                interrupted = workers.stop()
                live.close()
                server.should_exit = True
                await asyncio.wait((work, answering))
                await lookups.close()
        finally:
            if stop.is_set():  # else whatever was at work may be why
                await asyncio.to_thread(partial(runs.recover, died=False))
            await asyncio.to_thread(runs.close)
    if interrupted:
        raise Stopped(f"Stopped on request with {interrupted} runs at work; they go on at the next start.")


def checked(settings: Settings) -> tuple[Login, Sinks]:
    """How to log in, and the sinks. ConfigurationError for what cannot be served. Blocks."""
    sinks = Sinks.of(settings)
    settings.allowed()
    for name in (*dataset_names(), *settings.datasets, settings.dataset):
        settings.dataset_named(name)  # now rather than when a request asks for it, and there may be no descriptor left
    for inbox in settings.serve.inbox:
        place_at(inbox.url)
        if inbox.dataset:
            settings.dataset_named(inbox.dataset)
        sinks.named(inbox.sinks)
    for one in settings.serve.schedule:
        schedule.check(one)
    is_secure = settings.serve.public_url.startswith("https:")
    return Login(token_of(settings.serve), is_secure=is_secure), sinks


class _Server(uvicorn.Server):
    """uvicorn, but signals and logs are ours."""

    def __init__(self, app: FastAPI, room: Room) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_within(room),
                log_config=None,
                log_level="critical",  # it would print the texts of errors
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_HANG_UP_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _folder_of_ones_own(folder: Path) -> Iterator[None]:
    """LeaseHeld if another service has this state folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalIOError(f"The state folder {folder} cannot be used ({error.strerror}).") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise LeaseHeld(f"Another service uses the state folder {folder}; stop it or name another folder.") from None
    finally:
        os.close(fd)


@contextmanager
def _listening(settings: ServeSettings, backlog: int) -> Iterator[socket.socket]:
    """A socket that listens. ConfigurationError if the address cannot be had."""
    host = settings.host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, settings.port), family=family, backlog=backlog)
    except OSError as error:
        raise ConfigurationError(
            f"Port {settings.port} of {settings.host} cannot be had ({error.strerror or error}); name another."
        ) from error
    with listener:
        if sys.platform == "linux":  # connections inherit it: one that takes nothing for so long is given up
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKES_NOTHING_MS)
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
