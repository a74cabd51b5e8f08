"""SQLite: files that are deleted, replaced or may only be read, and tables that somebody else has made."""

import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest_service.errors import ConfigurationError
from ingest_service.sinks.testing.rows import FIRST_MS
from ingest_service.sinks.urls import sink_at
from tests.helpers import COMMAND, HEADER, Cli, finish, sqlite_rows, wait_for_event

ROWS = "".join(f"{1 + i % 5},{100 + i},{FIRST_MS + i}\n" for i in range(100))
FIELDS = ("user_id", "event_key", "video_id", "timestamp", "event_type", "device", "session_id")
PLAIN = ", ".join(f"{name} TEXT" for name in FIELDS)


@pytest.fixture
def pairs(cli: Cli) -> Path:
    return cli.file("pairs.csv", f"{HEADER}\n{ROWS}")


@contextlib.contextmanager
def database(cli: Cli, *statements: str) -> Iterator[sqlite3.Connection]:
    """The default database, after these statements of somebody else."""
    with contextlib.closing(sqlite3.connect(cli.folder / "interactions.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
        yield connection


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.fault(49)
@pytest.mark.parametrize("checkpoint", ["sink", "file:checkpoints"])
@pytest.mark.parametrize("successor", [None, "an empty file", "a copy"])
def test_a_file_that_goes_in_the_middle_ends_the_run(cli: Cli, checkpoint: str, successor: str | None) -> None:
    """Deleted or replaced, by an empty file or its own copy: what is written from then on would be nowhere."""
    path = cli.file("long.csv", f"{HEADER}\n" + "".join(f"{1 + i % 5},{i},{FIRST_MS + i}\n" for i in range(60_000)))
    place = cli.folder / "interactions.db"
    run = cli.start("run", path, "--to", "sqlite:///interactions.db?rate=12000", "--checkpoint", checkpoint)
    wait_for_event(run, _is_writing)
    if successor == "a copy":
        (cli.folder / "copy.db").write_bytes(place.read_bytes())
    place.unlink()
    if successor == "an empty file":
        place.touch()
    elif successor == "a copy":
        (cli.folder / "copy.db").rename(place)
    outcome = finish(run)
    assert outcome.code == 78
    assert "was deleted or replaced while it was in use" in outcome.message


def _is_writing(event: dict[str, Any]) -> bool:
    return bool(event["event"] == "progress" and event["sinks"]["sqlite"]["in_flight"])


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite:///./:memory:?rate=5"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    """It would be gone with the run, whatever that said."""
    with pytest.raises(ConfigurationError, match="in memory"):
        sink_at(url)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is no file"),
        (os.mkfifo, "is no file"),
        (lambda path: path.write_bytes(b"a text, and not a short one " * 100), "is no SQLite database"),
    ],
    ids=["folder", "pipe", "text"],
)
def test_what_is_no_database_is_refused(cli: Cli, pairs: Path, make: object, message: str) -> None:
    """A folder, a pipe (which would be waited for without end), a text."""
    make(cli.folder / "interactions.db")  # type: ignore[operator]
    outcome = cli.here("run", pairs)
    assert outcome.code == 78
    assert message in outcome.message


def test_check_knows_that_a_file_cannot_be_made(cli: Cli) -> None:
    """Where its folder is missing, the first run would fail."""
    assert cli.here("check", "--to", "sqlite:///nowhere/a.db").code == 69
    assert cli.here("check", "--to", "sqlite:///a.db").code == 0


# --- reading only ---------------------------------------------------------------------------------


def read_only(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command where the folder is mounted read-only: as root, too, nothing can be written there."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NO RIGHT: this machine lets nobody mount in a namespace of their own (unshare -rm)")
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-euc", script, folder, *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.fault(50)
def test_a_database_on_a_read_only_place_can_be_read(cli: Cli, pairs: Path) -> None:
    """`status` and `verify` say what they say elsewhere; a run and `check` say that it may not be written."""
    cli.load(pairs)
    here = json.loads(cli.here("status", "--json").stdout)
    there = read_only(cli.folder, "status", "--json")
    assert (there.returncode, json.loads(there.stdout)) == (0, here), there.stderr
    verified = read_only(cli.folder, "verify", pairs)
    assert verified.returncode == 0, verified.stderr
    assert "sqlite: 100 rows compared, 0 missing, 0 altered, 0 extra" in verified.stdout
    checked = read_only(cli.folder, "check")
    assert checked.returncode == 69
    assert "may only be read" in checked.stdout
    run = read_only(cli.folder, "run", pairs, "--restart")
    assert run.returncode == 78
    assert "may only be read" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.fault(50)
def test_rows_that_wait_in_the_log_are_not_passed_over(cli: Cli, pairs: Path) -> None:
    """After a crash the newest rows are in the log beside the file: without its index they are not left out."""
    cli.load(pairs)
    place = cli.folder / "interactions.db"
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("UPDATE interactions SET device = 'x'")
        connection.commit()
        files = {name: (cli.folder / name).read_bytes() for name in ("interactions.db", "interactions.db-wal")}
    for name, content in files.items():
        cli.file(name, content)
    (cli.folder / "interactions.db-shm").unlink(missing_ok=True)
    verified = read_only(cli.folder, "verify", pairs)
    assert verified.returncode == 78
    assert "rows that wait in interactions.db-wal" in verified.stderr
    assert cli.here("verify", pairs).code == 1  # where the folder may be written, they are seen


@pytest.mark.fault(50)
def test_a_database_of_others_that_may_not_be_written_is_explained(cli: Cli, pairs: Path) -> None:
    """There is nothing to be read in it."""
    with database(cli, "CREATE TABLE other (x)"):
        pass
    outcome = read_only(cli.folder, "verify", pairs)
    assert outcome.returncode == 78
    assert "holds nothing that was loaded" in outcome.stderr


# --- tables of others -----------------------------------------------------------------------------


@pytest.mark.fault(51)
def test_a_table_without_a_key_gets_one(cli: Cli, pairs: Path) -> None:
    """As pandas makes it: loaded twice, each row is there once, and the user is told of the index."""
    with database(cli, f'CREATE TABLE interactions ("index" BIGINT, {PLAIN})'):
        pass
    checked = cli.here("check")
    assert checked.code == 0
    assert "has no unique index on user_id and event_key; it gets one" in checked.stdout
    report = cli.load(pairs).report["sources"][0]["sinks"]["sqlite"]
    assert any("it gets one" in text for text in report["warnings"])
    assert cli.load(pairs, "--restart").counts("sqlite")["written"] == 100
    with database(cli) as connection:
        assert connection.execute("SELECT count(*) FROM interactions").fetchall() == [(100,)]
    assert cli.here("verify", pairs).code == 0
    assert not cli.load(pairs).report["sources"][0]["sinks"]["sqlite"]["warnings"]


@pytest.mark.fault(51)
@pytest.mark.parametrize(
    ("table", "more", "message"),
    [
        (f"TABLE interactions ({PLAIN})", "INSERT INTO interactions (user_id) VALUES ('u'), ('v')", None),
        (
            f"TABLE interactions ({PLAIN})",
            "INSERT INTO interactions (user_id, event_key) VALUES ('u', 'k'), ('u', 'k')",
            "rows that share theirs",
        ),
        ("TABLE interactions (user_id TEXT, video_id TEXT)", "", "lacks the columns event_key, timestamp, event_type"),
        (f"TABLE interactions ({PLAIN}, tenant TEXT NOT NULL)", "", "wants a value for the column tenant"),
        (f"TABLE interactions ({PLAIN}, tenant TEXT NOT NULL DEFAULT 'x')", "", None),
        (f"TABLE interactions (id INTEGER PRIMARY KEY, {PLAIN})", "", None),
        (f"TABLE interactions ({PLAIN}, note TEXT UNIQUE)", "", None),
        (f"TABLE interactions ({PLAIN}, note TEXT UNIQUE DEFAULT 'x')", "", "by which one record would replace"),
        (f"TABLE interactions ({PLAIN}, UNIQUE (user_id, session_id))", "", "by which one record would replace"),
        (
            f"TABLE interactions ({PLAIN})",
            "CREATE UNIQUE INDEX one ON interactions (lower(user_id))",
            "the unique index one",
        ),
        (f"TABLE interactions ({PLAIN}, UNIQUE (event_key, user_id, device))", "", None),
        (
            f"TABLE interactions ({PLAIN.replace('device TEXT', 'device TEXT AS (1) STORED')})",
            "",
            "computes the column device",
        ),
        ("VIEW interactions AS SELECT 1 AS user_id", "", "is a view"),
        ("VIRTUAL TABLE interactions USING fts5(user_id, event_key)", "", "is a virtual table"),
        (
            f"TABLE interactions ({PLAIN})",
            "CREATE TRIGGER drops BEFORE INSERT ON interactions BEGIN SELECT RAISE(IGNORE); END",
            "does not keep rows as they are written, because of the trigger drops",
        ),
        (
            f"TABLE interactions ({PLAIN})",
            "CREATE TRIGGER counts AFTER INSERT ON interactions BEGIN SELECT 1; END",
            None,
        ),
        (f"TABLE interactions ({PLAIN}, CHECK (device = 'tv'))", "", "refuses rows by a rule of its table"),
        (f"TABLE Interactions ({PLAIN.upper()}, PRIMARY KEY (USER_ID, EVENT_KEY))", "", None),
    ],
)
def test_a_table_of_others_takes_each_row_once_or_none_is_sent(
    cli: Cli, pairs: Path, table: str, more: str, message: str | None
) -> None:
    """What would drop, double or replace rows is refused with what to do; nothing is changed by that."""
    with database(cli, f"CREATE {table}", *([more] if more else [])) as connection:
        before = list(connection.iterdump())
        outcome = cli.here("run", pairs)
        if message is None:
            assert outcome.code == 0, outcome.stderr
            assert cli.load(pairs, "--restart").counts("sqlite")["written"] == 100
            assert connection.execute("SELECT count(*) FROM interactions WHERE video_id <> ''").fetchone() == (100,)
            return
        assert (outcome.code, message in outcome.message) == (78, True), outcome.stderr
        assert [line for line in connection.iterdump() if "ingest_" not in line] == before


def test_a_trigger_is_told_of(cli: Cli, pairs: Path) -> None:
    """One that may drop some rows cannot be tried, so the user hears of it, and `verify` finds what it does."""
    with database(
        cli,
        f"CREATE TABLE interactions ({PLAIN})",
        "CREATE TRIGGER some BEFORE INSERT ON interactions WHEN NEW.session_id LIKE 'session_3_%' "
        "BEGIN SELECT RAISE(IGNORE); END",
    ):
        pass
    report = cli.load(pairs).report["sources"][0]["sinks"]["sqlite"]
    assert any("the trigger some" in text for text in report["warnings"])
    outcome = cli.here("verify", pairs)
    assert outcome.code == 1
    assert "20 missing" in outcome.stdout


@pytest.mark.fault(51)
def test_a_row_that_is_there_twice_is_a_difference(cli: Cli, pairs: Path) -> None:
    """`verify` compares how often a row is there, where a table's key does not keep it from being doubled."""
    cli.load(pairs)
    with database(
        cli,
        "CREATE TABLE doubled AS SELECT * FROM interactions",
        "DROP TABLE interactions",
        "ALTER TABLE doubled RENAME TO interactions",
        "INSERT INTO interactions SELECT * FROM interactions LIMIT 7",
    ):
        pass
    outcome = cli.here("verify", pairs, "--json")
    assert outcome.code == 1
    found = outcome.report["sinks"]["sqlite"]
    assert (found["compared"], found["missing"], found["altered"], found["extra"]) == (100, 0, 0, 7)
    assert found["first"][0]["kind"] == "extra"


def test_what_others_add_to_our_table_stays(cli: Cli, pairs: Path) -> None:
    """A column and an index of the user's that no row can meet are no reason to refuse."""
    cli.load(pairs)
    with database(
        cli,
        "ALTER TABLE interactions ADD COLUMN note TEXT",
        "CREATE UNIQUE INDEX notes ON interactions (note)",
        "CREATE INDEX by_video ON interactions (video_id)",
    ):
        pass
    assert cli.load(pairs, "--restart").counts("sqlite")["written"] == 100
    assert len(sqlite_rows(cli.folder / "interactions.db")) == 100
