"""Sources divided among workers, by the commands: what they leave is what one run leaves."""

import gzip
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import Cli, finish, redis_sets, sqlite_rows, wait_for_event, write_pairs

PADDED = 24  # MiB; a shard is 1 MiB at least
WORKERS = ("--workers", "2", "--shard-mb", "4")


def letters_of(cli: Cli) -> list[tuple[int, int, str, str]]:
    return [(letter["line"], letter["offset"], letter["raw"], letter["code"]) for letter in cli.dead_letters]


def load(cli: Cli, name: str, *arguments: str) -> dict[str, int]:
    """Into a file of its own, with a state folder of its own. The counts."""
    outcome = cli.run("run", *arguments, "--to", f"sqlite:///{name}.db", "--state-dir", f".ingest/{name}", "--json")
    assert outcome.code == 0, outcome.stderr
    counts: dict[str, int] = outcome.report["sources"][0]["sinks"]["sqlite"]
    return counts


def settled(counts: dict[str, int]) -> tuple[int, ...]:
    """What does not depend on where chunks end."""
    names = ("read", "accepted", "rejected", "dead", "offset", "rows_now")
    return (*(counts[name] for name in names), counts["written"] + counts["merged"])


def test_workers_leave_what_one_run_leaves(cli: Cli) -> None:
    """The same rows, counts, checkpoint and dead letters, these in the order of the source; verify finds nothing."""
    write_pairs(cli.folder / "pairs.csv", 40_000, blocks=3)
    counts = load(cli, "one", "pairs.csv")
    one = letters_of(cli)
    assert settled(load(cli, "many", "pairs.csv", *WORKERS)) == settled(counts)
    rows = sqlite_rows(cli.folder / "many.db")
    assert rows == sqlite_rows(cli.folder / "one.db") and len(rows) > 30_000
    assert letters_of(cli)[: len(one)] == one == letters_of(cli)[len(one) :] and len(one) > 300
    found = cli.run("verify", "pairs.csv", "--to", "sqlite:///many.db", "--state-dir", ".ingest/many", "--json")
    assert found.code == 0 and json.loads(found.stdout)["equal"]
    (status,) = cli.run("status", "--to", "sqlite:///many.db", "--json").stdout.splitlines()
    assert json.loads(status)["complete"] and "shards" not in json.loads(status)
    assert not list((cli.folder / ".ingest").rglob("shards-*"))


def _rated(path: Path, n: int) -> None:
    """Ratings that change: one in a hundred is of a key that stood anywhere before, mostly far away."""
    rng = random.Random(3)
    rows: list[tuple[int, int]] = []
    with path.open("w") as file:
        file.write("userId,movieId,rating,timestamp,note\n")
        for number in range(n):
            user, movie = rng.choice(rows) if rows and rng.random() < 0.01 else (rng.randrange(1, 500), number)
            rows.append((user, movie))
            file.write(f"{user},{movie},{rng.randrange(1, 11) / 2},{1_600_000_000 + movie},{'n' * 250}\n")


@pytest.mark.parametrize("to", ["sqlite", "redis"])
def test_the_later_row_wins_across_shards(cli: Cli, redis_db_url: str, to: str) -> None:
    """A key that is in two shards has what the source says of it last, whichever worker was the later one."""
    _rated(cli.folder / "ratings.csv", 60_000)
    urls = {"sqlite": ["sqlite:///one.db", "sqlite:///many.db"]}.get(to, [redis_db_url, redis_db_url])
    looks = []
    for url, how in zip(urls, ((), ("--workers", "3", "--shard-mb", "1", "--restart")), strict=True):
        outcome = cli.run("run", "ratings.csv", "--dataset", "movielens", "--to", url, *how, "--json")
        assert outcome.code == 0, outcome.stderr
        looks.append(sqlite_rows(cli.folder / url[10:]) if to == "sqlite" else redis_sets(url))
    assert looks[0] == looks[1] and len(looks[0]) > 400
    assert cli.run("verify", "ratings.csv", "--dataset", "movielens", "--to", urls[1]).code == 0


def test_what_is_begun_with_workers_goes_on_with_others(cli: Cli, redis_db_url: str) -> None:
    """Stopped with 75 while it is divided; status tells of the shards; a plain run, or fewer workers, end it."""
    write_pairs(cli.folder / "pairs.csv", 60_000, blocks=4)
    url = f"{redis_db_url}?rate=15000"
    for _ in range(2):
        process = cli.start("run", "pairs.csv", "--to", url, "--workers", "3", "--shard-mb", "4")
        wait_for_event(process, lambda event: event["event"] == "progress" and event["rows_read"] > 3_000)
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 75
    (line,) = cli.run("status", "--to", redis_db_url, "--json").stdout.splitlines()
    status = json.loads(line)
    assert not status["complete"] and status["holder"] is None and status["read"] > 3_000
    assert len(status["shards"]) > 5 and sum(shard["percent"] > 0 for shard in status["shards"]) >= 3
    said = cli.run("status", "--to", redis_db_url).stdout
    assert f"{status['shards_complete']} of {len(status['shards'])} shards complete" in said
    outcome = cli.run("run", "pairs.csv", "--to", redis_db_url, "--json")
    assert outcome.code == 0, outcome.stderr
    counts = outcome.report["sources"][0]["sinks"]["redis"]
    assert counts["read"] == 60_000 > counts["rows_now"] > 0 and counts["complete"]
    assert cli.run("verify", "pairs.csv", "--to", redis_db_url).code == 0


def test_a_plain_run_that_stopped_goes_on_with_workers(cli: Cli) -> None:
    """From where it was: what it had is not read again."""
    write_pairs(cli.folder / "pairs.csv", 40_000, blocks=4)
    process = cli.start("run", "pairs.csv", "--to", "sqlite:///interactions.db?rate=4000")
    wait_for_event(process, lambda event: event["event"] == "progress" and event["sinks"]["sqlite"]["rows_written"] > 0)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 75
    outcome = cli.run("run", "pairs.csv", *WORKERS, "--json")
    counts = outcome.report["sources"][0]["sinks"]["sqlite"]
    assert outcome.code == 0 and counts["read"] == 40_000 > counts["rows_now"] > 0
    assert cli.run("verify", "pairs.csv").code == 0


def test_a_source_that_grew_goes_on(cli: Cli) -> None:
    """After the workers it is a stream like any other: a plain run reads what came, and counts lines from the top."""
    pairs = write_pairs(cli.folder / "pairs.csv", 20_000, blocks=2)
    assert cli.run("run", "pairs.csv", *WORKERS).code == 0
    with pairs.path.open("a") as file:
        file.write(f"7,7,{FIRST_MS},x\nbad,8,1,x\n")
    outcome = cli.run("run", "pairs.csv", "--json")
    counts = outcome.report["sources"][0]["sinks"]["sqlite"]
    assert outcome.code == 0 and counts["rows_now"] == 2 and counts["read"] == 20_002
    assert cli.dead_letters[-1]["line"] == 20_003
    assert cli.run("verify", "pairs.csv").code == 0


def test_many_files_and_packed_ones_are_loaded_whole(cli: Cli) -> None:
    """Each by one worker; one line a source in the report, and no row twice."""
    for number in range(5):
        path = write_pairs(cli.folder / f"part-{number}.csv", 2_000, seed=number).path
        if number % 2:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    outcome = cli.run("run", "part-*", "--workers", "3", "--json")
    assert outcome.code == 0, outcome.stderr
    sources = outcome.report["sources"]
    assert [source["sinks"]["sqlite"]["rows_now"] for source in sources] == [2_000] * 5
    assert cli.run("verify", "part-*").code == 0


def test_sinks_that_take_no_parts_are_loaded_after_the_others(cli: Cli) -> None:
    """Into a Parquet folder goes the whole source, by one process, from the same command."""
    pytest.importorskip("pyarrow")
    write_pairs(cli.folder / "pairs.csv", 20_000, blocks=2)
    to = ("--to", "sqlite:///interactions.db", "--to", "parquet:lake")
    outcome = cli.run("run", "pairs.csv", *WORKERS, *to, "--json")
    assert outcome.code == 0, outcome.stderr
    sinks: dict[str, Any] = outcome.report["sources"][0]["sinks"]
    assert {counts["read"] for counts in sinks.values()} == {20_000}
    assert cli.run("verify", "pairs.csv", *to).code == 0


def test_restart_begins_again(cli: Cli) -> None:
    """All rows once more, and the dead letters of the earlier start are set aside."""
    write_pairs(cli.folder / "pairs.csv", 20_000, blocks=2)
    assert cli.run("run", "pairs.csv", *WORKERS).code == 0
    before = letters_of(cli)
    outcome = cli.run("run", "pairs.csv", *WORKERS, "--restart", "--json")
    assert outcome.code == 0 and outcome.report["sources"][0]["sinks"]["sqlite"]["rows_now"] == 20_000
    assert letters_of(cli) == before
    assert len(list((cli.folder / ".ingest").rglob("dead-letters.1.jsonl"))) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-", "--workers", "2"), 2, "Standard input"),
        (("pairs.csv", "--workers", "2", "--limit", "5"), 2, "limit"),
        (("pairs.csv", "--workers", "2", "--memory", "350"), 78, "--memory 444"),
        (("missing.csv", "--workers", "2"), 66, "missing.csv"),
        (("pairs.csv", "--workers", "2", "--to", "redis://127.0.0.1:1/0?retry_budget_s=1"), 69, "redis"),
    ],
)
def test_what_cannot_be_is_said_once(cli: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    """One sentence, before a worker is started."""
    write_pairs(cli.folder / "pairs.csv", 10)
    outcome = cli.run("run", *arguments)
    assert outcome.code == code and said in outcome.message and outcome.stderr.count("ingest-service: ") == 1
