"""Features that need the past, through every command: whatever a run lives through, they are those of one pass."""

import os
import random
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingest_service.formats.past import PastOfSource
from ingest_service.rows.chunk import Position
from tests.datasets.test_features import WRITTEN, looped
from tests.datasets.test_schema_file import ITEM, OWNER, RATING, TIME
from tests.helpers import Cli, Outcome, parquet_rows, postgresql
from tests.servers import ROOT

SMALL = ("--memory", "182")  # MB: with the shortest blocks
NAMES = ("position", "user_count", "gap", "session", "burst", "item_count", "popularity", "week")
LOW = "rating >= 2"
Row = tuple[Any, ...]


def schema_file(cli: Cli, features: list[dict[str, Any]], **more: Any) -> Path:
    schema = {"fields": [OWNER, ITEM, TIME, RATING]}
    text = yaml.safe_dump({"name": "own", "schema": schema, "x-features": features, **more})
    return cli.file("own.yaml", text)


class Log:
    """A file of some blocks with rows that are refused, that a filter passes over, and that are out of order."""

    def __init__(self, cli: Cli, rows: int = 9_000, blocks: int = 9) -> None:
        rng = random.Random(5)
        self.kept: list[tuple[int, int, int]] = []  # user, item, microseconds
        padding = "n" * (blocks * (2 << 20) // rows)
        with (cli.folder / "log.csv").open("w") as file:
            file.write("user,item,at,rating,note\n")
            for number in range(rows):
                user, item, rating = rng.randrange(150), int(rng.paretovariate(0.7)) % 400, rng.randrange(1, 6)
                at = 1_600_000_000_000 + number * 40_000 - (rng.random() < 0.05) * 10_000_000 + number % 7
                is_bad = rng.random() < 0.05
                file.write(f"u{user},i{item},{at},{'bad' if is_bad else rating},{padding}\n")
                if not is_bad and rating >= 2:
                    self.kept.append((user, item, at * 1000))
        self.path = cli.folder / "log.csv"
        self.schema = schema_file(cli, WRITTEN, **{"x-transform": [{"filter": LOW}]})
        self.command = (self.path, "--dataset", self.schema, *SMALL)


@pytest.fixture
def log(cli: Cli) -> Log:
    return Log(cli)


def features_in(path: Path) -> list[Row]:
    """Of each record with its key, in their order: all that SQLite has, to the bit."""
    names = ", ".join(NAMES)
    with closing(sqlite3.connect(path)) as db:
        return db.execute(
            f"SELECT user_id, event_key, {names} FROM interactions ORDER BY user_id, event_key"
        ).fetchall()


def loaded(cli: Cli, log: Log) -> list[Row]:
    """What one run leaves, which is what a loop over the kept rows finds."""
    outcome = cli.load(*log.command, "--to", "sqlite:///clean.db")
    found = features_in(cli.folder / "clean.db")
    assert outcome.counts("sqlite")["written"] == len(found) == len(log.kept)
    expected = sorted(tuple(row[name] for name in NAMES[:6]) for row in looped(log.kept))
    assert sorted(row[2:8] for row in found) == expected
    return found


KEEPS_ALWAYS = """
from ingest_service.cli import main
from ingest_service.formats import past

past.KEEP_EVERY_S = 0.0
main()
"""


@pytest.mark.fault(1, 2)
def test_a_run_that_is_killed_again_and_again_leaves_what_one_run_does(cli: Cli, log: Log) -> None:
    """At every kind of place, each time in the run that goes on from the kill before.

    What it goes on from is kept after each chunk, and every second time all of that is gone.
    """
    expected = loaded(cli, log)
    killed = Cli(cli.folder, (sys.executable, "-c", KEEPS_ALWAYS))
    slow = (*log.command, "--to", "sqlite:///rows.db?rate=2500")
    places = ["before-write:3", "checkpoint-saved:2", "lease-taken", "after-write:2", "checkpoint-swapped:3"]
    places += ["settled:2", "dead-letters-written:3", "checkpoint-swap:3", "dead-letters-synced:2"]
    codes = []
    for number, place in enumerate(places):
        for path in cli.folder.rglob("features-*") if number % 2 else ():
            path.unlink()
        codes.append(killed.run("run", *slow, INGEST_TEST_FAULT_POINT=place).code)
        if codes[-1] == 0:
            assert features_in(cli.folder / "rows.db") == expected
            cli.load(*slow, "--restart", "--limit", "2000")
    cli.load(*log.command, "--to", "sqlite:///rows.db")
    assert features_in(cli.folder / "rows.db") == expected
    assert codes.count(-signal.SIGKILL) > 5
    assert cli.here("verify", *log.command[:3], "--to", "sqlite:///rows.db").code == 0


@pytest.mark.fault(1)
def test_a_sink_that_is_ahead_gets_what_it_would_have_got(cli: Cli, log: Log, postgresql_schema_url: str) -> None:
    """Two that stand elsewhere go on together, with other blocks than before, through a kill."""
    expected = loaded(cli, log)
    assert cli.here("check", "--create", "--to", postgresql_schema_url, "--dataset", log.schema).code == 0
    one, other = ("--to", postgresql_schema_url), ("--to", "sqlite:///rows.db")
    cli.load(*log.command[:3], *one, "--limit", "5001")
    cli.load(*log.command, *other, "--limit", "1234")
    slow = (*one[:1], f"{one[1]}&rate=2500", *other)
    killed = cli.run("run", *log.command, *slow, INGEST_TEST_FAULT_POINT="checkpoint-saved:3")
    assert killed.code == -signal.SIGKILL
    cli.load(*log.command, *one, *other)
    assert features_in(cli.folder / "rows.db") == expected
    with postgresql(postgresql_schema_url) as db:
        rows = db.execute(f"SELECT {', '.join(NAMES)} FROM interactions").fetchall()
    assert sorted(rows) == sorted(row[2:] for row in expected)
    assert cli.here("verify", *log.command[:3], *one, *other).code == 0


def test_a_source_is_not_divided_among_workers(cli: Cli, log: Log) -> None:
    """One of them loads all of it, in its order."""
    expected = loaded(cli, log)
    workers = ("--workers", "2", "--shard-mb", "4", "--memory", "500")
    outcome = cli.run_with(*log.command[:3], "--to", "sqlite:///rows.db", *workers)
    assert again(outcome) == 0
    assert features_in(cli.folder / "rows.db") == expected


def test_a_file_that_grows_goes_on(cli: Cli, log: Log) -> None:
    """Cut in the middle of a row that is one all the same, which is then taken back."""
    expected = loaded(cli, log)
    whole = log.path.read_bytes()
    for end in (len(whole) // 3, len(whole) // 2, len(whole)):
        log.path.write_bytes(whole[:end])
        cli.load(*log.command, "--to", "sqlite:///rows.db", "--to", "parquet:///lake")
    assert features_in(cli.folder / "rows.db") == expected
    found = [tuple(row[name] for name in NAMES) for row in parquet_rows(cli.folder / "lake")]
    assert sorted(found) == sorted(row[2:] for row in expected)
    verified = cli.here("verify", *log.command[:3], "--to", "sqlite:///rows.db", "--to", "parquet:///lake")
    assert verified.code == 0, verified.stdout


def again(outcome: Outcome) -> int:
    """How many rows were read again, by what the run says."""
    said = " ".join(outcome.report["sources"][0]["warnings"])
    found = re.search(r"the ([0-9,]+) rows before were read again", said)
    return int(found[1].replace(",", "")) if found else 0


def test_a_run_goes_on_from_what_is_kept(cli: Cli, log: Log) -> None:
    """Without reading rows again; once that is gone, damaged or of other features they are, and it says so."""
    expected = loaded(cli, log)
    command = (*log.command, "--to", "sqlite:///rows.db")
    outcomes = [cli.load(*command, "--limit", "2000"), cli.load(*command, "--limit", "4000")]
    for path in cli.folder.rglob("features-*"):
        path.unlink()
    outcomes.append(cli.load(*command, "--limit", "6000"))
    (path,) = cli.folder.rglob("features-*")
    path.write_bytes(path.read_bytes()[:-1])
    outcomes += [cli.load(*command, "--limit", "8000"), cli.load(*command)]
    assert [again(outcome) for outcome in outcomes] == [0, 0, 4000, 6000, 0]
    assert features_in(cli.folder / "rows.db") == expected


def test_what_is_kept_of_a_former_file_is_not_believed(cli: Cli, log: Log) -> None:
    """Its first rows were corrected, and it is loaded anew; without what that run kept, the next reads the new rows."""
    cli.load(*log.command, "--to", "sqlite:///rows.db", "--limit", "2000")
    former = {path.name for path in cli.folder.rglob("features-*")}
    lines = log.path.read_text().splitlines(keepends=True)
    mended = [line.replace(line[1 : line.index(",")], "0" * (line.index(",") - 1), 1) for line in lines[1:200]]
    log.path.write_text("".join([lines[0], *mended, *lines[200:]]))
    command = (*log.command, "--to", "sqlite:///other.db")
    cli.load(*command, "--limit", "6000")
    for path in cli.folder.rglob("features-*"):
        if path.name not in former:
            path.unlink()
    assert again(cli.load(*command)) == 6000
    cli.load(*log.command, "--to", "sqlite:///clean.db")
    assert features_in(cli.folder / "other.db") == features_in(cli.folder / "clean.db")


def test_a_stop_does_not_wait_for_rows_that_are_read_again(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of these is read, and no row is written; the next run reads them all."""
    expected = loaded(cli, log)
    cli.load(*log.command, "--to", "sqlite:///rows.db", "--limit", "8000")
    before = features_in(cli.folder / "rows.db")
    for path in cli.folder.rglob("features-*"):
        path.unlink()
    recall, steps = PastOfSource.recall, []

    def stopping(past: PastOfSource, at: Position) -> bool:
        steps.append(at.row)
        os.kill(os.getpid(), signal.SIGTERM)
        return recall(past, at)

    with monkeypatch.context() as patch:
        patch.setattr(PastOfSource, "recall", stopping)
        outcome = cli.here("run", *log.command, "--to", "sqlite:///rows.db")
    assert (outcome.code, steps, features_in(cli.folder / "rows.db")) == (75, [8000], before)
    assert again(cli.load(*log.command, "--to", "sqlite:///rows.db")) == 8000
    assert features_in(cli.folder / "rows.db") == expected


def test_other_features_than_those_of_the_checkpoint_are_refused(cli: Cli) -> None:
    log = Log(cli, 300, 1)
    cli.load(*log.command[:3])
    for other in (WRITTEN[:-1], [], [{**WRITTEN[3], "gap": "31m"} if one is WRITTEN[3] else one for one in WRITTEN]):
        schema_file(cli, other, **{"x-transform": [{"filter": LOW}]})
        for command in ("run", "verify"):
            outcome = cli.here(command, *log.command[:3])
            assert outcome.code == 78, outcome.stdout + outcome.stderr
            assert "x-features" in outcome.stderr
    outcome = cli.load(*log.command[:3], "--restart")
    assert outcome.counts("sqlite")["accepted"] == len(log.kept)


def test_dead_letters_are_not_replayed_by_themselves(cli: Cli) -> None:
    """No letter moves, and no row is written; the message says what to do instead."""
    log = Log(cli, 300, 1)
    cli.load(*log.command[:3])
    (letters,) = cli.folder.rglob("dead-letters.jsonl")
    letters.write_text(letters.read_text().replace("bad", "4"))
    before, rows = letters.read_bytes(), cli.rows
    outcome = cli.here("replay", letters, "--dataset", log.schema)
    assert outcome.code == 78
    assert "--restart" in outcome.message
    assert (letters.read_bytes(), cli.rows) == (before, rows)


def test_preview_and_crash_test_see_the_records_of_the_load(cli: Cli) -> None:
    log = Log(cli, 600, 1)
    cli.load(*log.command[:3])
    preview = cli.here("preview", *log.command[:3], "-n", "60")
    assert preview.code == 0, preview.stderr
    found = {re.sub(r"[^0-9.e-]", "", text) for text in re.findall(r"'popularity': [^,}]+", preview.stdout)}
    assert len(found) > 5
    assert {float(text.removeprefix("e")) for text in found} <= {float(row["popularity"]) for row in cli.rows.values()}
    trial = ("--to", "sqlite:///a.db", "--cycles", "2", "--seed", "3", "--checkpoint", "sink")
    outcome = cli.here("crash-test", *log.command[:3], *trial)
    assert outcome.code == 0, outcome.stdout + outcome.stderr


def test_what_is_out_of_order_is_said(cli: Cli) -> None:
    log = Log(cli, 300, 1)
    cli.load(*log.command[:3], "--limit", "100")
    (source,) = cli.load(*log.command[:3]).report["sources"]
    counts = []
    for place in (0, 1):
        latest: dict[int, int] = {}
        counts.append(0)
        for row in log.kept:
            counts[-1] += row[2] < latest.get(row[place], 0)
            latest[row[place]] = max(row[2], latest.get(row[place], 0))
    assert [int(text.split()[0]) for text in source["warnings"]] == counts
    assert min(counts) > 0


def test_features_of_the_configuration_follow_those_of_the_schema_file(cli: Cli) -> None:
    """And the steps of both come before: a filter of the configuration is in none of the counts."""
    log = Log(cli, 300, 1)
    cli.file("ingest.toml", '[[transform]]\nfilter = "rating > 3"\n[[feature]]\nfeature = "user_count"\nderive = "n"\n')
    path = schema_file(cli, WRITTEN[:1])
    cli.load(log.path, "--dataset", path)
    rows = [row for row in cli.rows.values() if row["user_id"] == next(iter(cli.rows.values()))["user_id"]]
    assert sorted((int(row["position"]), int(row["n"])) for row in rows) == [(n + 1, n) for n in range(len(rows))]
    cli.file("ingest.toml", '[[feature]]\nfeature = "position"\n')
    outcome = cli.here("run", log.path, "--dataset", path)
    assert outcome.code == 78
    assert "Setting 'feature' is wrong for the data set own: there is a field 'position' already" in outcome.message


def test_the_example_of_the_page_is_loaded_as_it_says(cli: Cli) -> None:
    (example,) = re.findall(r"<<'END'\n(.*?)^END$", (ROOT / "docs" / "FEATURES.md").read_text(), re.M | re.S)
    schema = cli.file("clicks.yaml", example)
    rows = "1,5,1583366400000", "2,5,1583366460000", "1,6,1583366461000", "1,5,1583971200000"
    path = cli.file("pairs.csv", "\n".join(["user,item,timestamp", *rows]) + "\n")
    cli.load(path, "--dataset", schema)
    found = sorted(
        (row["user_id"], *(float(row[name]) for name in ("position", "gap", "session", "seen_before", "popularity")))
        for row in cli.rows.values()
    )
    one, other = sorted([[row[1:] for row in found if row[0] == user] for user in {row[0] for row in found}], key=len)
    assert one == [(1, -1, 1, 1, pytest.approx(1, abs=1e-3))]
    assert other == [(1, -1, 1, 0, 0), (2, 61, 1, 0, 0), (3, 604739, 2, 2, pytest.approx(1, abs=1e-3))]
