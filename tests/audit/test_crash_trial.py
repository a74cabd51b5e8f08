"""`crash-test`: kills real runs, finds nothing lost where nothing is, and finds what a broken program loses."""

import asyncio
import gzip
import json
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from ingest_service.runtime import fault
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import (
    HEADER,
    UNREACHABLE,
    Cli,
    create_tables,
    dynamodb_at,
    dynamodb_client,
    dynamodb_items,
    finish,
    import_all,
    wait_for_event,
    write_changing,
    write_pairs,
)
from tests.servers import ROOT, find_redis


def redis_database(url: str, number: int) -> redis.Redis:
    return redis.Redis.from_url(urlsplit(url)._replace(path=f"/{number}").geturl())


def trial_tables(endpoint: str) -> list[str]:
    with dynamodb_client(endpoint) as client:
        names: list[str] = client.list_tables()["TableNames"]
    return [name for name in names if name.startswith("ingest-trial-")]


# --- a program that loses something ---------------------------------------------------------------


def sabotage(cli: Cli, program: str) -> dict[str, str]:
    """An environment in which every process runs this first."""
    folder = cli.folder / "sabotage"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(program)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


A_CHUNK_VANISHES = """
import os, sys
if "run" in sys.argv and "pass-" in os.environ["INGEST_STATE_DIR"]:
    from ingest_service.sinks.base import Written
    from ingest_service.sinks.sqlite.sink import SQLiteSink
    write = SQLiteSink.write
    async def lossy(self, chunk, prepared):
        return await write(self, chunk, prepared) if chunk.start.row == 0 else Written(chunk.accepted)
    SQLiteSink.write = lossy
"""
CHECKPOINTS_ARE_NOT_STORED = """
import sys
if "run" in sys.argv:
    from ingest_service.sinks.file_checkpoints import FileCheckpoints
    swap, n = FileCheckpoints._swap, 0
    def pretended(self, stream, old, new):
        global n
        n += 1
        return swap(self, stream, old, new) if n == 1 else True
    FileCheckpoints._swap = pretended
"""
LETTERS_COME_AGAIN = """
import sys
if "run" in sys.argv:
    from ingest_service.pipeline.dead_letter import DeadLetters
    DeadLetters._is_kept = lambda self, row: False
"""


@pytest.mark.parametrize(
    ("program", "place", "cycles", "says"),
    [
        pytest.param(A_CHUNK_VANISHES, "sink", 3, ("rows_lost", "sqlite lost"), id="lost rows"),
        # Seen by a kill after the first second only.
        pytest.param(
            CHECKPOINTS_ARE_NOT_STORED, "file", 8, ("cycles", "was checkpointed"), id="a watermark that falls"
        ),
        pytest.param(LETTERS_COME_AGAIN, "file", 3, ("letters_doubled", "dead letters are lost"), id="doubled letters"),
    ],
)
def test_a_broken_program_is_found_out(cli: Cli, program: str, place: str, cycles: int, says: tuple[str, str]) -> None:
    """Exit code 1, with what is wrong in numbers and in a sentence."""
    file = write_pairs(cli.folder / "pairs.csv", 100_000, blocks=8)
    # So slow that there are checkpoints to come back to, for whoever is noticed by these alone many of them.
    rate = 10_000 if program == CHECKPOINTS_ARE_NOT_STORED else 30_000
    command = ("crash-test", file.path, "--to", f"sqlite:///a.db?rate={rate}", "--cycles", str(cycles), "--seed", "3")
    outcome = cli.run(*command, "--checkpoint", place, "--json", **sabotage(cli, program))
    assert outcome.code == 1, outcome.stderr + outcome.stdout
    number, sentence = says
    assert outcome.report[number] > 0
    assert any(sentence in problem for problem in outcome.report["problems"]), outcome.report["problems"]


REPEATED_KEYS_ARE_LEFT = """
import sys
if "run" in sys.argv or "ingest_service.service.forks" in sys.orig_argv:
    from ingest_service.pipeline import together
    async def nothing(*_): pass
    together.write_repeated = nothing
"""
A_SHARD_VANISHES = """
import sys
if "ingest_service.service.forks" in sys.orig_argv:
    from ingest_service.sinks.base import Written
    from ingest_service.sinks.sqlite.sink import SQLiteSink
    write = SQLiteSink.write
    async def lossy(self, chunk, prepared):
        return await write(self, chunk, prepared) if chunk.start.offset < 1 << 20 else Written(chunk.accepted)
    SQLiteSink.write = lossy
"""


@pytest.mark.parametrize("program", [REPEATED_KEYS_ARE_LEFT, A_SHARD_VANISHES], ids=["repeated keys", "lost shard"])
def test_broken_workers_are_found_out(cli: Cli, program: str) -> None:
    """What is lost, or left as an earlier row said it, before any kill even."""
    path = write_changing(cli.folder / "ratings.csv", 20_000)
    command = ("crash-test", path, "--dataset", "movielens", "--workers", "2", "--cycles", "1", "--seed", "1", "--json")
    outcome = cli.run(*command, "--checkpoint", "sink", **sabotage(cli, program))
    assert outcome.code == 1, outcome.stderr + outcome.stdout
    assert outcome.report["rows_lost"] > 0


# --- mistakes and mishaps -------------------------------------------------------------------------


def test_a_redis_without_an_empty_database_is_refused(cli: Cli, tmp_path: Path) -> None:
    """Each of its databases holds something, so none is taken, and all hold it afterwards."""
    (tmp_path / "redis").mkdir()
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    with find_redis(tmp_path / "redis") as server:
        for number in range(16):
            with redis_database(server.url, number) as client:
                client.set("mine", "1")
        outcome = cli.here("crash-test", "pairs.csv", "--to", server.url)
        assert (outcome.code, "has no empty database" in outcome.message) == (78, True)
        for number in range(16):
            with redis_database(server.url, number) as client:
                assert client.keys() == [b"mine"]


def test_mistakes_are_said_in_a_sentence(cli: Cli) -> None:
    """No such file, several files, standard input, a folder for checkpoints, a sink that is down; nothing to divide."""
    for name in ("a.csv", "b.csv"):
        cli.file(name, f"{HEADER}\n1,2,{FIRST_MS}\n")
    cli.file("a.csv.gz", gzip.compress(f"{HEADER}\n1,2,{FIRST_MS}\n".encode()))
    write_pairs(cli.folder / "long.csv", 4_000, blocks=1)
    down = f"redis://{UNREACHABLE}/0?retry_budget_s=0.2"
    for arguments, code in (
        (("none.csv",), 66),
        (("*.csv",), 2),
        (("-",), 2),
        (("a.csv", "--checkpoint", "file:here"), 2),
        (("a.csv", "--to", down), 69),
        (("a.csv", "--workers", "2"), 2),  # too short
        (("a.csv.gz", "--workers", "2"), 2),
        (("long.csv", "--workers", "2", "--to", "parquet:lake"), 2),
    ):
        outcome = cli.here("crash-test", *arguments)
        assert outcome.code == code, arguments
        assert outcome.message


def test_a_run_that_fails_by_itself_ends_the_trial(cli: Cli) -> None:
    """With the run's own exit code and message."""
    cli.file("pairs.csv", f"{HEADER}\nbad\n")
    outcome = cli.run("crash-test", "pairs.csv", INGEST_MAX_REJECTS="0")
    assert outcome.code == 65
    assert "ended by itself with exit code 65" in outcome.message
    assert "1 of 1 rows were refused" in outcome.message


def test_a_stopped_trial_leaves_nothing(cli: Cli, dynamodb_url: str, table: str, tmp_path: Path) -> None:
    """Exit code 75; the run that it had started is gone, and so are its tables and files."""
    file = write_pairs(cli.folder / "pairs.csv", 12_000, blocks=4)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = ("crash-test", file.path, "--to", dynamodb_at(dynamodb_url, table), "--cycles", "1000")
    process = cli.start(*command, TMPDIR=str(temporary))
    wait_for_event(process, lambda event: event["event"] == "crash-test")
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    assert outcome.code == 75
    assert trial_tables(dynamodb_url) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.fault(1)
def test_every_place_is_passed(
    cli: Cli, redis_db_url: str, dynamodb_url: str, table: str, mongodb_db_url: str, postgresql_schema_url: str
) -> None:
    """No name in the list of places has gone stale: a load into all sinks passes each, and can be ended at each."""
    import_all()
    to = dynamodb_at(dynamodb_url, table)
    asyncio.run(create_tables(to))
    cli.file("pairs.csv", f"{HEADER}\nbad\n1,2,{FIRST_MS}\n")
    write_changing(cli.folder / "ratings.csv", 10_000)
    sinks = (redis_db_url, to, mongodb_db_url, postgresql_schema_url, "sqlite:///rows.db", "parquet:///lake")
    command = ("run", "pairs.csv", *[word for sink in sinks for word in ("--to", sink)], "--json")
    journal = str(cli.folder / "journal")
    for extra in ((), ("--checkpoint", "file:checkpoints")):
        assert cli.run(*command, *extra, INGEST_TEST_JOURNAL=journal).code == 0
    divided = ("run", "ratings.csv", "--dataset", "movielens", "--workers", "2", "--shard-mb", "1")
    mirror = f"--state-mirror={(cli.folder / 'mirror').as_uri()}"
    assert cli.run(*divided, mirror, INGEST_TEST_JOURNAL=journal).code == 0
    passed = {line.split()[1] for line in (cli.folder / "journal").read_text().splitlines()}
    assert passed == fault.POINTS.keys()
    killed = cli.run(*command, "--restart", INGEST_TEST_FAULT_POINT="before-write:2")
    assert killed.code == -signal.SIGKILL
    assert json.loads(cli.run(*command).stdout)["balanced"]


# --- the whole -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.fault(1, 2)
def test_kills_lose_and_double_nothing(cli: Cli, redis_url: str, dynamodb_url: str, table: str) -> None:
    """Three sinks, both kinds of checkpoint: as after one clean run, and no more was repeated than was in flight.

    What the user has in these servers is as it was, and what the trial had made is gone.
    """
    import_all()
    file = write_pairs(cli.folder / "pairs.csv", 6_000, blocks=3)
    to = dynamodb_at(dynamodb_url, table)
    asyncio.run(create_tables(to))
    sinks = ("--to", redis_url, "--to", to, "--to", "sqlite:///interactions.db")
    outcome = cli.run("crash-test", file.path, *sinks, "--cycles", "15", "--seed", "7", "--json")
    assert outcome.code == 0, outcome.stderr + outcome.stdout
    found = outcome.report
    assert found["lossless"]
    assert (found["cycles"], found["rows"], found["seed"]) == (15, 6_000, 7)
    assert found["passes"] >= 2
    assert sum(found["killed_at"].values()) == 15
    assert len(found["killed_at"]) > 3
    assert found["killed_at"].keys() <= {"random time", *fault.POINTS}
    assert (found["rows_lost"], found["rows_doubled"], found["letters_lost"], found["letters_doubled"]) == (0, 0, 0, 0)
    assert 0 < found["largest_rework"] <= found["window"]
    assert found["rows_repeated"] > 0
    assert outcome.events[-1]["event"] == "crash-test"

    assert not (cli.folder / "interactions.db").exists()
    assert dynamodb_items(dynamodb_url, table) == {}
    assert trial_tables(dynamodb_url) == []
    for number in range(16):
        with redis_database(redis_url, number) as client:
            assert not client.exists("ingest:trial")
    assert not list(cli.folder.glob(".ingest*"))


@pytest.mark.long
@pytest.mark.fault(80)
@pytest.mark.parametrize("to", ["sqlite", "redis"])
def test_kills_of_workers_lose_and_double_nothing(cli: Cli, redis_url: str, to: str) -> None:
    """Of a worker, two, the driver, all: as after one clean run that was not divided, and the later row wins."""
    arguments: tuple[str, ...]
    if to == "sqlite":
        path, arguments = write_pairs(cli.folder / "pairs.csv", 20_000, blocks=1).path, ("--to", "sqlite:///a.db")
    else:
        path = write_changing(cli.folder / "ratings.csv", 20_000)
        arguments = ("--to", redis_url, "--dataset", "movielens")
    outcome = cli.run("crash-test", path, *arguments, "--workers", "2", "--cycles", "10", "--seed", "5", "--json")
    assert outcome.code == 0, outcome.stderr + outcome.stdout
    found = outcome.report
    assert found["lossless"]
    assert (found["workers"], found["cycles"], found["rows"]) == (2, 10, 20_000)
    assert found["shards"] > 4
    assert sum(found["killed_at"].values()) == 10
    assert len(found["killed_at"]) > 3
    assert not list(cli.folder.glob(".ingest*"))
