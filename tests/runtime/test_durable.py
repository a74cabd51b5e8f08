"""Locks around files that several runs write, and names that are taken once."""

import asyncio
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from ingest_service.errors import LeaseHeld
from ingest_service.pipeline.dead_letter import DeadLetters
from ingest_service.rows.chunk import DeadRow
from ingest_service.runtime import durable
from ingest_service.runtime.durable import rename_new, take_lock
from ingest_service.sinks.file_checkpoints import FileCheckpoints

# Takes a lock in a process of its own, says so, and keeps it until its input ends.
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def holder(path: Path, how: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOLDER, str(path), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.fault(26)
def test_who_sleeps_with_a_lock_holds_nobody_up_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the dead letters nor a file checkpoint wait for ever for a process that was stopped in mid-write."""
    monkeypatch.setattr(durable, "LOCK_S", 0.1)
    letters = DeadLetters(tmp_path, "file:///a.csv")
    letters.open(resume_offset=0, anew=False)
    checkpoints = FileCheckpoints(tmp_path, "redis")
    with holder(tmp_path / "dead-letters.jsonl", "lockf"), pytest.raises(LeaseHeld, match="stopped in the middle"):
        letters.append([DeadRow(10, 2, b"x", "parse", "columns", "Too few.")])
    assert asyncio.run(checkpoints.swap("stream", None, "1"))
    with holder(next(tmp_path.glob("*.lock")), "flock"), pytest.raises(LeaseHeld, match="stopped in the middle"):
        asyncio.run(checkpoints.swap("stream", "1", "2"))
    letters.append([DeadRow(10, 2, b"x", "parse", "columns", "Too few.")])
    assert asyncio.run(checkpoints.swap("stream", "1", "2"))
    letters.close()


def test_a_lock_that_is_held_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """As that of a run which writes its checkpoint."""
    path = tmp_path / "a.lock"
    with holder(path, "flock") as process, path.open("a") as file:
        tries: list[int] = []

        def take() -> None:
            tries.append(1)
            if len(tries) == 2:
                process.communicate()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

        take_lock(take, path)
        assert len(tries) >= 2


@pytest.mark.parametrize("platform", ["linux", "another, without a call for it"])
def test_a_new_name_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """A file that has the name keeps it, and so does the one that was to have it; else there is one file, renamed."""
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("new", "old"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "new", tmp_path / "old")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"new": "new", "old": "old"}
    rename_new(tmp_path / "new", tmp_path / "newer")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"newer": "new", "old": "old"}
