"""The command as a user meets it: what files it takes, what it says, what it exits with."""

import asyncio
import bz2
import gzip
import json
import lzma
import os
import pty
import select
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from ingest_service.rows.interaction import VideoInteraction
from ingest_service.sinks.testing.rows import FIRST_MS, interaction, key_of
from tests.faults import TcpProxy
from tests.helpers import HEADER, UNREACHABLE, Cli, create_tables, dynamodb_at, finish, sqlite_rows, wait_for_event


def keys(*records: VideoInteraction) -> set[tuple[str, str]]:
    return {key_of(record) for record in records}


ONE, TWO = interaction(1, 2, FIRST_MS), interaction(30, 40, FIRST_MS + 1_000)
MS_FILE = f"user,item,timestamp\r\n1,2,{FIRST_MS}\r\n30,40,{FIRST_MS + 1_000}\r\n"
ISO_FILE = "userID,videoID,timestamp\n1,2,2020-03-05T00:00:00\n30,40,2020-03-05 00:00:01\n"

# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(MS_FILE, id="as published: ms, CRLF"),
        pytest.param(ISO_FILE, id="as its readme says: ISO"),
        pytest.param(ISO_FILE.replace(",", ", "), id="spaces after commas"),
        pytest.param(ISO_FILE.replace("\n", "  \n").replace("1,", " 1 ,"), id="spaces around fields"),
        pytest.param(f'"user","item","timestamp"\n"1","2","{FIRST_MS}"\n30,"40" ,{FIRST_MS + 1_000}\n', id="quoted"),
        pytest.param("\ufeff" + ISO_FILE, id="BOM"),
        pytest.param(ISO_FILE.replace("\n", "\n\n  \n") + "\n\n", id="blank lines"),
        pytest.param(ISO_FILE.rstrip(), id="no final newline"),
        pytest.param(MS_FILE.rstrip(), id="no final CRLF"),
        pytest.param(ISO_FILE.replace(",", "\t"), id="tabs"),
        pytest.param(ISO_FILE.replace("T00:00:00", "T01:00:00.000000+01:00"), id="zone"),
        pytest.param(gzip.compress(MS_FILE.encode()), id="gzip"),
        pytest.param(gzip.compress(MS_FILE[:40].encode()) + gzip.compress(MS_FILE[40:].encode()), id="gzip members"),
        pytest.param(zstd.compress(ISO_FILE.encode()), id="zstd"),
        pytest.param(bz2.compress(ISO_FILE.encode()), id="bzip2"),
        pytest.param(lzma.compress(ISO_FILE.encode()), id="xz"),
        pytest.param("sep=;\r\n" + MS_FILE.replace(",", ";"), id="sep="),
        pytest.param("\n# exported\n" + ISO_FILE, id="comments"),
    ],
)
def test_files_of_every_kind_are_loaded(cli: Cli, content: str | bytes) -> None:
    """Both real headers load the same rows, however the file is written or packed; nothing is refused."""
    outcome = cli.load(cli.file("pairs.any", content))
    assert cli.rows.keys() == keys(ONE, TWO)
    assert outcome.counts("sqlite") == {
        "read": 2, "accepted": 2, "rejected": 0, "written": 2, "merged": 0, "dead": 0
    }  # fmt: skip
    assert outcome.report["balanced"]
    assert outcome.report["sources"][0]["complete"]


def test_what_was_passed_over_is_told(cli: Cli) -> None:
    """Bytes after a whole gzip file: its rows are loaded, and the report warns, in JSON and for people."""
    file = cli.file("pairs.csv.gz", gzip.compress(MS_FILE.encode()) + b"rubbish")
    (warning,) = cli.load(file).report["sources"][0]["warnings"]
    assert warning == "pairs.csv.gz has bytes after the end of its gzip data; they were passed over"
    assert cli.rows.keys() == keys(ONE, TWO)
    again = cli.here("run", file, "--restart")
    assert (again.code, f"Warning: {warning}\n" in again.stdout) == (0, True)


def test_standard_input_is_loaded(cli: Cli) -> None:
    """`-` reads a pipe to its end, each time anew, and keeps the refused rows of each."""
    for row in (1, 2):
        outcome = cli.run("run", "-", "--json", stdin=f"{HEADER}\n{row},2,{FIRST_MS}\n" + "x,1,1\n" * (3 - row))
        assert (outcome.code, outcome.counts("sqlite")["read"]) == (0, 4 - row)
        assert [letter["line"] for letter in cli.dead_letters] == list(range(3, 6 - row))
    assert cli.rows.keys() == keys(ONE, interaction(2, 2, FIRST_MS))


def test_several_files_and_patterns_are_loaded(cli: Cli) -> None:
    """Each file is a stream of its own, in the order named; a pattern names its files in order of name."""
    for number in range(4):
        cli.file(f"part-{number}.csv", f"{HEADER}\n{number},1,{FIRST_MS}\n")
    outcome = cli.load("part-3.csv", "part-[0-2].csv")
    names = [source["source"].rpartition("/")[2] for source in outcome.report["sources"]]
    assert names == ["part-3.csv", "part-0.csv", "part-1.csv", "part-2.csv"]
    assert len({source["stream"] for source in outcome.report["sources"]}) == 4
    assert cli.rows.keys() == keys(*(interaction(number, 1) for number in range(4)))


def test_a_trailing_integer_is_the_limit(cli: Cli) -> None:
    """`run FILE 1000` loads the first rows only, refused ones included; a file of that name is a file."""
    cli.file("pairs.csv", f"{HEADER}\nbad\n" + "".join(f"{i},1,{FIRST_MS}\n" for i in range(50)))
    outcome = cli.load("pairs.csv", "10")
    assert (outcome.counts("sqlite")["read"], outcome.counts("sqlite")["accepted"]) == (10, 9)
    cli.file("20", f"{HEADER}\n1,2,{FIRST_MS}\n")
    assert len(cli.load("pairs.csv", "20").report["sources"]) == 2


def test_an_own_column_name_is_taken(cli: Cli) -> None:
    """`--column` names a column that no data set knows."""
    cli.file("pairs.csv", f"who,item,timestamp\n1,2,{FIRST_MS}\n")
    cli.load("pairs.csv", "--column", "user=who")
    assert cli.rows.keys() == keys(ONE)


# --- mistakes -------------------------------------------------------------------------------------


def test_the_end_of_a_good_run(cli: Cli) -> None:
    """Exit 0, a readable report on stdout."""
    cli.file("pairs.csv", MS_FILE + "bad\r\n")
    outcome = cli.run("run", "pairs.csv")
    assert outcome.code == 0
    assert "pairs.csv: complete" in outcome.stdout
    assert "3 rows in this run" in outcome.stdout
    assert "dead-letters.jsonl" in outcome.stdout


def test_many_files_have_one_table(cli: Cli) -> None:
    """With the sums; files with refused rows are named, the first of them, and how many had nothing new is said."""
    for number in range(30):
        cli.file(f"part-{number:02}.csv", f"user,item,timestamp\n{number},1,{FIRST_MS}\n" + "x,1,2\n" * (number < 25))
    cli.load("part-00.csv", "part-29.csv")
    outcome = cli.here("run", "part-*.csv", "--max-rejects=100%")
    assert outcome.code == 0
    assert outcome.stdout.count("sink") == 1
    assert "30 files: complete" in outcome.stdout
    (line,) = (line for line in outcome.stdout.splitlines() if "sqlite" in line)
    assert line.replace("│", " ").split() == ["sqlite", "55", "30", "25", "30", "0", "0"]
    assert "52 rows in this run" in outcome.stdout
    assert "2 of the files had nothing new." in outcome.stdout
    assert "of 25 files:" in outcome.stdout
    assert outcome.stdout.count("dead-letters.jsonl") == 20
    assert "and 5 more" in outcome.stdout


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "no such file": (["run", "nowhere.csv"], 66, "There is no file nowhere.csv"),
    "no match": (["run", "*.parquet"], 66, "No file matches '*.parquet'"),
    "a folder": (["run", "folder"], 66, "is a folder"),
    "no such option of a sink": (["run", "good.csv", "--to", "redis://h/0?colour=red"], 78, "has no option 'colour'"),
    "a wrong option of a sink": (["run", "good.csv", "--to", "redis://h/0?consumers=no"], 78, "Option 'consumers'"),
    "no such sink": (["run", "good.csv", "--to", "oracle://db"], 78, "no sink for oracle:// URLs"),
    "no URL": (["run", "good.csv", "--to", "rows.db"], 78, "no sink for"),
    "a sink twice": (["run", "good.csv", "--to", "sqlite:///a", "--to", "sqlite:///b"], 78, "named 'sqlite'"),
    "a folder for a database": (
        ["run", "good.csv", "--to", "sqlite:///folder"],
        78,
        "no file that could hold",
    ),
    "a database in no folder": (["run", "good.csv", "--to", "sqlite:///no/a.db"], 78, "There is no folder"),
    "a text file as database": (["run", "good.csv", "--to", "sqlite:///good.csv"], 78, "is no SQLite database"),
    "no such configuration": (["run", "good.csv", "--config", "no.toml"], 78, "no configuration file"),
    "bad TOML": (["run", "good.csv", "--config", "good.csv"], 78, "is not TOML"),
    "an unknown key": (["run", "good.csv", "--config", "unknown.toml"], 78, "There is no setting 'colour'"),
    "an impossible value": (["run", "good.csv", "--config", "impossible.toml"], 78, "Setting 'limit' is wrong"),
    "no such data set": (["run", "good.csv", "--dataset", "netflix"], 78, "no data set 'netflix'"),
    "a bad checkpoint place": (["run", "good.csv", "--checkpoint", "moon"], 78, "'checkpoint' is wrong"),
    "a bad reject limit": (["run", "good.csv", "--max-rejects", "many"], 78, "'max_rejects' is wrong"),
    "more rejects than rows": (["run", "good.csv", "--max-rejects", "101%"], 78, "'max_rejects' is wrong"),
    "an empty file": (["run", "empty.csv"], 78, "The source is empty"),
    "a binary file": (["run", "binary"], 78, "is this a text file?"),
    "no header": (["run", "headless.csv"], 78, "The header has no column for: user, item, timestamp"),
    "a column missing": (["run", "short.csv"], 78, "ingest-service infer FILE writes a schema"),
    "broken gzip": (["run", "broken.gz"], 74, "breaks off"),
    "broken zstd": (["run", "broken.zst"], 74, "breaks off"),
    "a state folder that is a file": (["run", "good.csv", "--state-dir", "empty.csv"], 74, "dead letters"),
    "checkpoints in a file": (["run", "good.csv", "--checkpoint", "file:empty.csv"], 74, "checkpoint cannot be"),
    "a bad column": (["run", "good.csv", "--column", "user"], 2, "is not ROLE=NAME"),
    "a role of no data set": (["run", "good.csv", "--column", "usr=user"], 2, "has no column 'usr'"),
    "a role of another data set": (["run", "good.csv", "--column", "rating=item"], 2, "no column 'rating'"),
    "a role twice": (["run", "good.csv", "--column", "user=a", "--column", "user=b"], 2, "names user twice"),
    "a column twice": (["run", "good.csv", "--column", "user=a", "--column", "item=a"], 2, "to two roles"),
    "a column for two": (["run", "good.csv", "--column", "user=item"], 2, "would be both user and item"),
    "a checked column for two": (["check", "good.csv", "--column", "user=item"], 2, "would be both user and item"),
    "a role of no data set to check": (["check", "--column", "usr=user"], 2, "has no column 'usr'"),
    "a configured role of none": (["run", "good.csv", "--config", "roles.toml"], 78, "which no data set has"),
    "a column there twice": (["run", "twice.csv"], 78, "--column user=#1"),
    "a tar archive": (["run", "rows.tar"], 78, "a tar archive"),
    "a limit of none": (["run", "good.csv", "0"], 2, "at least 1"),
    "an address of another kind": (["run", "ftp://localhost/a.csv"], 2, "There are no ftp:// sources"),
    "redis is down": (["run", "good.csv", "--to", f"redis://{UNREACHABLE}?retry_budget_s=0.2"], 69, "did not recover"),
    "status of no file": (["status", "nowhere.csv"], 66, "There is no file"),
    "preview of a folder": (["preview", "folder"], 66, "is a folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_a_code(cli: Cli, name: str) -> None:
    """Nothing on stdout, one sentence on stderr that names the thing, no traceback."""
    (cli.folder / "folder").mkdir()
    cli.file("good.csv", MS_FILE)
    cli.file("empty.csv", "")
    cli.file("binary", bytes(range(255, 0, -1)) * 100)
    cli.file("headless.csv", f"1,2,{FIRST_MS}\n")
    cli.file("short.csv", "user,item\n1,2\n")
    cli.file("unknown.toml", "colour = 'red'\n")
    cli.file("impossible.toml", "limit = 0\n")
    cli.file("roles.toml", "columns = {usr = 'a'}\n")
    cli.file("twice.csv", MS_FILE.replace("item", "item,user"))
    cli.file("rows.tar", b"rows.csv".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0") + MS_FILE.encode())
    cli.file("broken.gz", gzip.compress(HEADER.encode() + b"\n" + os.urandom(10_000))[:5_000])
    cli.file("broken.zst", zstd.compress(HEADER.encode() + b"\n" + os.urandom(10_000))[:5_000])
    arguments, code, words = MISTAKES[name]
    outcome = cli.here(*arguments)
    assert (outcome.code, words in outcome.message) == (code, True), outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert outcome.stdout == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(cli: Cli) -> None:
    """A file that may not be read exits 74."""
    cli.file("secret.csv", MS_FILE).chmod(0)
    outcome = cli.run("run", "secret.csv")
    assert (outcome.code, "cannot be read" in outcome.message) == (74, True)


@pytest.mark.parametrize("arguments", [["run"], ["run", "a.csv", "--limit", "0"], ["walk"], ["check", "--colour"]])
def test_wrong_usage(cli: Cli, arguments: list[str]) -> None:
    """What makes no sense as a command line exits 2, with the usage and no traceback."""
    outcome = cli.here(*arguments)
    assert outcome.code == 2
    assert "Usage:" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_an_unknown_variable_is_refused(cli: Cli) -> None:
    """An INGEST_ variable that is no setting is named, not ignored."""
    cli.file("pairs.csv", MS_FILE)
    outcome = cli.run("run", "pairs.csv", INGEST_COLOUR="red")
    assert (outcome.code, "INGEST_COLOUR" in outcome.message) == (78, True)


def test_flags_beat_environment_beats_file_beats_defaults(cli: Cli) -> None:
    """The database is that of the strongest place which names one."""
    cli.file("pairs.csv", MS_FILE)
    cli.file("ingest.toml", 'to = ["sqlite:///from_file.db"]\nlimit = 1\n')
    cli.run_with("pairs.csv")
    cli.run_with("pairs.csv", INGEST_TO="sqlite:///from_environment.db")
    cli.run_with("pairs.csv", "--to", "sqlite:///from_flag.db", INGEST_TO="sqlite:///unused.db")
    assert sorted(path.name for path in cli.folder.glob("*.db")) == [
        "from_environment.db", "from_file.db", "from_flag.db"
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["status"], ["preview", "pairs.csv"], ["run", "pairs.csv", "--json"]])
def test_output_that_nobody_takes(cli: Cli, arguments: list[str]) -> None:
    """A reader that went away, as `head` does, is no fault; a full disk exits 74."""
    cli.file("pairs.csv", MS_FILE)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert finish(cli.start(*arguments, stdout=writing)).code == 0
    finally:
        os.close(writing)
    with Path("/dev/full").open("w") as full:
        outcome = finish(cli.start(*arguments, stdout=full.fileno()))
    assert (outcome.code, "output cannot be written" in outcome.message) == (74, True)


def test_a_log_that_nobody_takes(cli: Cli) -> None:
    """It stops no run, and changes no exit code; nor does one that has no room."""
    cli.file("pairs.csv", MS_FILE)
    reading, gone = os.pipe()
    os.close(reading)
    with os.fdopen(gone, "w") as nobody, Path("/dev/full").open("w") as full:
        for number, stderr in enumerate((nobody, full)):
            path = f"sqlite:///{number}.db"
            assert finish(cli.start("run", "pairs.csv", "--to", path, stderr=stderr.fileno())).code == 0
            assert finish(cli.start("run", "missing.csv", "--to", path, stderr=stderr.fileno())).code == 66
            assert len(sqlite_rows(cli.folder / f"{number}.db")) == MS_FILE.count("\n") - 1


def test_every_command_has_help(cli: Cli) -> None:
    """`--help` and `-h` work everywhere, and say something about each option."""
    outcome = cli.run("--help")
    assert outcome.code == 0
    for command in ("run", "check", "preview", "status"):
        assert command in outcome.stdout
        for flag in ("--help", "-h"):
            help_text = cli.run(command, flag)
            assert (help_text.code, f"{command} [OPTIONS]" in help_text.stdout) == (0, True)


def test_no_arguments_show_the_help(cli: Cli) -> None:
    """The bare command is a question."""
    outcome = cli.run()
    assert outcome.code in (0, 2)
    assert "Usage:" in outcome.stdout + outcome.stderr


# --- check, preview, status -----------------------------------------------------------------------


def test_check_of_what_works(cli: Cli, redis_db_url: str) -> None:
    """One line for each thing looked at, exit 0."""
    outcome = cli.run("check", "--to", redis_db_url, "--to", "sqlite:///interactions.db")
    assert outcome.code == 0
    assert [line.split()[:2] for line in outcome.stdout.splitlines()] == [
        ["ok", "redis"],
        ["ok", "redis"],
        ["ok", "sqlite"],
    ]


def test_check_makes_missing_tables(cli: Cli, dynamodb_url: str, table: str) -> None:
    """Without --create a missing table exits 69; with it, the table is made, and a run finds it."""
    url = dynamodb_at(dynamodb_url, table)
    cli.file("pairs.csv", MS_FILE)
    missing = cli.here("run", "pairs.csv", "--to", url)
    assert (missing.code, "check --create" in missing.message) == (78, True)
    outcome = cli.here("check", "--to", url)
    assert (outcome.code, outcome.stdout.count("BAD")) == (69, 2)
    outcome = cli.here("check", "--to", url, "--create")
    assert (outcome.code, outcome.stdout.count("was made")) == (0, 2)
    assert cli.here("check", "--to", url).code == 0
    assert cli.load("pairs.csv", "--to", url).counts("dynamodb")["written"] == 2


def test_check_of_what_is_down(cli: Cli) -> None:
    """A sink that cannot be reached is told apart from those that can; exit 69."""
    down = f"redis://{UNREACHABLE}/0?retry_budget_s=0.1"
    outcome = cli.run("check", "--to", down, "--to", "sqlite:///interactions.db")
    assert outcome.code == 69
    assert [line.split()[:2] for line in outcome.stdout.splitlines()] == [["BAD", "redis"], ["ok", "sqlite"]]


def test_preview_writes_nothing(cli: Cli) -> None:
    """It shows what rows would become in each sink, connected or not, and the first refused row."""
    cli.file("pairs.csv", MS_FILE.replace("\r\n30", "\r\nx,y,z\r\n30"))
    outcome = cli.here("preview", "pairs.csv", "-n", "2", "--to", f"redis://{UNREACHABLE}", "--to", "sqlite:///a.db")
    assert outcome.code == 0
    assert outcome.stdout.count(str(ONE.user_id)) == 2
    assert str(TWO.user_id) not in outcome.stdout
    assert "refused: line 3: bad_id" in outcome.stdout
    assert sorted(path.name for path in cli.folder.iterdir()) == ["pairs.csv"]


def test_status_tells_where_each_sink_stands(cli: Cli) -> None:
    """Offset, rows, percent, complete or not: before a run, in the middle, at the end; as text and as JSON."""
    path = cli.file("pairs.csv", f"{HEADER}\n" + "".join(f"{i},1,{FIRST_MS}\n" for i in range(100)))
    assert cli.here("status").code == 0
    cli.load("pairs.csv", "50")
    (middle,) = (json.loads(line) for line in cli.here("status", "--json").stdout.splitlines())
    assert middle["source"] == path.as_uri()
    assert (middle["sink"], middle["read"], middle["complete"]) == ("sqlite", 50, False)
    assert 40 < middle["percent"] < 60
    cli.load("pairs.csv")
    end = json.loads(cli.here("status", "pairs.csv", "--json").stdout)
    assert (end["offset"], end["percent"], end["complete"]) == (path.stat().st_size, 100.0, True)
    assert "complete" in cli.here("status").stdout
    cli.file("other.csv", MS_FILE)
    assert cli.here("status", "other.csv", "--json").stdout == ""


def test_status_of_file_checkpoints(cli: Cli) -> None:
    """Where checkpoints are files, status reads these."""
    cli.file("pairs.csv", MS_FILE)
    cli.load("pairs.csv", "--checkpoint", "file:checkpoints")
    status = json.loads(cli.here("status", "--json", "--checkpoint", "file:checkpoints").stdout)
    assert (status["read"], status["complete"]) == (2, True)
    assert len(cli.rows) == 2


# --- logs and progress ----------------------------------------------------------------------------

PROGRESS = {
    "source", "offset", "percent", "rows_read", "rows_rejected", "rows_per_s", "eta_s", "queue_depth", "rss_mb",
}  # fmt: skip
SINK_PROGRESS = {
    "rows_written", "merged", "dead", "in_flight", "retries", "throttled", "concurrency", "p50_ms", "p99_ms",
    "watermark",
}  # fmt: skip


async def test_logs_are_json(cli: Cli, redis_db_url: str) -> None:
    """Where stderr is no terminal, every line is one object; `progress` and `report` have the fields of section 8."""
    cli.file("pairs.csv", f"{HEADER}\nbad\n" + "".join(f"{i},2,{FIRST_MS}\n" for i in range(100)))
    async with TcpProxy(redis_db_url) as proxy:
        await proxy.slow(10_000)
        process = cli.start("run", "pairs.csv", "--json", "--to", proxy.url)
        first = await asyncio.to_thread(wait_for_event, process, lambda event: True)
        outcome = await asyncio.to_thread(finish, process)
    events = [first, *(json.loads(line) for line in outcome.stderr.splitlines())]
    assert {event["event"] for event in events} == {"progress", "report"}
    for event in events:
        assert datetime.fromisoformat(event["timestamp"]).tzinfo == UTC
        assert event["level"] == "info"
    assert first.keys() >= PROGRESS
    assert first["sinks"]["redis"].keys() >= SINK_PROGRESS
    report = {name: value for name, value in events[-1].items() if name not in ("event", "level", "timestamp")}
    assert report == outcome.report["sources"][0]
    numbers = report["sinks"]["redis"]
    assert numbers["read"] == numbers["accepted"] + numbers["rejected"] == 101
    assert numbers["accepted"] == numbers["written"] + numbers["merged"] + numbers["dead"] == 100


def shown_on_terminal(cli: Cli, source: str) -> str:
    """What a run writes to stderr where that is a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = cli.start("run", source, stderr=theirs)
        shown = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65_536)
        assert process.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    return shown.decode()


def test_many_files_have_one_bar(cli: Cli) -> None:
    """It says how many of them are done, and the rows of all."""
    for number in range(5):
        cli.file(f"part-{number}.csv", MS_FILE)
    text = shown_on_terminal(cli, "part-*.csv")
    assert "5 of 5 files" in text
    assert "100.0%" in text
    assert "10 rows" in text


def test_a_terminal_shows_a_progress_bar(cli: Cli) -> None:
    """Where stderr is a terminal there is a bar with the file's name and its rows, and no JSON."""
    cli.file("pairs.csv", MS_FILE)
    text = shown_on_terminal(cli, "pairs.csv")
    assert "pairs.csv" in text
    assert "100.0%" in text
    assert "2 rows" in text
    assert '{"' not in text


async def test_dynamodb_from_the_command_line(cli: Cli, dynamodb_url: str, table: str) -> None:
    """The same file twice into DynamoDB: the second run finds the checkpoint there."""
    url = dynamodb_at(dynamodb_url, table)
    await create_tables(url)
    cli.file("pairs.csv", MS_FILE)
    outcomes: list[Any] = [await asyncio.to_thread(cli.run_with, "pairs.csv", "--to", url) for _ in range(2)]
    assert [outcome.report["sources"][0]["rows_now"] for outcome in outcomes] == [2, 0]
