"""Whole runs under faults, with the real command and real servers: rows of `matrix.MATRIX` that no other file tries."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from ingest_service.formats.memory import block_bytes_within
from ingest_service.pipeline import checkpoint
from tests.faults import TcpProxy
from tests.helpers import (
    COMMAND,
    Cli,
    Outcome,
    Pairs,
    create_tables,
    dynamodb_at,
    dynamodb_client,
    dynamodb_items,
    expected_sets,
    finish,
    mongodb_documents,
    plain,
    redis_sets,
    sqlite_rows,
    until,
    wait_for_event,
    write_pairs,
)
from tests.servers import find_redis

FILES = ("--checkpoint", "file:checkpoints")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    found = Cli(tmp_path)
    yield found
    found.close()


class Clean:
    """A file of 8 blocks, and what one uninterrupted run of it left in SQLite."""

    def __init__(self, folder: Path) -> None:
        self.pairs: Pairs = write_pairs(folder / "pairs.csv", 4_000, blocks=8)
        self.outcome: Outcome = Cli(folder).run_with(self.pairs.path, "--to", "sqlite:///clean.db")
        self.rows = sqlite_rows(folder / "clean.db")
        self.sets = expected_sets(self.rows)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    return Clean(tmp_path_factory.mktemp("clean"))


def assert_letters_are_of(cli: Cli, clean: Clean) -> None:
    """Each refused row once, in the order of the file."""
    found = [(letter["line"], letter["offset"], letter["raw"].encode()) for letter in cli.dead_letters]
    assert found == clean.pairs.bad


# --- the sink's data is gone ----------------------------------------------------------------------


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "kind",
    ["redis", "sqlite", "dynamodb", "dynamodb, checkpoint in its own table", "mongodb, checkpoint in its own table"],
)
async def test_a_checkpoint_outlives_no_rows(
    cli: Cli, clean: Clean, redis_db_url: str, dynamodb_url: str, mongodb_db_url: str, table: str, kind: str
) -> None:
    """If the sink was emptied, a run with its checkpoint elsewhere exits 78 and writes nothing; --restart loads all."""
    dynamodb = dynamodb_at(dynamodb_url, table)
    store, _, own_table = kind.partition(", ")
    url = {"redis": redis_db_url, "sqlite": "sqlite:///rows.db", "mongodb": mongodb_db_url}.get(store, dynamodb)
    place = () if own_table else FILES
    if url == dynamodb:
        await create_tables(dynamodb)

    def run(*more: str) -> Outcome:
        return cli.run("run", clean.pairs.path, "--json", "--to", url, *place, *more)

    def rows() -> dict[Any, Any]:
        if kind == "redis":
            return redis_sets(redis_db_url)
        if store == "mongodb":
            found = mongodb_documents(mongodb_db_url, "interactions")
            return {(one["user_id"], one["event_key"]): one for one in found if one.pop("_id")}
        return sqlite_rows(cli.folder / "rows.db") if kind == "sqlite" else plain(dynamodb_items(dynamodb_url, table))

    expected = clean.sets if kind == "redis" else clean.rows
    for _ in range(2):  # the second run finds everything in order
        assert (await asyncio.to_thread(run)).code == 0
        assert rows() == expected

    if kind == "redis":
        with redis.Redis.from_url(redis_db_url) as client:
            client.flushdb()
    elif kind == "sqlite":
        for path in cli.folder.glob("rows.db*"):
            path.unlink()
    elif store == "mongodb":
        with pymongo.MongoClient[dict[str, Any]](mongodb_db_url) as mongodb:
            mongodb.get_default_database().drop_collection("interactions")
    else:
        with dynamodb_client(dynamodb_url) as client:
            client.delete_table(TableName=table)
        await create_tables(dynamodb)
    for _ in range(2):
        outcome = await asyncio.to_thread(run)
        assert outcome.code == 78, outcome.stderr
        assert "is not what it was when the checkpoint was written, so rows are gone" in outcome.message
        assert rows() == {}
    assert (await asyncio.to_thread(run, "--restart")).code == 0
    assert rows() == expected
    if place:
        status = await asyncio.to_thread(cli.run, "status", "--to", url)
        assert (status.code, "no source" in status.stdout.lower() + status.stderr.lower()) == (0, True)


@pytest.mark.fault(9)
@pytest.mark.parametrize("place", ["sink", "file:checkpoints"])
async def test_a_sink_that_is_emptied_in_a_run_is_noticed(cli: Cli, clean: Clean, place: str) -> None:
    """A server that comes back without its data ends the run with 78, and no later one takes the load for complete."""
    folder = cli.folder / "redis"
    folder.mkdir()
    with find_redis(folder) as server:
        options = ("--to", f"{server.url}?rate=600", "--checkpoint", place)
        process = cli.start("run", clean.pairs.path, *options)
        await asyncio.to_thread(
            wait_for_event, process, lambda event: event["event"] == "progress" and event["sinks"]["redis"]["watermark"]
        )
        server.kill()
        await asyncio.to_thread(server.start)
        outcome = await asyncio.to_thread(finish, process)
        assert outcome.code == 78, outcome.stderr
        assert "gone" in outcome.message
        again = await asyncio.to_thread(cli.run, "run", clean.pairs.path, "--to", server.url, "--checkpoint", place)
        if place != "sink":
            assert (again.code, "rows are gone" in again.message) == (78, True)
            again = await asyncio.to_thread(
                cli.run, "run", clean.pairs.path, "--to", server.url, "--checkpoint", place, "--restart"
            )
        assert again.code == 0, again.stderr
        assert redis_sets(server.url) == clean.sets


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.fault(7, 29)
async def test_a_slow_sink_holds_the_reader_back(cli: Cli, redis_db_url: str) -> None:
    """The reader is never more than a few blocks ahead of a slow sink, and memory stays within --memory."""
    pairs = write_pairs(cli.folder / "pairs.csv", 1_200, blocks=12)
    memory_mb = 200
    events: list[dict[str, Any]] = []
    async with TcpProxy(redis_db_url) as proxy:
        await proxy.slow(60_000)
        process = cli.start("run", pairs.path, "--to", proxy.url, "--memory", str(memory_mb))

        def collect(event: dict[str, Any]) -> bool:
            if event["event"] == "progress":
                events.append(event)
            return bool(event["event"] == "report")

        await asyncio.to_thread(wait_for_event, process, collect)
        assert (await asyncio.to_thread(finish, process)).code == 0
    ahead = [event["offset"] - event["sinks"]["redis"]["watermark"] for event in events]
    size = pairs.path.stat().st_size
    assert 0 < max(ahead) <= 4 * block_bytes_within(memory_mb) < size // 5
    assert max(event["rss_mb"] for event in events) <= memory_mb
    cli.run_with(pairs.path, "--to", "sqlite:///clean.db")
    assert redis_sets(redis_db_url) == expected_sets(sqlite_rows(cli.folder / "clean.db"))


@pytest.mark.fault(29)
def test_a_limit_on_memory_is_kept_to(cli: Cli) -> None:
    """A run of default settings ends well where its process may have no more than 500 MB of data (RLIMIT_DATA)."""
    if shutil.which("prlimit") is None:
        pytest.skip("NO TOOL: prlimit (util-linux) is not there")
    pairs = write_pairs(cli.folder / "pairs.csv", 400_000, blocks=14)
    limited = ["prlimit", f"--data={500 << 20}", *COMMAND, "run", str(pairs.path), "--json"]
    done = subprocess.run(limited, cwd=cli.folder, capture_output=True, text=True, check=False)
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert outcome.code == 0, outcome.stderr
    assert outcome.counts("sqlite")["read"] == 400_000
    peaks = [event["rss_mb"] for event in outcome.events if event["event"] == "progress"]
    assert max(peaks) <= 350


# --- servers that are not themselves --------------------------------------------------------------


@pytest.mark.fault(10)
async def test_a_server_that_loads_its_data_is_waited_for(cli: Cli, clean: Clean) -> None:
    """LOADING after a restart costs retries, no row and no dead letter."""
    folder = cli.folder / "redis"
    folder.mkdir()
    # Each key comes late, and clients are looked at once in 1,024 of them: the server answers LOADING for seconds.
    options = ("--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no")
    with find_redis(folder, *options) as server, redis.Redis.from_url(server.url) as client:
        with client.pipeline(transaction=False) as pipe:
            for number in range(20_000):
                pipe.set(f"other:{number}", "x")
            pipe.execute()
        server.kill()
        slow = ("--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024")
        server._command = [*server._command, *slow]
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        await until(lambda: says(server.port, b"-LOADING") or starting.done())
        assert not starting.done()
        outcome = await asyncio.to_thread(cli.run, "run", clean.pairs.path, "--json", "--to", server.url)
        await starting
        assert outcome.code == 0, outcome.stderr
        assert outcome.report["sources"][0]["sinks"]["redis"]["retries"] > 0
        assert outcome.counts("redis") == clean.outcome.counts("sqlite")
        assert redis_sets(server.url) == clean.sets
    assert_letters_are_of(cli, clean)


def says(port: int, answer: bytes) -> bool:
    """Whether the server of this port answers a PING so; False while nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return bool(connection.recv(64).startswith(answer))
    except OSError:
        return False


@pytest.mark.fault(12)
async def test_a_run_goes_on_after_a_failover(cli: Cli, clean: Clean) -> None:
    """A primary that is a replica for a while (READONLY) costs retries, and the same process ends the load."""
    folder = cli.folder / "redis"
    folder.mkdir()
    with find_redis(folder) as server, redis.Redis.from_url(server.url) as client:
        process = cli.start("run", clean.pairs.path, "--json", "--to", f"{server.url}?rate=800")
        await until(lambda: client.dbsize() > 1)
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await asyncio.sleep(1.5)  # long enough for a write and a checkpoint to be refused
        client.execute_command("REPLICAOF", "NO", "ONE")
        outcome = await asyncio.to_thread(finish, process)
        assert outcome.code == 0, outcome.stderr
        assert outcome.report["sources"][0]["sinks"]["redis"]["retries"] > 0
        assert redis_sets(server.url) == clean.sets
    assert_letters_are_of(cli, clean)


@pytest.mark.fault(6)
async def test_a_run_survives_a_connection_that_goes_silent(cli: Cli, clean: Clean, redis_db_url: str) -> None:
    """A link that swallows everything in the middle of a run is given up after `timeout_s`; the run goes on."""
    async with TcpProxy(redis_db_url) as proxy:
        await proxy.slow(400_000)
        process = cli.start("run", clean.pairs.path, "--json", "--to", f"{proxy.url}?timeout_s=1")
        await until(lambda: redis_sets(redis_db_url))
        await proxy.blackhole()
        await asyncio.sleep(2)
        await proxy.heal()
        outcome = await asyncio.to_thread(finish, process)
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["sources"][0]["sinks"]["redis"]["retries"] > 0
    assert redis_sets(redis_db_url) == clean.sets


# --- the disk -------------------------------------------------------------------------------------


def namespace(script: str) -> list[str]:
    """A command that may mount what nobody else sees."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NO RIGHT: this machine lets nobody mount in a namespace of their own (unshare -rm)")
    return ["unshare", "-rm", "sh", "-euc", script]


@pytest.mark.fault(19)
@pytest.mark.parametrize("what", ["checkpoints", "state"])
def test_a_full_disk_stops_the_run(cli: Cli, clean: Clean, what: str) -> None:
    """On a tmpfs of 256 KiB that fills up: exit 74, in a sentence; with room again the next run ends as a clean one."""
    first = " ".join(COMMAND)
    arguments = f"'{clean.pairs.path}' --json --to sqlite:///rows.db --checkpoint file:checkpoints --state-dir state"
    script = f"""
        mkdir {what} && mount -t tmpfs -o size=256k tmpfs {what}
        {first} run {arguments} --limit 100 >&2
        cp -r {what} before
        dd if=/dev/zero of={what}/full bs=1k count=300 2>/dev/null || true
        {first} run {arguments} && exit 1 || echo $? > code
        rm {what}/full
        cp -r {what} after
        {first} run {arguments}
        cp -r state kept
    """
    done = subprocess.run(namespace(script), cwd=cli.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (cli.folder / "code").read_text().strip() == "74"
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    if what == "checkpoints":
        # What could not be replaced is still whole, with the same watermark.
        (before, after) = (next((cli.folder / name).glob("*.json")) for name in ("before", "after"))
        assert json.loads(before.read_text())["offset"] == json.loads(after.read_text())["offset"] > 0
    assert sqlite_rows(cli.folder / "rows.db") == clean.rows
    letters = sorted((cli.folder / "kept").rglob("dead-letters.jsonl"))[0].read_text().splitlines()
    assert [json.loads(line)["offset"] for line in letters] == [offset for _, offset, _ in clean.pairs.bad]


@pytest.mark.fault(20)
@pytest.mark.parametrize("call", ["fsync", "/^rename"])
def test_a_disk_that_fails_to_sync_aborts_the_run(cli: Cli, clean: Clean, call: str) -> None:
    """EIO from the kernel at an fsync or rename: exit 74, the old checkpoint stays, the next run ends well."""
    traced = ["strace", "-f", "-qq", "-o", "trace", "-e", f"trace={call}"]
    if subprocess.run([*traced, "true"], cwd=cli.folder, capture_output=True, check=False).returncode:
        pytest.skip("NO TOOL: strace is not there, or may not trace")
    arguments = ["run", str(clean.pairs.path), "--to", "sqlite:///rows.db?rate=3000", *FILES, "--json"]
    ended = 0
    for nth in (1, 2, 3, 5, 8):
        inject = ["-e", f"inject={call}:error=EIO:when={nth}"]
        command = [*traced, *inject, *COMMAND, *arguments, "--restart"]
        done = subprocess.run(command, cwd=cli.folder, capture_output=True, text=True, check=False)
        if "(INJECTED)" not in (cli.folder / "trace").read_text():
            continue  # not so many such calls in a run
        assert done.returncode == 74, (nth, done.returncode, done.stderr)
        assert "Input/output error" in done.stderr or "SQLITE_IOERR" in done.stderr
        assert "Traceback" not in done.stderr
        ended += 1
        outcome = cli.run_with(*arguments[1:-1])
        assert sqlite_rows(cli.folder / "rows.db") == clean.rows
        assert outcome.counts("sqlite") == clean.outcome.counts("sqlite")
        assert_letters_are_of(cli, clean)
    assert ended


# --- checkpoints that are damaged -----------------------------------------------------------------


@pytest.mark.fault(21)
def test_a_damaged_checkpoint_is_never_a_start_at_0(cli: Cli, clean: Clean) -> None:
    """Newer, torn, changed, empty or another's: exit 78 and a way out; rows and checkpoint stay as they are."""
    arguments = (clean.pairs.path, "--to", "sqlite:///rows.db", *FILES)
    cli.load(*arguments, "--limit", "1000")
    (path,) = (cli.folder / "checkpoints").glob("*.json")
    whole, rows = path.read_bytes(), sqlite_rows(cli.folder / "rows.db")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = whole.replace(b'"stream":"pairs', b'"stream":"other')
    future = {**json.loads(whole), "version": checkpoint.VERSION + 1}
    del future["checksum"]
    newer = json.dumps({**future, "checksum": checkpoint._checksum(future)}).encode()
    damages = [newer, b"", whole[: len(whole) // 2], whole[:-1], bytes(flipped), other, b"\0" * len(whole), b"null"]
    for damaged in damages:
        path.write_bytes(damaged)
        outcome = cli.here("run", *arguments)
        assert outcome.code == 78
        assert "--restart" in outcome.message
        assert (damaged == newer) == ("newer version" in outcome.message)
        assert path.read_bytes() == damaged
        assert sqlite_rows(cli.folder / "rows.db") == rows
    path.write_bytes(whole)
    cli.load(*arguments)
    assert sqlite_rows(cli.folder / "rows.db") == clean.rows


# --- a runner that slept --------------------------------------------------------------------------


def stopped_between_writes(process: subprocess.Popen[str], folder: Path) -> bool:
    """Stop it, but not for good if it has a file locked; what then is the subject of test_durable."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    files = [*folder.glob(".ingest/*/dead-letters.jsonl"), *folder.glob("checkpoints/*.lock")]
    for path in files:
        with path.open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.suffix == ".lock":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                process.send_signal(signal.SIGCONT)
                return False
    return True


@pytest.mark.fault(26)
@pytest.mark.parametrize("place", ["sink", "file:checkpoints"])
async def test_a_runner_that_slept_past_its_lease_is_fenced(
    cli: Cli, clean: Clean, redis_db_url: str, place: str
) -> None:
    """SIGSTOP for longer than the lease: another takes over and ends the load; after SIGCONT the first exits 73."""
    process = cli.start("run", clean.pairs.path, "--to", f"{redis_db_url}?rate=500", "--checkpoint", place)
    await until(lambda: redis_sets(redis_db_url))
    await until(lambda: stopped_between_writes(process, cli.folder))
    began = time.monotonic()
    outcome = await asyncio.to_thread(
        cli.run, "run", clean.pairs.path, "--json", "--to", redis_db_url, "--checkpoint", place
    )
    assert outcome.code == 0, outcome.stderr
    assert time.monotonic() - began > 15
    assert outcome.report["sources"][0]["complete"]
    process.send_signal(signal.SIGCONT)
    zombie = await asyncio.to_thread(finish, process)
    assert (zombie.code, "Another runner has taken this source over" in zombie.message) == (73, True)
    assert redis_sets(redis_db_url) == clean.sets
    again = await asyncio.to_thread(
        cli.run, "run", clean.pairs.path, "--json", "--to", redis_db_url, "--checkpoint", place
    )
    assert (again.code, again.report["sources"][0]["rows_now"]) == (0, 0)
    assert_letters_are_of(cli, clean)


# --- a bug ----------------------------------------------------------------------------------------

A_BUG = """
import ingest_service.sinks.sqlite.sink as sqlite
insert, times = sqlite.SQLiteSink._insert, []
def fails(self, values):
    times.append(1)
    if len(times) == 3:
        raise KeyError("no such thing")
    insert(self, values)
sqlite.SQLiteSink._insert = fails
from ingest_service.cli.app import main
main()
"""


@pytest.mark.fault(28)
def test_a_bug_in_a_sink_ends_the_run(cli: Cli, clean: Clean) -> None:
    """An exception that nobody expects fails the whole run (70) instead of hanging it; the next one goes on."""
    command = [sys.executable, "-c", A_BUG, "run", str(clean.pairs.path), "--to", "sqlite:///rows.db"]
    done = subprocess.run(command, cwd=cli.folder, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 70, done.stderr
    assert done.stderr.endswith(
        "builtins.KeyError\ningest-service: This is a bug; please report it with the lines above.\n"
    )
    outcome = cli.run_with(clean.pairs.path, "--to", "sqlite:///rows.db")
    assert 0 < outcome.report["sources"][0]["rows_now"] < clean.pairs.rows
    assert sqlite_rows(cli.folder / "rows.db") == clean.rows
    assert_letters_are_of(cli, clean)
