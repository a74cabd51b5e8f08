"""Budgets and stops as a whole: rows that are stuck, and servers that fall silent, for each sink that has one."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.faults import INTERNAL_ERROR, DynamoShim
from tests.helpers import HEADER, Cli, create_tables, dynamodb_at, finish, wait_for_event
from tests.mongodb_shim import NOT_PRIMARY, MongoShim
from tests.servers import Server, ServerMissingError, find_dynamodb, find_mongodb, find_redis
from tests.sinks.test_redis_cluster import Cluster

BUDGET_S = 3

# --- rows that are stuck behind checkpoints that are saved ----------------------------------------


def load_of(cli: Cli, url: str, rows: int = 200, name: str = "pairs.csv") -> subprocess.Popen[str]:
    path = cli.file(name, "\n".join([HEADER, *(f"{i % 50},{i},{FIRST_MS + i}" for i in range(rows)), ""]))
    joined = f"{url}{'&' if '?' in url else '?'}retry_budget_s={BUDGET_S}"
    return cli.start("run", path, "--json", "--to", joined)


@pytest.mark.fault(47)
async def test_rows_that_dynamodb_never_takes(cli: Cli, dynamodb_url: str, table: str) -> None:
    """Every BatchWriteItem is answered 500, every heartbeat is saved: exit 69 when the budget is spent."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    async with DynamoShim(dynamodb_url, lambda call: INTERNAL_ERROR if call.items else None) as shim:
        outcome = await asyncio.to_thread(finish, load_of(cli, dynamodb_at(shim.url, table)))
        assert shim.counts.targets["PutItem"] >= 3
    assert (outcome.code, f"did not recover within {BUDGET_S} s" in outcome.message) == (69, True)


@pytest.mark.fault(47)
async def test_rows_that_mongodb_never_takes(cli: Cli, mongodb_db_url: str) -> None:
    """Bulk writes find no primary, checkpoints do."""
    first = await asyncio.to_thread(finish, load_of(cli, mongodb_db_url, rows=1, name="first.csv"))
    assert first.code == 0, first.stderr  # the collections and their epoch are there now
    # What is inserted first is the checkpoint; afterwards it is updated.
    async with MongoShim(
        mongodb_db_url, lambda name, nth: NOT_PRIMARY if name == "insert" and nth > 1 else None
    ) as shim:
        outcome = await asyncio.to_thread(finish, load_of(cli, shim.url))
        assert shim.counts["update"] >= 2
    assert (outcome.code, f"did not recover within {BUDGET_S} s" in outcome.message) == (69, True)


@pytest.mark.fault(47)
def test_rows_of_a_master_that_is_away(cli: Cli, tmp_path: Path) -> None:
    """The other two take their rows and the checkpoint, as with `cluster-require-full-coverage no`: exit 69 in time."""
    (tmp_path / "cluster").mkdir()
    try:
        cluster = Cluster(tmp_path / "cluster")
    except ServerMissingError as error:
        pytest.skip(str(error))
    try:
        for node in cluster.nodes:
            node.start()
        cluster.join()
        for node in cluster.nodes:
            cluster.ask(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        first = finish(load_of(cli, cluster.url, rows=1))
        assert first.code == 0, first.stderr
        # The same source again, so that the checkpoint stays with the same node.
        holder = next(node for node in cluster.nodes if cluster.ask(node, "KEYS", "ingest:checkpoint:*"))
        away = next(node for node in cluster.nodes[1:] if node is not holder)
        away.kill()
        outcome = finish(load_of(cli, cluster.url))
    finally:
        for node in cluster.nodes:
            node.stop()
    assert (outcome.code, f"did not recover within {BUDGET_S} s" in outcome.message) == (69, True)


# --- servers that fall silent ---------------------------------------------------------------------

FINDERS = {"redis": find_redis, "dynamodb": find_dynamodb, "mongodb": find_mongodb}


@pytest.fixture(params=FINDERS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Server]]:
    """A server of the test's own, which it may stop."""
    (tmp_path / "server").mkdir()
    try:
        server: Server = FINDERS[request.param](tmp_path / "server")
    except ServerMissingError as error:
        pytest.skip(str(error))
    with server:
        yield request.param, server


def url_of(kind: str, server: Server) -> str:
    if kind == "dynamodb":
        return dynamodb_at(server.url, "silence")
    return f"{server.url}/silence?directConnection=true" if kind == "mongodb" else server.url


def paused_in_the_middle(cli: Cli, kind: str, server: Server, budget_s: int) -> tuple[subprocess.Popen[str], float]:
    """A load whose server stands still after the first rows; and since when."""
    url = url_of(kind, server)
    if kind == "dynamodb":
        asyncio.run(create_tables(url))
    path = cli.file("pairs.csv", "\n".join([HEADER, *(f"{i % 50},{i},{FIRST_MS + i}" for i in range(20_000)), ""]))
    options = f"rate=500&retry_budget_s={budget_s}"
    process = cli.start("run", path, "--json", "--to", f"{url}{'&' if '?' in url else '?'}{options}")
    wait_for_event(process, lambda event: event["event"] == "progress")
    wait_for_event(process, lambda event: event["event"] == "progress")
    server.send(signal.SIGSTOP)
    return process, time.monotonic()


@pytest.mark.fault(48)
def test_a_silent_server_is_given_up_when_the_budget_is_spent(cli: Cli, own_server: tuple[str, Server]) -> None:
    """The sink's own time-outs and the release of the lease do not come on top."""
    kind, server = own_server
    process, since = paused_in_the_middle(cli, kind, server, BUDGET_S)
    try:
        outcome = finish(process)
        took_s = time.monotonic() - since
    finally:
        server.send(signal.SIGCONT)
    assert (outcome.code, f"did not recover within {BUDGET_S} s" in outcome.message) == (69, True)
    assert took_s < 20, "a time-out of the connection's own, 30 s, came on top"


@pytest.mark.fault(3, 48)
def test_a_stop_is_heard_while_the_server_is_silent(cli: Cli, own_server: tuple[str, Server]) -> None:
    """SIGTERM ends the process with 75 within the 8 s that a container has, however long the budget."""
    kind, server = own_server
    process, _ = paused_in_the_middle(cli, kind, server, 60)
    try:
        process.send_signal(signal.SIGTERM)
        since = time.monotonic()
        outcome = finish(process)
        took_s = time.monotonic() - since
    finally:
        server.send(signal.SIGCONT)
    assert outcome.code == 75, outcome.stderr
    assert took_s < 10, "7 s are the program's own; the rest is for a busy machine"
