"""A run that was killed, stopped or shut out, and what the next one makes of it. All with the real command."""

import asyncio
import random
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.dynamo_shim import Call, DynamoShim, HttpFault, Refusal, healthy
from tests.faults import TcpProxy
from tests.helpers import (
    HEADER,
    Cli,
    Outcome,
    Pairs,
    create_tables,
    dynamodb_at,
    dynamodb_items,
    expected_sets,
    finish,
    plain,
    redis_sets,
    sqlite_rows,
    until,
    wait_for_event,
    write_pairs,
)

KILLS = {"sink": 10, "file:checkpoints": 4}


class Clean:
    """A file, and what one uninterrupted run of it left in SQLite."""

    def __init__(self, folder: Path, rows: int, blocks: int) -> None:
        self.pairs: Pairs = write_pairs(folder / "pairs.csv", rows, blocks=blocks)
        self.outcome: Outcome = Cli(folder).run_with(self.pairs.path, "--to", "sqlite:///clean.db")
        self.rows = sqlite_rows(folder / "clean.db")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    return Clean(tmp_path_factory.mktemp("long"), 100_000, blocks=10)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    return Clean(tmp_path_factory.mktemp("short"), 12_000, blocks=8)


# --- kill -9 --------------------------------------------------------------------------------------


def kill_again_and_again(cli: Cli, most: int, longest_s: float, *arguments: str | Path) -> int:
    """Run the command and kill it at random moments, until it ends or `most` times; returns how often it was killed."""
    rng = random.Random(f"{most} {longest_s}")
    for kills in range(most):
        process = cli.start("run", *arguments)
        try:
            stderr = process.communicate(timeout=rng.uniform(0.6, longest_s))[1]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            assert process.returncode == 0, stderr
            return kills
    return most


def assert_letters_are_of(cli: Cli, pairs: Pairs) -> None:
    """Each refused row once, in the order of the file."""
    found = [(letter["line"], letter["offset"], letter["raw"].encode()) for letter in cli.dead_letters]
    assert found == pairs.bad


@pytest.mark.parametrize("checkpoint", ["sink", "file:checkpoints"])
@pytest.mark.fault(1, 2)
def test_killed_runs_into_sqlite_leave_what_one_run_does(long: Clean, cli: Cli, checkpoint: str) -> None:
    """After kills at random moments the next run ends with the same rows, counts and dead letters as a clean one."""
    place = ("--checkpoint", checkpoint)
    slowly = (long.pairs.path, "--to", "sqlite:///rows.db?rate=40000", *place)
    assert kill_again_and_again(cli, KILLS[checkpoint], 2, *slowly) > 1
    outcome = cli.run_with(long.pairs.path, "--to", "sqlite:///rows.db", *place)
    assert sqlite_rows(cli.folder / "rows.db") == long.rows
    assert outcome.counts("sqlite") == long.outcome.counts("sqlite")
    assert_letters_are_of(cli, long.pairs)


@pytest.mark.parametrize("checkpoint", ["sink", "file:checkpoints"])
@pytest.mark.fault(1, 2)
async def test_killed_runs_into_servers_leave_what_one_run_does(
    short: Clean, cli: Cli, redis_db_url: str, dynamodb_url: str, table: str, checkpoint: str
) -> None:
    """Two sinks at different speeds are killed at random moments, and end as after one run each."""
    dynamodb = dynamodb_at(dynamodb_url, table)
    await create_tables(dynamodb)
    place = ("--checkpoint", checkpoint)
    slowly = (short.pairs.path, "--to", f"{redis_db_url}?rate=4000", "--to", f"{dynamodb}&rate=5000", *place)
    assert kill_again_and_again(cli, KILLS[checkpoint], 2.5, *slowly) > 1
    outcome = cli.run_with(short.pairs.path, "--to", redis_db_url, "--to", dynamodb, *place)
    assert plain(dynamodb_items(dynamodb_url, table)) == short.rows
    assert redis_sets(redis_db_url) == expected_sets(short.rows)
    for sink in ("redis", "dynamodb"):
        assert outcome.counts(sink) == short.outcome.counts("sqlite")
    assert_letters_are_of(cli, short.pairs)


# --- signals --------------------------------------------------------------------------------------


@asynccontextmanager
async def slow_redis(url: str, bytes_per_s: int = 1 << 20) -> AsyncIterator[TcpProxy]:
    """A Redis so slow that a test meets a run in its middle."""
    async with TcpProxy(url) as proxy:
        await proxy.slow(bytes_per_s)
        yield proxy


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """The proxy and the shim live on this loop: it must not wait for the command."""
    return await asyncio.to_thread(function, *arguments)


def watermark_of(event: dict[str, Any], sink: str) -> int:
    offset: int = event["sinks"][sink]["watermark"] if event["event"] == "progress" else 0
    return offset


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.fault(3)
async def test_a_signal_drains(short: Clean, cli: Cli, redis_db_url: str, number: signal.Signals) -> None:
    """A stopped run exits 75 with all it had in flight settled and its lease given back; the next one goes on."""
    async with slow_redis(redis_db_url, 500_000) as proxy:
        process = cli.start("run", short.pairs.path, "--to", proxy.url)
        await in_thread(wait_for_event, process, lambda event: watermark_of(event, "redis") > 1000)
        process.send_signal(number)
        await asyncio.sleep(0.5)  # the run must see the signal before it has nothing left to do
        await proxy.heal()
        outcome = await in_thread(finish, process)
        assert (outcome.code, outcome.message) == (75, "Stopped on request; run the same command again to go on.")
    status = cli.run("status", "--to", redis_db_url, "--json").report
    assert not status["complete"]
    assert status["holder"] is None
    assert 0 < status["read"] < short.pairs.rows

    outcome = cli.run_with(short.pairs.path, "--to", redis_db_url)
    assert outcome.report["sources"][0]["rows_now"] == short.pairs.rows - status["read"]
    assert outcome.counts("redis") == short.outcome.counts("sqlite")
    assert redis_sets(redis_db_url) == expected_sets(short.rows)


@pytest.mark.fault(3)
async def test_a_second_signal_stops_at_once(short: Clean, cli: Cli, redis_db_url: str) -> None:
    """It does not wait for a sink that answers nothing, and exits 75 too."""
    async with slow_redis(redis_db_url, 300_000) as proxy:
        process = cli.start("run", short.pairs.path, "--to", proxy.url)
        await in_thread(wait_for_event, process, lambda event: True)
        await proxy.blackhole()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            await in_thread(process.wait, 1)
        process.send_signal(signal.SIGTERM)
        outcome = await in_thread(finish, process)
    assert outcome.code == 75
    assert "Traceback" not in outcome.stderr
    cli.run_with(short.pairs.path, "--to", redis_db_url)
    assert redis_sets(redis_db_url) == expected_sets(short.rows)


async def test_a_signal_ends_the_wait_for_a_sink_that_is_down(cli: Cli, redis_db_url: str) -> None:
    """A run that still waits for its sink to come up can be stopped, too."""
    path = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    async with TcpProxy(redis_db_url) as proxy:
        await proxy.blackhole()
        process = cli.start("run", path, "--to", proxy.url)
        await until(lambda: proxy.connections)
        process.send_signal(signal.SIGTERM)
        outcome = await in_thread(finish, process)
    assert (outcome.code, outcome.message) == (75, "Stopped on request; run the same command again to go on.")


@pytest.mark.parametrize("said", ["", f"{HEADER}\n1,2,{FIRST_MS}\n"], ids=["nothing", "a row"])
def test_a_signal_ends_the_wait_for_a_silent_pipe(cli: Cli, said: str) -> None:
    """Standard input that stays open and silent, before or after its first rows, does not keep a run from stopping."""
    process = cli.start("run", "-", stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(said)
    process.stdin.flush()
    if said:
        assert "progress" in process.stderr.readline()
    else:
        while not catches_sigterm(process.pid):
            time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75


def catches_sigterm(pid: int) -> bool:
    """Whether the process has set its signal handlers by now (proc(5), SigCgt)."""
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


# --- files that change ----------------------------------------------------------------------------


def rows_of(first: int, n: int) -> str:
    return "".join(f"{1 + i % 50},{i},{FIRST_MS + i}\n" for i in range(first, first + n))


@pytest.mark.fault(23)
def test_a_changed_file_is_refused(cli: Cli) -> None:
    """A file whose loaded part is another one now exits 78 and says what differs, until --restart."""
    path = cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 1000)}")
    cli.load(path)
    cli.file("pairs.csv", f"{HEADER}\n{rows_of(5, 1000)}")
    outcome = cli.here("run", path)
    assert outcome.code == 78
    assert "are not those that were ingested" in outcome.message
    cli.file("pairs.csv", f"user,item,time\n{rows_of(0, 1000)}")
    for _ in range(2):  # the first refusal leaves the checkpoint as it is
        outcome = cli.here("run", path)
        assert (outcome.code, "header" in outcome.message) == (78, True)
    outcome = cli.load(path, "--restart")
    assert outcome.counts("sqlite")["read"] == 1000


@pytest.mark.fault(23)
def test_a_truncated_file_is_refused(cli: Cli) -> None:
    """A file that ends before what was loaded of it exits 78."""
    path = cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 1000)}")
    cli.load(path)
    cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 900)}")
    outcome = cli.here("run", path)
    assert outcome.code == 78
    assert "ends before byte" in outcome.message


@pytest.mark.fault(23)
def test_a_grown_file_goes_on(cli: Cli) -> None:
    """Only what was appended is loaded, and the counts are those of the whole."""
    path = cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 1000)}")
    cli.load(path)
    cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 1500)}bad,1,1\n")
    outcome = cli.load(path)
    assert outcome.report["sources"][0]["rows_now"] == 501
    assert outcome.counts("sqlite") == {
        "read": 1501, "accepted": 1500, "rejected": 1, "written": 1500, "merged": 0, "dead": 0
    }  # fmt: skip
    assert len(cli.rows) == 1500


def test_a_header_whose_line_end_arrives_later_is_the_same_header(cli: Cli) -> None:
    """A file that was only a header without a line end is loaded whole once it has rows."""
    path = cli.file("pairs.csv", HEADER)
    cli.load(path)
    cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 10)}")
    outcome = cli.load(path)
    assert outcome.report["sources"][0]["complete"]
    assert len(cli.rows) == 10


def test_a_complete_run_does_nothing_again(cli: Cli) -> None:
    """The same command once more reads no row, writes none, and reports the same counts."""
    path = cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 1000)}bad,1,1\n")
    first = cli.load(path)
    again = cli.load(path)
    assert again.report["sources"][0]["rows_now"] == 0
    assert again.report["sources"][0]["complete"]
    assert again.counts("sqlite") == first.counts("sqlite")
    assert len(cli.dead_letters) == 1


def test_a_larger_limit_goes_on_from_a_smaller_one(cli: Cli) -> None:
    """Limits count from the start of the file; a smaller one later does nothing, none at all finishes the file."""
    path = cli.file("pairs.csv", f"{HEADER}\n{rows_of(0, 50)}bad,1,1\n{rows_of(50, 949)}")
    for limit, now in ((10, 10), (300, 290), (200, 0), (300, 0)):
        outcome = cli.load(path, "--limit", str(limit))
        assert outcome.report["sources"][0]["rows_now"] == now
        assert not outcome.report["sources"][0]["complete"]
    assert len(cli.rows) == 299
    outcome = cli.load(path)
    assert outcome.report["sources"][0]["complete"]
    assert outcome.counts("sqlite")["read"] == 1000
    assert len(cli.rows) == 999
    assert len(cli.dead_letters) == 1


# --- several runners, several sinks ---------------------------------------------------------------


@pytest.mark.parametrize("sink", ["sqlite", "redis", "dynamodb", "file"])
@pytest.mark.fault(26)
async def test_a_second_runner_is_shut_out(
    cli: Cli, short: Clean, redis_db_url: str, dynamodb_url: str, table: str, sink: str
) -> None:
    """It exits 73 and names the process that holds the lease, which goes on as if nothing had been."""
    await create_tables(dynamodb_at(dynamodb_url, table))

    def throttled(call: Call) -> HttpFault | None:
        return Refusal(500, "InternalServerError") if call.target == "BatchWriteItem" and call.nth % 3 else None

    async with slow_redis(redis_db_url, 400_000) as redis, DynamoShim(dynamodb_url, throttled) as shim:
        options = {
            "redis": ("--to", redis.url),
            "dynamodb": ("--to", dynamodb_at(shim.url, table)),
            "file": ("--to", redis.url, "--checkpoint", "file:checkpoints"),
            # A slow second sink keeps the run going; the lease asked for is the first one's.
            "sqlite": ("--to", "sqlite:///interactions.db", "--to", redis.url),
        }[sink]
        process = cli.start("run", short.pairs.path, *options)
        await in_thread(wait_for_event, process, lambda event: True)
        outcome = await in_thread(cli.run, "run", short.pairs.path, *options)
        assert outcome.code == 73, outcome.stderr
        assert f"process {process.pid} on " in outcome.message
        await redis.heal()
        shim.policy = healthy
        assert (await in_thread(finish, process)).code == 0


async def test_a_sink_that_is_behind_gets_what_it_misses(short: Clean, cli: Cli, redis_db_url: str) -> None:
    """With one sink complete and one new, or half way, only the other one is written to."""
    half = short.pairs.rows // 2
    cli.run_with(short.pairs.path, "--to", redis_db_url)
    cli.run_with(short.pairs.path, "--to", "sqlite:///rows.db", "--limit", str(half))
    before = redis_sets(redis_db_url)
    outcome = cli.run_with(short.pairs.path, "--to", redis_db_url, "--to", "sqlite:///rows.db")
    sinks = outcome.report["sources"][0]["sinks"]
    assert (sinks["redis"]["rows_now"], sinks["sqlite"]["rows_now"]) == (0, short.pairs.rows - half)
    assert outcome.counts("redis") == short.outcome.counts("sqlite")
    assert sqlite_rows(cli.folder / "rows.db") == short.rows
    assert redis_sets(redis_db_url) == before == expected_sets(short.rows)
    assert_letters_are_of(cli, short.pairs)


async def test_a_dead_runners_lease_is_taken_over(cli: Cli, short: Clean, redis_db_url: str) -> None:
    """After a kill -9 the checkpoint names the dead process; the next run takes it over and gives it back."""
    async with slow_redis(redis_db_url) as proxy:
        process = cli.start("run", short.pairs.path, "--to", proxy.url)
        await in_thread(wait_for_event, process, lambda event: True)
        process.kill()
        await in_thread(process.wait)
        status = await in_thread(cli.run, "status", "--to", redis_db_url, "--json")
        assert status.report["holder"].startswith(f"process {process.pid} on ")
    outcome = cli.run_with(short.pairs.path, "--to", redis_db_url)
    assert outcome.counts("redis") == short.outcome.counts("sqlite")
    assert cli.run("status", "--to", redis_db_url, "--json").report["holder"] is None
