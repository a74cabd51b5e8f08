"""`replay`: what lands leaves the file, what does not stays with its new reason, and nothing is ever lost."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from ingest_service.audit import replay
from ingest_service.audit.letters import chunk_of_letters
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import IngestError, LeaseHeld, LocalIOError
from ingest_service.formats.opening import rows_of
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.run import opened, sinks_of
from ingest_service.sinks.testing.rows import FIRST_MS, interaction, key_of
from tests.helpers import HEADER, UNREACHABLE, Cli

GOOD = [interaction(1 + i, 10 + i) for i in range(6)]
BAD = ["x,1,1", "1,2", f"3,y,{FIRST_MS}", "1,2,never"]


def load(cli: Cli, *arguments: str) -> Path:
    """A file with six good rows and four bad ones, loaded; returns its dead letters."""
    rows = [f"{1 + i},{10 + i},{FIRST_MS}" for i in range(6)]
    cli.load(cli.file("pairs.csv", "\n".join([HEADER, *rows, *BAD, ""])), *arguments)
    (path,) = (cli.folder / ".ingest").rglob(dead_letter.FILE_NAME)
    return path


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    letters = list(dead_letter.read(path))
    change(letters)
    path.write_text("".join(json.dumps(letter) + "\n" for letter in letters))


def mend(*indices: int) -> Callable[[list[dict[str, Any]]], None]:
    """Make the letters at these places good rows of users 100 and on."""

    def change(letters: list[dict[str, Any]]) -> None:
        for index in indices:
            letters[index]["raw"] = f"{100 + index},{index},{FIRST_MS}"

    return change


def replayed(cli: Cli, path: Path, *arguments: str) -> dict[str, int]:
    outcome = cli.here("replay", path, *arguments, "--json")
    assert outcome.code == 0, outcome.stderr
    counts: dict[str, int] = outcome.report
    return counts


def is_verified(cli: Cli, *arguments: str) -> bool:
    outcome = cli.here("verify", "pairs.csv", *arguments)
    assert outcome.code in (0, 1), outcome.stderr
    return outcome.code == 0


# --- what lands and what stays --------------------------------------------------------------------


def test_edited_rows_land_and_leave_the_file(cli: Cli) -> None:
    """Two of four were mended: these are stored, the others stay as they were, and verify counts all of it."""
    path = load(cli)
    before = cli.dead_letters
    edit(path, mend(1, 2))
    assert replayed(cli, path) == {"letters": 4, "landed": 2, "left": 2, "other": 0}
    assert cli.rows.keys() == {key_of(row) for row in [*GOOD, interaction(101, 1), interaction(102, 2)]}
    assert [letter | {"at": ""} for letter in cli.dead_letters] == [before[i] | {"at": ""} for i in (0, 3)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = path.with_name(dead_letter.REPLAYED_NAME)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [(one["offset"], one["sinks"]) for one in dead_letter.read(kept)] == [
        (before[i]["offset"], ["sqlite"]) for i in (1, 2)
    ]
    assert is_verified(cli)
    assert sorted(file.name for file in path.parent.iterdir()) == [dead_letter.FILE_NAME, dead_letter.REPLAYED_NAME]
    assert replayed(cli, path) == {"letters": 2, "landed": 0, "left": 2, "other": 0}


@pytest.mark.parametrize(
    ("raw", "stage", "code"),
    [
        ("1,2,3,4", "parse", "wrong_arity"),
        ("", "parse", "wrong_arity"),
        (f"1,2,{FIRST_MS}\n3,4,{FIRST_MS}", "parse", "wrong_arity"),
        ("1,2,2021-02-30T00:00:00", "validate", "bad_timestamp"),
        ('1,"2', "parse", "unclosed_quote"),
    ],
)
def test_what_does_not_land_stays_with_its_new_reason(cli: Cli, raw: str, stage: str, code: str) -> None:
    """The new text is kept, with why it is refused now, and when."""
    path = load(cli)
    before = cli.dead_letters[0]
    edit(path, lambda letters: letters[0].update(raw=raw))
    assert replayed(cli, path)["landed"] == 0
    after = cli.dead_letters[0]
    assert (after["raw"], after["stage"], after["code"]) == (raw, stage, code)
    assert after["reason"].endswith(".")
    assert (after["offset"], after["line"], after["source"]) == (before["offset"], before["line"], before["source"])
    assert after["at"] > before["at"]
    assert is_verified(cli)


@pytest.mark.parametrize("raw", [f'"100"," 7 ",{FIRST_MS}', f"100,7,{FIRST_MS}\r\n", f"+100,007,{FIRST_MS}\n"])
def test_a_letter_is_read_as_a_row_of_the_file(cli: Cli, raw: str) -> None:
    """Quotes, blanks, signs and a line end are what they are in a file."""
    path = load(cli)
    edit(path, lambda letters: letters[0].update(raw=raw))
    assert replayed(cli, path)["landed"] == 1
    assert key_of(interaction(100, 7)) in cli.rows


def test_own_columns_and_delimiters_hold(cli: Cli) -> None:
    """The layout is that of the header that was loaded, though the source is gone."""
    cli.load(cli.file("pairs.csv", "note;item;who;timestamp\na;1;x;1\n"), "--column", "user=who", "--max-rejects", "1")
    (path,) = (cli.folder / ".ingest").rglob(dead_letter.FILE_NAME)
    (cli.folder / "pairs.csv").unlink()
    edit(path, lambda letters: letters[0].update(raw=f"a;10;100;{FIRST_MS}"))
    assert replayed(cli, path, "--column", "user=who")["landed"] == 1
    assert cli.rows.keys() == {key_of(interaction(100, 10))}


def test_a_mended_sink_gets_only_its_own_letters(cli: Cli, redis_db_url: str) -> None:
    """Redis refused a user's rows; once its key is free they land there, and SQLite is not asked again."""
    key = f"recent:{{{GOOD[2].user_id}}}"
    sinks = ("--to", redis_db_url, "--to", "sqlite:///interactions.db")
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(key, "no sorted set")
        path = load(cli, *sinks)
        assert replayed(cli, path, *sinks) == {"letters": 5, "landed": 0, "left": 5, "other": 0}
        client.delete(key)
        edit(path, lambda letters: letters.__delitem__(0))
        assert replayed(cli, path, "--to", "sqlite:///interactions.db") == {
            "letters": 4, "landed": 0, "left": 4, "other": 1
        }  # fmt: skip
        assert replayed(cli, path, *sinks)["landed"] == 1
        assert client.zcard(key) == 1
    (one,) = dead_letter.read(path.with_name(dead_letter.REPLAYED_NAME))
    assert (one["stage"], one["sinks"]) == ("redis", ["redis"])


def test_a_row_that_one_sink_refuses_lands_in_the_others(cli: Cli, redis_db_url: str) -> None:
    """It then is a dead letter of that sink alone."""
    sinks = ("--to", redis_db_url, "--to", "sqlite:///interactions.db")
    path = load(cli, *sinks)
    key = f"recent:{{{interaction(100, 0).user_id}}}"
    edit(path, mend(0))
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(key, "no sorted set")
        assert replayed(cli, path, *sinks) == {"letters": 4, "landed": 0, "left": 4, "other": 0}
        assert (cli.dead_letters[0]["stage"], cli.dead_letters[0]["code"]) == ("redis", "wrong_type")
        assert key_of(interaction(100, 0)) in cli.rows
        client.delete(key)
    assert is_verified(cli, *sinks)
    assert replayed(cli, path, *sinks) == {"letters": 4, "landed": 1, "left": 3, "other": 0}
    assert is_verified(cli, *sinks)


def test_a_long_file_is_replayed_in_slices(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a slice holds, each letter has its one fate, in the order of the file."""
    monkeypatch.setattr(dead_letter, "SLICE_BYTES", 1_500)
    cli.load(cli.file("pairs.csv", f"{HEADER}\n" + "".join(f"x{i},1,1\n" for i in range(20))), "--max-rejects", "100%")
    (path,) = (cli.folder / ".ingest").rglob(dead_letter.FILE_NAME)
    edit(path, mend(*range(0, 20, 2)))
    assert replayed(cli, path) == {"letters": 20, "landed": 10, "left": 10, "other": 0}
    assert [letter["raw"] for letter in cli.dead_letters] == [f"x{i},1,1" for i in range(1, 20, 2)]
    assert len(cli.rows) == 10
    assert is_verified(cli)


# --- the stream stays as it is --------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", ["sink", "file:checkpoints"])
def test_the_checkpoint_stays_as_it_is(cli: Cli, checkpoint: str) -> None:
    """Position, counts and completeness are those of the run; a later run finds nothing to do."""
    path = load(cli, "--checkpoint", checkpoint)
    before = cli.here("status", "--checkpoint", checkpoint, "--json").report
    edit(path, mend(0))
    assert replayed(cli, path, "--checkpoint", checkpoint)["landed"] == 1
    after = cli.here("status", "--checkpoint", checkpoint, "--json").report
    assert after | {"updated_at": ""} == before | {"updated_at": ""}
    assert cli.load("pairs.csv", "--checkpoint", checkpoint).report["sources"][0]["rows_now"] == 0


def test_a_row_that_landed_is_not_refused_again(cli: Cli) -> None:
    """A run that reads the source again from behind the row does not put it back among the dead letters."""
    path = load(cli)
    edit(path, mend(0, 3))
    assert replayed(cli, path)["landed"] == 2
    (cli.folder / "interactions.db").rename(cli.folder / "old.db")
    cli.load("pairs.csv")
    assert [letter["raw"] for letter in cli.dead_letters] == BAD[1:3]


def test_a_restart_sets_both_files_aside(cli: Cli) -> None:
    """What an earlier start left is kept under one number."""
    path = load(cli)
    edit(path, mend(0))
    replayed(cli, path)
    cli.load("pairs.csv", "--restart")
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["dead-letters.1.jsonl", "dead-letters.jsonl", "replayed.1.jsonl"]
    assert [letter["raw"] for letter in cli.dead_letters] == BAD


def test_a_run_that_holds_the_lease_is_not_disturbed(cli: Cli) -> None:
    """Exit code 73, and neither the file nor the sink has changed."""
    path = load(cli)
    cli.file("pairs.csv", (cli.folder / "pairs.csv").read_text() + "".join(f"7,{i},{FIRST_MS}\n" for i in range(500)))
    edit(path, mend(0))
    before = path.read_bytes()
    running = cli.start("run", "pairs.csv", "--to", "sqlite:///interactions.db?rate=1")
    while running.poll() is None and not cli.here("status", "--json").report["holder"]:
        pass
    outcome = cli.here("replay", path)
    assert outcome.code == 73
    assert "wait for it or stop it" in outcome.message
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert path.read_bytes() == before
    assert replayed(cli, path)["landed"] == 1


def test_a_run_into_another_sink_is_not_disturbed(cli: Cli, tmp_path: Path) -> None:
    """It appends to the same file, so the file is not replaced under it; nor does a run open it meanwhile."""
    path = load(cli)
    letters = dead_letter.DeadLetters(path.parent, "file:///pairs.csv")
    letters.open(resume_offset=0)
    outcome = cli.here("replay", path)
    assert (outcome.code, outcome.message.startswith("Another process is writing")) == (73, True)
    letters.close()
    with dead_letter.Rewriting(path), pytest.raises(LeaseHeld):
        letters.open(resume_offset=0)
    letters.open(resume_offset=0)
    letters.close()


# --- mistakes and mishaps -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '{"raw": "1,2',
        "",
        '{"source": "a", "line": 1, "offset": "1", "raw": "", "stage": "parse", "code": "x"}',
        '{"source": "a", "line": 1, "offset": true, "raw": "", "stage": "parse", "code": "x"}',
        '{"source": "a", "line": 1, "offset": -1, "raw": "", "stage": "parse", "code": "x"}',
        '{"source": "a", "line": 1, "offset": 1, "raw": 5, "stage": "parse", "code": "x"}',
        '{"source": "a", "line": 1, "offset": 1, "raw": "\\ud800", "stage": "parse", "code": "x"}',
        '{"source": "a", "line": 1, "offset": 1, "raw": "1,2", "encoding": "base64", "stage": "parse", "code": "x"}',
        "[" * 100_000,
    ],
)
def test_a_line_that_was_broken_is_named(cli: Cli, line: str) -> None:
    """One sentence with its number, before anything is written; nothing is lost."""
    path = load(cli)
    edit(path, mend(0))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    before = path.read_bytes()
    outcome = cli.here("replay", path)
    assert outcome.code == 74
    assert f"Line 3 of {path} is not a dead letter; repair or remove it." == outcome.message
    assert path.read_bytes() == before
    assert len(cli.rows) == len(GOOD)


def test_other_mistakes_are_said_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    """No such file; a sink that never had the source; letters of two sources; no letters at all."""
    assert cli.here("replay", "nowhere.jsonl").code == 66
    path = load(cli)
    outcome = cli.here("replay", path, "--to", "sqlite:///other.db")
    assert (outcome.code, "has no checkpoint of" in outcome.message) == (78, True)
    before = path.read_bytes()
    edit(path, lambda letters: letters[1].update(source="file:///b.csv"))
    outcome = cli.here("replay", path)
    assert (outcome.code, "several sources" in outcome.message) == (2, True)
    path.write_bytes(before)
    empty = cli.file("empty.jsonl", "")
    assert replayed(cli, empty) == {"letters": 0, "landed": 0, "left": 0, "other": 0}


def test_a_sink_that_fails_halfway_keeps_the_rest_in_the_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had landed by then is out of the file, all others are in it, and a second replay ends the work."""
    monkeypatch.setattr(dead_letter, "SLICE_BYTES", 1)
    path = load(cli)
    edit(path, mend(0, 1, 2, 3))
    calls = 0

    async def attempt() -> replay.ReplayReport:
        (sink,) = sinks_of([f"sqlite:///{cli.folder / 'interactions.db'}"])
        write = sink.write

        async def write_twice(chunk: Any, prepared: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise LocalIOError("The disk is full.")
            return await write(chunk, prepared)

        monkeypatch.setattr(sink, "write", write_twice)
        async with opened([sink]):
            return await replay.replay(path, [sink], MICROLENS, {}, None, asyncio.Event(), lambda **_: None)

    with pytest.raises(IngestError, match="disk is full"):
        asyncio.run(attempt())
    assert [letter["raw"] for letter in cli.dead_letters] == [f"10{i},{i},{FIRST_MS}" for i in (2, 3)]
    assert len(cli.rows) == len(GOOD) + 2
    assert asyncio.run(attempt()) == replay.ReplayReport(letters=2, landed=2)
    assert cli.dead_letters == []
    assert len(cli.rows) == len(GOOD) + 4


def test_a_sink_that_is_down_changes_nothing(cli: Cli) -> None:
    """Exit code 69, and the file is as it was."""
    path = load(cli)
    before = path.read_bytes()
    outcome = cli.here("replay", path, "--to", f"redis://{UNREACHABLE}/0?retry_budget_s=0.2")
    assert outcome.code == 69
    assert path.read_bytes() == before


KILL_POINTS = ("append_durably", "Rewriting.write", "Rewriting.commit", "os.fsync", "Path.rename")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_kill_at_any_step_loses_nothing(cli: Cli, point: str, when: str) -> None:
    """The next replay ends as one that was not killed: each letter in the file, or stored and noted."""
    path = load(cli)
    edit(path, mend(0, 2))
    die_at(cli, point, when, "replay", str(path))
    replayed(cli, path)
    assert [letter["raw"] for letter in cli.dead_letters] == [BAD[1], BAD[3]]
    assert cli.rows.keys() == {key_of(row) for row in [*GOOD, interaction(100, 0), interaction(102, 2)]}
    assert is_verified(cli)
    assert not list(path.parent.glob("*.tmp"))


def die_at(cli: Cli, point: str, when: str, *arguments: str) -> None:
    """Run a command in a process that is killed before or after the first call of a function."""
    program = f"""
import os, signal, sys
from pathlib import Path
from ingest_service.pipeline import dead_letter
from ingest_service.audit import replay
from ingest_service.audit.letters import chunk_of_letters
from ingest_service.cli.app import main
dead_letter.SLICE_BYTES = 1
owner, _, name = "{point}".rpartition(".")
owner = {{"": dead_letter, "Rewriting": dead_letter.Rewriting, "os": os, "Path": Path}}[owner]
real = getattr(owner, name)
def deadly(*arguments, **options):
    if "{when}" == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, deadly)
sys.argv = ["ingest-service", *{arguments!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=cli.folder, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_the_new_file_is_on_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File synced, then renamed, then the folder synced: a loss of power leaves the old text or the new."""
    letters = dead_letter.DeadLetters(tmp_path, "a")
    letters.open(resume_offset=0)
    letters.close()
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(fd: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def recorded_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    with dead_letter.Rewriting(letters.path) as rewriting:
        rewriting.commit()
    assert steps == ["file", "rename", "folder"]


def test_a_row_is_told_from_its_letter_alone() -> None:
    """What is no row is told apart from what is, by its place in the list."""
    letters: list[dict[str, Any]] = [
        {"raw": raw, "line": 2 + i} for i, raw in enumerate(["x,1,1", f"1,2,{FIRST_MS}", "", f"3,4,{FIRST_MS}"])
    ]
    chunk, indices, refused = chunk_of_letters(letters, rows_of(MICROLENS, HEADER))
    assert (indices, [index for index, _ in refused], chunk.lines.tolist()) == ([1, 3], [0, 2], [3, 5])
    assert [chunk.raws.raw(row) for row in range(chunk.accepted)] == [letters[i]["raw"].encode() for i in (1, 3)]


# --- some of them ---------------------------------------------------------------------------------


def ids(cli: Cli) -> list[str]:
    return [dead_letter.id_of(letter) for letter in cli.dead_letters]


def test_those_of_a_code_are_tried_and_no_others(cli: Cli) -> None:
    """The others stay as they are, in their places, though they would land."""
    path = load(cli)
    edit(path, mend(0, 1, 2, 3))
    before = cli.dead_letters
    assert [letter["code"] for letter in before] == ["bad_id", "wrong_arity", "bad_id", "bad_timestamp"]
    assert replayed(cli, path, "--code", "bad_id") == {"letters": 2, "landed": 2, "left": 0, "other": 0}
    assert cli.dead_letters == [before[1], before[3]]
    assert replayed(cli, path, "--code", "bad_id") == {"letters": 0, "landed": 0, "left": 0, "other": 0}
    assert is_verified(cli)


def test_one_is_edited_and_replayed(cli: Cli) -> None:
    """Its new row is stored, and what it was is kept beside it; the same again changes nothing, another row is told."""
    path = load(cli)
    before = cli.dead_letters
    chosen, row = ids(cli)[2], f"100,7,{FIRST_MS}"
    arguments = ("--letter", chosen, f"--text={row}")
    assert replayed(cli, path, *arguments) == {"letters": 1, "landed": 1, "left": 0, "other": 0}
    assert cli.dead_letters == [before[0], before[1], before[3]]
    assert cli.rows.keys() == {key_of(one) for one in [*GOOD, interaction(100, 7)]}
    (kept,) = dead_letter.read(path.with_name(dead_letter.REPLAYED_NAME))
    assert (kept["raw"], kept["original"], kept["sinks"]) == (row, {"raw": BAD[2]}, ["sqlite"])
    assert (kept["reason"], kept["offset"]) == (before[2]["reason"], before[2]["offset"])
    assert is_verified(cli)
    assert replayed(cli, path, *arguments) == {"letters": 0, "landed": 0, "left": 0, "other": 0}
    assert replayed(cli, path, "--letter", chosen)["letters"] == 0
    other = cli.here("replay", path, "--letter", chosen, f"--text=101,7,{FIRST_MS}")
    assert (other.code, "no such dead letter any more" in other.message) == (66, True)
    assert len(cli.rows) == len(GOOD) + 1
    assert len(list(dead_letter.read(path.with_name(dead_letter.REPLAYED_NAME)))) == 1


def test_a_new_row_that_is_refused_leaves_the_letter_as_it_was(cli: Cli) -> None:
    """Exit code 2 with why, and the file has the same bytes: the row of the source and its reason."""
    path = load(cli)
    before = path.read_bytes()
    for text, code in (("1,2,3,4", "wrong_arity"), ("", "wrong_arity"), (f"z,2,{FIRST_MS}", "bad_id"), ("-1", "wrong")):
        outcome = cli.here("replay", path, "--letter", ids(cli)[0], f"--text={text}")
        assert outcome.code == 2 and f"The new text is refused ({code}" in outcome.message
        assert path.read_bytes() == before
    assert not path.with_name(dead_letter.REPLAYED_NAME).exists()
    assert is_verified(cli)


def test_a_new_row_that_one_sink_refuses_is_that_sinks_letter(cli: Cli, redis_db_url: str) -> None:
    """The other has it; the letter is about the new row now, and what the row was stays with it to the end."""
    sinks = ("--to", redis_db_url, "--to", "sqlite:///interactions.db")
    path = load(cli, *sinks)
    row = f"100,7,{FIRST_MS}"
    key = f"recent:{{{interaction(100, 7).user_id}}}"
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(key, "no sorted set")
        assert replayed(cli, path, *sinks, "--letter", ids(cli)[1], f"--text={row}")["left"] == 1
        client.delete(key)
        letter = cli.dead_letters[1]
        assert (letter["stage"], letter["raw"], letter["original"]) == ("redis", row, {"raw": BAD[1]})
        assert key_of(interaction(100, 7)) in cli.rows
        assert is_verified(cli, *sinks)
        only_sqlite = ("--to", "sqlite:///interactions.db", "--letter", ids(cli)[1])
        outcome = cli.here("replay", path, *only_sqlite, "--text=1,2")
        assert (outcome.code, "one of the sink redis" in outcome.message) == (2, True)
        assert replayed(cli, path, *only_sqlite) == {"letters": 1, "landed": 0, "left": 1, "other": 1}
        assert replayed(cli, path, *sinks, "--letter", ids(cli)[1])["landed"] == 1
        assert client.zcard(key) == 1
    assert is_verified(cli, *sinks)
    kept = list(dead_letter.read(path.with_name(dead_letter.REPLAYED_NAME)))
    assert [(one["sinks"], one["original"]) for one in kept] == [
        (["sqlite"], {"raw": BAD[1]}),
        (["redis"], {"raw": BAD[1]}),
    ]


def test_a_row_that_is_no_text_is_edited(cli: Cli) -> None:
    """It is kept in base64, and its new row is plain."""
    cli.load(cli.file("pairs.csv", f"{HEADER}\n".encode() + b"1,\xff,1\n"), "--max-rejects", "1")
    (path,) = (cli.folder / ".ingest").rglob(dead_letter.FILE_NAME)
    (before,) = cli.dead_letters
    assert replayed(cli, path, "--letter", ids(cli)[0], f"--text=100,7,{FIRST_MS}")["landed"] == 1
    (kept,) = dead_letter.read(path.with_name(dead_letter.REPLAYED_NAME))
    assert kept["original"] == {"raw": before["raw"], "encoding": "base64"} and "encoding" not in kept
    assert is_verified(cli)


def test_a_choice_must_make_sense(cli: Cli) -> None:
    """One letter or a code; another text is for one; and the letter must be there."""
    path = load(cli)
    chosen = ids(cli)[0]
    for arguments in (
        ("--letter", chosen, "--code", "bad_id"),
        ("--text", "1,2,3"),
        ("--code", "bad_id", "--text", "1"),
    ):
        assert cli.here("replay", path, *arguments).code == 2
    assert cli.here("replay", path, "--letter", "0" * 16).code == 66


@pytest.mark.fault(86)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_kill_of_an_edit_at_any_step_loses_nothing(cli: Cli, point: str, when: str) -> None:
    """Until the new row is stored and noted, the letter has the old one and its reason; the same again ends it."""
    path = load(cli)
    before = cli.dead_letters
    chosen, row = ids(cli)[1], f"100,7,{FIRST_MS}"
    die_at(cli, point, when, "replay", str(path), "--letter", chosen, f"--text={row}")
    replayed_now = list(dead_letter.read(path.with_name(dead_letter.REPLAYED_NAME), missing_ok=True))
    assert cli.dead_letters == before or (cli.dead_letters == before[:1] + before[2:] and len(replayed_now) == 1)
    replayed(cli, path, "--letter", chosen, f"--text={row}")
    assert cli.dead_letters == before[:1] + before[2:]
    assert cli.rows.keys() == {key_of(one) for one in [*GOOD, interaction(100, 7)]}
    assert {
        (one["raw"], one["original"]["raw"]) for one in dead_letter.read(path.with_name(dead_letter.REPLAYED_NAME))
    } == {(row, BAD[1])}
    assert is_verified(cli)
