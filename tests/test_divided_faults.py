"""What may happen to a load that workers share: the same rows, counts and dead letters in the end, none of it twice."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ingest_service.audit.trial_runs import workers_of
from tests.buckets import Moto
from tests.faults import TcpProxy
from tests.helpers import (
    COMMAND,
    Cli,
    Outcome,
    finish,
    redis_sets,
    sqlite_rows,
    until,
    wait_for_event,
    write_changing,
    write_pairs,
)

WORKERS = ("--workers", "2", "--shard-mb", "1")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight MiB, and as many shards."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv", 20_000, blocks=1).path


class Changing:
    """Ratings of which each key has two, in shards far apart, and what one run of them left in SQLite."""

    def __init__(self, folder: Path) -> None:
        self.path = write_changing(folder / "ratings.csv", 20_000)
        cli = Cli(folder)
        self.counts = settled(cli.run_with(self.path, "--dataset", "movielens"))
        self.rows = cli.rows
        self.letters = letters_of(cli)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Changing:
    return Changing(tmp_path_factory.mktemp("changing"))


def settled(outcome: Outcome) -> tuple[int, ...]:
    """The counts that do not hang on where chunks end."""
    counts = outcome.counts("sqlite")
    return counts["read"], counts["accepted"], counts["rejected"], counts["dead"], counts["written"] + counts["merged"]


def letters_of(cli: Cli) -> list[tuple[int, int, str, str]]:
    return [(letter["line"], letter["offset"], letter["raw"], letter["code"]) for letter in cli.dead_letters]


def assert_as_one_run(cli: Cli, changing: Changing, outcome: Outcome) -> None:
    """And nothing is left of the shards."""
    assert settled(outcome) == changing.counts
    assert cli.rows == changing.rows
    assert letters_of(cli) == changing.letters
    assert not list((cli.folder / ".ingest").rglob("shards-*"))


def test_no_descriptor_is_closed_twice(cli: Cli, pairs: Path) -> None:
    """By the second time it may be that of a database which another thread has opened."""
    traced = ["strace", "-f", "-qq", "-Z", "-e", "trace=close", "-o", "trace"]
    if subprocess.run([*traced, "true"], cwd=cli.folder, capture_output=True, check=False).returncode:
        pytest.skip("NO TOOL: strace is not there, or may not trace")
    done = subprocess.run([*traced, *COMMAND, "run", pairs, *WORKERS], cwd=cli.folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "EBADF" not in (cli.folder / "trace").read_text()


# --- kill -9 ----------------------------------------------------------------------------------------


@pytest.mark.fault(80)
@pytest.mark.parametrize("place", ["keys-written:2", "lease-taken:2", "shards-repeated:1", "shards-letters:1"])
def test_kills_where_shards_begin_and_end(cli: Cli, changing: Changing, place: str) -> None:
    """Who comes to the place dies there, one after the other; a plain run ends it all the same."""
    journal = cli.folder / "journal"
    command = ("run", changing.path, "--dataset", "movielens")
    killed = cli.run(*command, *WORKERS, INGEST_TEST_FAULT_POINT=place, INGEST_TEST_JOURNAL=str(journal))
    assert killed.code == -signal.SIGKILL, killed.stderr
    names = [line.split()[1] for line in journal.read_text().splitlines()]
    assert names.count("killed") == 3  # both workers, and the driver, which goes on without them
    assert_as_one_run(cli, changing, cli.run_with(*command[1:]))


@pytest.mark.fault(80)
def test_what_shards_had_goes_with_the_next_load(cli: Cli, changing: Changing) -> None:
    """Also where who brought them together was killed just after; their dead letters are not there twice."""
    command = (changing.path, "--dataset", "movielens")
    # The lease is taken to divide it, for each of six shards, to bring them together, and to load what is left.
    killed = cli.run("work", *command, "--shard-mb", "1", INGEST_TEST_FAULT_POINT="lease-taken:9")
    assert killed.code == -signal.SIGKILL
    assert len(list((cli.folder / ".ingest").rglob("shards-*"))) == 1
    assert cli.rows == changing.rows
    assert_as_one_run(cli, changing, cli.run_with(*command))


@pytest.mark.fault(80)
def test_sinks_that_are_loaded_together_may_end_apart(cli: Cli, changing: Changing) -> None:
    """What shards had noted stays until it has served each of the sinks."""
    command = ("run", changing.path, "--dataset", "movielens")
    to = {name: ("--to", f"sqlite:///{name}.db?name={name}") for name in ("one", "two")}
    slow = [option.replace("?", "?rate=2000&") for name in to for option in to[name]]
    process = cli.start(*command, *WORKERS, *slow)
    wait_for_event(process, lambda event: event["event"] == "progress" and event["rows_read"] > 0)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 75
    for name in to:
        outcome = cli.run(*command, *to[name])
        assert outcome.code == 0, outcome.stderr
        assert sqlite_rows(cli.folder / f"{name}.db") == changing.rows
    assert letters_of(cli)[: len(changing.letters)] == changing.letters


@pytest.mark.fault(80)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_workers_end_with_who_started_them(cli: Cli, changing: Changing, number: signal.Signals) -> None:
    """Each drains and gives its shard back, so that the next run need not wait for a lease."""
    command = (changing.path, "--dataset", "movielens")
    process = cli.start("run", *command, *WORKERS, "--to", "sqlite:///interactions.db?rate=2000")
    wait_for_event(process, lambda event: event["event"] == "progress" and event["rows_read"] > 0)
    workers = workers_of(process.pid)
    process.send_signal(number)
    assert finish(process).code == (75 if number == signal.SIGTERM else -number)
    while any(is_alive(pid) for pid in workers):
        time.sleep(0.05)
    assert len(workers) == 2
    (line,) = cli.run("status", "--json").stdout.splitlines()
    status = json.loads(line)
    assert not any(shard["holder"] for shard in status["shards"])
    assert_as_one_run(cli, changing, cli.run_with(*command))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- several at once --------------------------------------------------------------------------------


@pytest.mark.fault(26, 81)
async def test_a_worker_that_slept_past_its_lease_is_fenced(cli: Cli, changing: Changing, redis_db_url: str) -> None:
    """SIGSTOP in the middle of a shard: another takes it over; after SIGCONT the first finds all done, adds nothing."""
    command = ("work", changing.path, "--dataset", "movielens", "--shard-mb", "1", "--json")
    sleeper = cli.start(*command, "--to", f"{redis_db_url}?rate=500")
    await until(lambda: redis_sets(redis_db_url))
    sleeper.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    other = await asyncio.to_thread(cli.run, *command, "--to", redis_db_url)
    assert other.code == 0, other.stderr
    assert time.monotonic() - began > 15
    before, letters = redis_sets(redis_db_url), letters_of(cli)
    sleeper.send_signal(signal.SIGCONT)
    outcome = await asyncio.to_thread(finish, sleeper)
    assert outcome.code == 0, outcome.stderr
    assert redis_sets(redis_db_url) == before
    assert letters_of(cli) == letters == changing.letters
    assert cli.run("verify", changing.path, "--dataset", "movielens", "--to", redis_db_url).code == 0


_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, at);
    if (!failed && clock == CLOCK_REALTIME) at->tv_sec += atol(getenv("CLOCK_AHEAD_S"));
    return failed;
}
"""


@pytest.mark.fault(81)
def test_workers_whose_clocks_are_hours_apart(cli: Cli, changing: Changing, redis_db_url: str) -> None:
    """Leases do not hang on the time of day: no shard is taken from one who works, and one of a killed worker is."""
    cli.file("clock.c", _CLOCK)
    build = ["cc", "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"]
    if shutil.which("cc") is None or subprocess.run(build, cwd=cli.folder, check=False).returncode:
        pytest.skip("NO TOOL: no C compiler")
    command = ("work", changing.path, "--dataset", "movielens", "--shard-mb", "1", "--json")
    library = str(cli.folder / "clock.so")
    to = f"{redis_db_url}?rate=3000"
    workers = [
        cli.start(*command, "--to", to, LD_PRELOAD=library, CLOCK_AHEAD_S=ahead)
        for ahead in ("-86400", "7200", "86400")
    ]
    events = [wait_for_event(worker, lambda event: event["event"] == "progress") for worker in workers]
    days = {event["timestamp"][:10] for event in events}
    assert len(days) >= 2  # their clocks are what they are meant to be
    workers[0].kill()
    assert finish(workers.pop(0)).code == -signal.SIGKILL
    outcomes = [finish(worker) for worker in workers]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].stderr + outcomes[1].stderr
    rows = [outcome.report["sources"][0]["sinks"]["redis"] for outcome in outcomes]
    assert rows[0]["read"] == rows[1]["read"] == changing.counts[0]
    assert letters_of(cli) == changing.letters
    assert cli.run("verify", changing.path, "--dataset", "movielens", "--to", redis_db_url).code == 0


@pytest.mark.fault(87)
async def test_an_object_store_that_is_slow_and_breaks_off(cli: Cli, changing: Changing, moto: Moto) -> None:
    """The source and the mirror are there, behind a network that trickles, cuts and is gone for a moment."""
    bucket, name = f"flaky-{cli.folder.name.replace('_', '-')}"[:60], "ratings.csv"
    moto.make_bucket(bucket)
    moto.put(f"{bucket}/{name}", changing.path.read_bytes())
    async with TcpProxy(moto.url) as proxy:
        environment = moto.environment | {"AWS_ENDPOINT_URL": proxy.url}
        command = ("run", f"s3://{bucket}/{name}", "--dataset", "movielens", *WORKERS, "--json")
        mirrored = (*command, "--state-mirror", f"s3://{bucket}/state")
        await proxy.slow(3 << 20)
        loading = asyncio.create_task(asyncio.to_thread(cli.run, *mirrored, **environment))
        await until(lambda: proxy.connections > 3)
        await proxy.cut_after(300_000, times=3)
        await until(lambda: proxy.cuts >= 1 or loading.done())
        await proxy.refuse()
        await asyncio.sleep(0.5)
        await proxy.heal()
        outcome = await loading
        if outcome.code == 74:  # it was given up, which is said; the same command goes on
            outcome = await asyncio.to_thread(cli.run, *mirrored, **environment)
    assert outcome.code == 0, outcome.stderr
    assert settled(outcome) == changing.counts
    assert cli.rows == changing.rows
    assert letters_of(cli) == changing.letters


@pytest.mark.fault(81)
def test_workers_that_begin_at_once_have_one_plan(cli: Cli, changing: Changing) -> None:
    """Both end well, and each row was loaded by one of them."""
    command = ("work", changing.path, "--dataset", "movielens", "--shard-mb", "1", "--json")
    processes = [cli.start(*command) for _ in range(2)]
    outcomes = [finish(process) for process in processes]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    rows = [outcome.report["sources"][0]["sinks"]["sqlite"]["rows_now"] for outcome in outcomes]
    assert sum(rows) == 20_000
    assert_as_one_run(cli, changing, outcomes[0])


@pytest.mark.fault(81)
def test_a_worker_beside_a_plain_run(cli: Cli, changing: Changing) -> None:
    """It waits for a run that loads the whole source, and a run takes shards beside it."""
    command = (changing.path, "--dataset", "movielens", "--json")
    plain = cli.start("run", *command, "--to", "sqlite:///interactions.db?rate=8000")
    wait_for_event(plain, lambda event: event["event"] == "progress")
    worker = cli.run("work", *command, "--shard-mb", "1")
    assert (finish(plain).code, worker.code) == (0, 0)
    assert worker.report["sources"][0]["rows_now"] == 0
    assert_as_one_run(cli, changing, worker)

    again = cli.start("run", *command, *WORKERS, "--restart", "--to", "sqlite:///interactions.db?rate=1000")
    wait_for_event(again, lambda event: event["event"] == "progress" and event["rows_read"] > 0)
    beside = cli.run("run", *command)
    assert (finish(again).code, beside.code) == (0, 0)
    assert beside.report["sources"][0]["rows_now"] > 0
    assert_as_one_run(cli, changing, beside)


# --- shards that fail -------------------------------------------------------------------------------


@pytest.mark.fault(82)
def test_a_shard_with_too_many_bad_rows_is_named(cli: Cli, pairs: Path) -> None:
    """Exit 65 once the others are loaded; with another limit a run loads what it left."""
    lines = pairs.read_bytes().splitlines(keepends=True)
    for number in range(12_000, 12_100):
        lines[number] = b"bad" + b" " * (len(lines[number]) - 4) + b"\n"
    path = cli.file("pairs.csv", b"".join(lines))
    clean = Cli(cli.folder / "clean")
    clean.folder.mkdir()
    wanted = settled(clean.run_with(path))
    outcome = cli.run("run", path, *WORKERS, "--max-rejects", "70")
    assert outcome.code == 65
    assert re.match(r"Shard \d of \d, from offset [\d,]+ to [\d,]+: \d+ of \d+ rows were refused", outcome.message)
    status = json.loads(cli.run("status", "--json").stdout)
    assert status["shards_complete"] == len(status["shards"]) - 1
    assert settled(cli.run_with(path, "--max-rejects", "1000")) == wanted
    assert cli.rows == clean.rows
    assert letters_of(cli) == letters_of(clean)


def divided(cli: Cli, path: Path, *arguments: str, place: str = "lease-taken:3") -> None:
    """A load that was killed in the middle of its shards, or at a place."""
    killed = cli.run("work", path, *arguments, "--shard-mb", "1", INGEST_TEST_FAULT_POINT=place)
    assert killed.code == -signal.SIGKILL, killed.stderr


@pytest.mark.fault(23, 83)
def test_a_source_that_changed_while_it_was_divided(cli: Cli, changing: Changing) -> None:
    """Other bytes where a shard begins or ends, or an end before that: exit 78, until --restart."""
    whole = changing.path.read_bytes()
    path = cli.file("ratings.csv", whole)
    arguments = ("--dataset", "movielens")
    divided(cli, path, *arguments)
    for changed in (whole.replace(b"nn\n", b"mm\n"), whole[: len(whole) // 2], whole.replace(b"\n1,", b"\n", 20)):
        path.write_bytes(changed)
        outcome = cli.run("work", path, *arguments)
        assert outcome.code == 78, (outcome.code, outcome.stderr)
        assert "--restart" in outcome.message
        assert not json.loads(cli.run("status", "--json").stdout)["complete"]
    path.write_bytes(whole)
    assert_as_one_run(cli, changing, cli.run_with(path, *arguments, "--restart"))


@pytest.mark.fault(84)
def test_a_worker_without_the_source(cli: Cli, changing: Changing) -> None:
    """Exit 66 with its name; where the file is, the load goes on."""
    path = cli.file("ratings.csv", changing.path.read_bytes())
    divided(cli, path, "--dataset", "movielens")
    path.rename(cli.folder / "elsewhere")
    outcome = cli.run("work", path, "--dataset", "movielens")
    assert outcome.code == 66
    assert "ratings.csv" in outcome.message
    (cli.folder / "elsewhere").rename(path)
    assert_as_one_run(cli, changing, cli.run_with(path, "--dataset", "movielens"))


@pytest.mark.fault(84)
@pytest.mark.parametrize(("missing", "says"), [("keys.bin", "What was noted"), ("dead-letters.jsonl", "refused rows")])
def test_a_state_folder_that_is_not_shared(cli: Cli, changing: Changing, missing: str, says: str) -> None:
    """What a shard had noted is not here: exit 74 says which and where to; once it is there the load goes on."""
    divided(cli, changing.path, "--dataset", "movielens", place="shards-repeated:1")
    path = next((cli.folder / ".ingest").rglob(f"*.0002/{missing}"))
    kept = path.rename(cli.folder / missing)
    outcome = cli.run("run", changing.path, "--dataset", "movielens")
    assert outcome.code == 74
    assert says in outcome.message and "of shard 3" in outcome.message and "--state-dir" in outcome.message
    assert not json.loads(cli.run("status", "--json").stdout)["complete"]
    kept.rename(path)
    assert_as_one_run(cli, changing, cli.run_with(changing.path, "--dataset", "movielens"))
