"""Budgets and stops as a whole: rows that are stuck, and servers that fall silent, for each sink that has one."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest_service.pipeline import dead_letter
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.dynamo_shim import INTERNAL_ERROR, DynamoShim
from tests.helpers import (
    HEADER,
    Cli,
    Outcome,
    create_tables,
    dynamodb_at,
    finish,
    wait_for_event,
)
from tests.mongodb_shim import NOT_PRIMARY, MongoShim
from tests.servers import Server, ServerMissingError, find_dynamodb, find_mongodb, find_postgresql, find_redis
from tests.sinks.test_redis_cluster import Cluster

BUDGET_S = 3


def joined(url: str, options: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{options}"


def rows(n: int, user: str = "") -> str:
    return "\n".join([HEADER, *(f"{user}{i % 50},{i},{FIRST_MS + i}" for i in range(n)), ""])


# --- rows that are stuck behind checkpoints that are saved ----------------------------------------


def load_of(cli: Cli, url: str, n: int = 200, name: str = "pairs.csv") -> subprocess.Popen[str]:
    return cli.start("run", cli.file(name, rows(n)), "--json", "--to", joined(url, f"retry_budget_s={BUDGET_S}"))


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
    first = await asyncio.to_thread(finish, load_of(cli, mongodb_db_url, n=1, name="first.csv"))
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
        first = finish(load_of(cli, cluster.url, n=1))
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

FINDERS: dict[str, Callable[[Path], Server]] = {
    "redis": find_redis,
    "dynamodb": find_dynamodb,
    "mongodb": find_mongodb,
    "postgresql": find_postgresql,
}


@pytest.fixture(params=FINDERS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Server]]:
    """A server of the test's own, which it may stop, and the URL of a sink there that is ready for rows."""
    (tmp_path / "server").mkdir()
    try:
        server = FINDERS[request.param](tmp_path / "server")
    except ServerMissingError as error:
        pytest.skip(str(error))
    with server:
        url = server.url
        if request.param == "dynamodb":
            url = dynamodb_at(server.url, "silence")
            asyncio.run(create_tables(url))
        elif request.param == "mongodb":
            url = f"{server.url}/silence?directConnection=true"
        yield url, server


ASKED_S = 2
LOADED_S = 20  # of a busy machine; whoever waits for a time-out of a connection's own takes 30 s and more


def in_the_middle_of_run(cli: Cli, url: str, budget_s: int = 60) -> subprocess.Popen[str]:
    """A load that has written its first rows, and will take long for the others."""
    path = cli.file("pairs.csv", rows(20_000))
    process = cli.start("run", path, "--json", "--to", joined(url, f"rate=500&retry_budget_s={budget_s}"))
    for _ in range(2):
        wait_for_event(process, lambda event: event["event"] == "progress")
    return process


def in_the_middle_of_replay(cli: Cli, url: str) -> subprocess.Popen[str]:
    outcome = cli.run("run", cli.file("pairs.csv", rows(20_000, user="x")), "--max-rejects", "100%", "--to", url)
    assert outcome.code == 0, outcome.stderr
    (letters,) = cli.folder.rglob(dead_letter.FILE_NAME)
    letters.write_text(letters.read_text().replace('"raw": "x', '"raw": "'))
    process = cli.start("replay", letters, "--json", "--to", joined(url, "rate=500"))
    while '"holder": null' in cli.run("status", "--json", "--to", url).stdout:
        assert process.poll() is None
    return process


def in_the_middle_of_verify(cli: Cli, url: str) -> subprocess.Popen[str]:
    """It reads the source, and has asked the sink nothing but for its checkpoint."""
    path = cli.file("pairs.csv", rows(20_000))
    outcome = cli.run("run", path, "--to", url)
    assert outcome.code == 0, outcome.stderr
    process = cli.start("verify", path, "--to", url)
    wait_for_event(process, lambda event: event["event"] == "verify")
    return process


def end_of(
    process: subprocess.Popen[str], server: Server, *, by: signal.Signals | None = None
) -> tuple[Outcome, float]:
    """How the command ends whose server is silent from now on, and how long that takes.

    A signal comes once the command has most likely asked the server something.
    """
    server.send(signal.SIGSTOP)
    try:
        if by is not None:
            time.sleep(ASKED_S)
            process.send_signal(by)
        since = time.monotonic()
        return finish(process), time.monotonic() - since
    finally:
        server.send(signal.SIGCONT)


@pytest.mark.fault(48)
def test_a_silent_server_is_given_up_when_the_budget_is_spent(cli: Cli, own_server: tuple[str, Server]) -> None:
    """The sink's own time-outs and the release of the lease do not come on top."""
    url, server = own_server
    outcome, took_s = end_of(in_the_middle_of_run(cli, url, BUDGET_S), server)
    assert (outcome.code, f"did not recover within {BUDGET_S} s" in outcome.message) == (69, True)
    assert took_s < LOADED_S


@pytest.mark.fault(3, 48)
@pytest.mark.parametrize("begun", [in_the_middle_of_run, in_the_middle_of_replay, in_the_middle_of_verify])
def test_a_stop_is_heard_while_the_server_is_silent(
    cli: Cli, own_server: tuple[str, Server], begun: Callable[[Cli, str], subprocess.Popen[str]]
) -> None:
    """SIGTERM ends the process with 75, within the 8 s that a container has, however long the budget."""
    url, server = own_server
    outcome, took_s = end_of(begun(cli, url), server, by=signal.SIGTERM)
    assert (outcome.code, outcome.message.partition(";")[0]) == (75, "Stopped on request"), outcome.stderr
    assert took_s < LOADED_S
