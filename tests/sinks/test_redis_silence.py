"""Redis that has fallen silent: a stop and a budget hold all the same, the release of the lease included."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import Cli, finish, redis_sets, until, write_pairs
from tests.servers import Redis, find_redis

LOADED_S = 20  # of a busy machine for what takes 8 s at most; with a time-out of the connection's own it takes 30


@contextmanager
def paused(*servers: Redis) -> Iterator[None]:
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.fault(41)
@pytest.mark.parametrize("n_servers", [1, 2])
async def test_a_stop_waits_for_no_silent_server(tmp_path: Path, cli: Cli, n_servers: int) -> None:
    """SIGTERM ends the run with 75 in 8 seconds, however many sinks are silent."""
    pairs = write_pairs(cli.folder / "pairs.csv", 6_000, blocks=4)
    folders = [tmp_path / str(number) for number in range(n_servers)]
    for folder in folders:
        folder.mkdir()
    servers = [find_redis(folder) for folder in folders]
    try:
        for server in servers:
            await asyncio.to_thread(server.start)
        to = [f"--to={server.url}?name=r{number}&rate=500" for number, server in enumerate(servers)]
        process = cli.start("run", pairs.path, *to)
        await until(lambda: all(redis_sets(server.url) for server in servers))
        with paused(*servers):
            await asyncio.sleep(1.5)  # a checkpoint waits by now, too
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            outcome = await asyncio.to_thread(finish, process)
            took_s = time.monotonic() - began
        assert outcome.code == 75, outcome.stderr
        assert took_s < LOADED_S
    finally:
        for server in servers:
            server.stop()


@pytest.mark.fault(41)
async def test_a_budget_is_of_the_whole(tmp_path: Path, cli: Cli) -> None:
    """With a budget of 5 s a run ends with 69 long before a time-out of 30 s."""
    pairs = write_pairs(cli.folder / "pairs.csv", 6_000, blocks=4)
    with find_redis(tmp_path) as server:
        process = cli.start("run", pairs.path, "--to", f"{server.url}?retry_budget_s=5&rate=500")
        await until(lambda: redis_sets(server.url))
        with paused(server):
            began = time.monotonic()
            outcome = await asyncio.to_thread(finish, process)
            took_s = time.monotonic() - began
        assert outcome.code == 69, outcome.stderr
        assert took_s < LOADED_S


@pytest.mark.fault(41)
def test_a_server_that_is_silent_from_the_first(tmp_path: Path, cli: Cli) -> None:
    """It accepts connections and says nothing."""
    with find_redis(tmp_path) as server, paused(server):
        began = time.monotonic()
        outcome = cli.run("check", "--to", f"{server.url}?retry_budget_s=2")
        assert (outcome.code, time.monotonic() - began < LOADED_S) == (69, True), outcome.stderr
