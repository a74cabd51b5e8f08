"""Dead letters: kept once, durably, readable by their owner alone."""

import base64
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ingest_service.errors import LocalIOError
from ingest_service.pipeline.dead_letter import DeadLetters, read
from ingest_service.rows.chunk import DeadRow

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def parsed(offset: int, raw: bytes = b"x,2,3") -> DeadRow:
    return DeadRow(offset, offset // 10 + 2, raw, "validate", "bad_id", "user is not an integer within 64 bits.")


def refused(offset: int, stage: str = "redis") -> DeadRow:
    return DeadRow(offset, offset // 10 + 2, b"1,2,3", stage, "wrong_type", "The key holds something else.")


def opened(folder: Path, *, resume_offset: int = 0, anew: bool = False, source: str = "file:///a.csv") -> DeadLetters:
    letters = DeadLetters(folder, source, now=lambda: NOW)
    letters.open(resume_offset=resume_offset, anew=anew)
    return letters


def keep(folder: Path, *rows: DeadRow, **options: Any) -> None:
    letters = opened(folder, **options)
    letters.append(rows)
    letters.close()


def offsets(folder: Path) -> list[int]:
    return [letter["offset"] for letter in read(folder / "dead-letters.jsonl")]


def test_a_row_is_kept_with_where_and_why(tmp_path: Path) -> None:
    """One JSON object a line with the fields of the contract, in a file for its owner only."""
    keep(tmp_path / "a" / "b", parsed(10, 'é,\u2028,"q"'.encode()))
    path = tmp_path / "a" / "b" / "dead-letters.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_bytes()
    assert text.count(b"\n") == 1
    assert json.loads(text) == {
        "source": "file:///a.csv",
        "line": 3,
        "offset": 10,
        "raw": 'é,\u2028,"q"',
        "stage": "validate",
        "code": "bad_id",
        "reason": "user is not an integer within 64 bits.",
        "at": "2026-01-02T03:04:05.000006Z",
    }


@pytest.mark.parametrize("raw", [b"\xff,1,2", bytes(range(256)), b"\xed\xa0\x80"])
def test_bytes_that_are_no_text_are_kept_as_base64(tmp_path: Path, raw: bytes) -> None:
    """What is not UTF-8 says so, and decodes to the very bytes."""
    keep(tmp_path, parsed(10, raw))
    (letter,) = read(tmp_path / "dead-letters.jsonl")
    assert letter["encoding"] == "base64"
    assert base64.b64decode(letter["raw"]) == raw


def test_no_row_is_kept_twice(tmp_path: Path) -> None:
    """When the next run reads it again it is known; a sink's letter is told apart by its sink."""
    rows = [parsed(10), parsed(30), refused(20), refused(20, "sqlite"), refused(10)]
    keep(tmp_path, *rows)
    keep(tmp_path, *rows, parsed(40), refused(50))
    assert offsets(tmp_path) == [10, 30, 20, 20, 10, 40, 50]


def test_a_row_that_was_rewritten_behind_the_watermark_is_kept_too(tmp_path: Path) -> None:
    """The place alone does not make it the same row: its bytes count."""
    keep(tmp_path, parsed(10, b"one"), parsed(20, b"two"))
    keep(tmp_path, parsed(10, b"one"), parsed(20, b"new"))
    assert offsets(tmp_path) == [10, 20, 20]


def test_letters_of_another_source_do_not_count(tmp_path: Path) -> None:
    """Rows at the same place of another source are other rows."""
    keep(tmp_path, parsed(10), refused(20))
    keep(tmp_path, parsed(10), refused(20), source="file:///b.csv")
    assert offsets(tmp_path) == [10, 20, 10, 20]


def test_a_torn_last_line_is_cut_off_and_comes_again(tmp_path: Path) -> None:
    """Whatever a crash left of the last line goes, at every length of it, and its row is written once."""
    keep(tmp_path, parsed(10), parsed(20, b"y" * 200))
    path = tmp_path / "dead-letters.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        keep(tmp_path, parsed(10), parsed(20, b"y" * 200))
        assert path.read_bytes() == whole
    path.write_bytes(whole[: first - 5])
    keep(tmp_path, parsed(10), parsed(20, b"y" * 200))
    assert path.read_bytes() == whole


def test_a_torn_line_longer_than_one_look_is_cut_off(tmp_path: Path) -> None:
    """The search for the last line end goes back as far as it must, to the start of the file if need be."""
    keep(tmp_path, parsed(10))
    path = tmp_path / "dead-letters.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"z" * 200_000)
    opened(tmp_path).close()
    assert path.read_bytes() == whole
    path.write_bytes(b"z" * 200_000)
    opened(tmp_path).close()
    assert path.read_bytes() == b""


@pytest.mark.fault(26)
def test_of_two_runs_that_have_the_file_open_one_keeps_a_row(tmp_path: Path) -> None:
    """A runner that slept, and wakes after another took over, adds nothing that is in already; nor does the other."""
    slept, other = opened(tmp_path), opened(tmp_path)
    slept.append([parsed(10)])
    other.append([parsed(10), parsed(20), parsed(30, b"\xff\r")])
    slept.append([parsed(20), parsed(30, b"\xff\r"), parsed(40)])
    os.write(slept._fd, b'{"source": "file:///a.csv", "off')  # it was killed here
    other.append([parsed(40), parsed(50)])
    assert offsets(tmp_path) == [10, 20, 30, 40, 50]
    slept.close()
    other.close()


def test_a_restart_sets_the_old_letters_aside(tmp_path: Path) -> None:
    """With `anew` the stream starts with none, and each earlier start keeps its own under a number."""
    for _ in range(3):
        keep(tmp_path, parsed(10), anew=True)
    assert offsets(tmp_path) == [10]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dead-letters.1.jsonl",
        "dead-letters.2.jsonl",
        "dead-letters.jsonl",
    ]


def test_append_returns_only_once_the_rows_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written before the fsync, and nothing after it; a new file's folder is synced as well."""
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        synced.append((path.name, path.stat().st_size if path.is_file() else -1))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    letters = opened(tmp_path)
    assert synced == [(tmp_path.name, -1)]
    letters.append([parsed(10), parsed(20)])
    assert synced[1:] == [("dead-letters.jsonl", letters.path.stat().st_size)]
    assert len(synced) == 2
    letters.close()


def test_what_a_killed_run_left_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is in already is not written again, so opening waits until it is on disk."""
    keep(tmp_path, parsed(10))
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    letters = opened(tmp_path)
    assert synced == [letters._fd]
    letters.close()


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.fault(19, 20)
def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A write or fsync that fails is LocalIOError (exit 74), and the row is not taken for kept."""
    letters = opened(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(LocalIOError, match="No space left"):
        letters.append([parsed(10)])
    monkeypatch.undo()
    letters.append([parsed(10)])
    letters.close()
    assert set(offsets(tmp_path)) == {10}


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only some bytes is followed by the rest."""
    letters = opened(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    letters.append([parsed(10), parsed(20)])
    letters.close()
    assert offsets(tmp_path) == [10, 20]


def test_an_unusable_folder_is_an_error(tmp_path: Path) -> None:
    """A file where the state folder should be is LocalIOError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalIOError):
        opened(tmp_path / "file")


@pytest.mark.parametrize("line", [b"{", b"5", b"[]", b"null", b"{}", b"\xff\xfe", b'{"offset": 1}', b""])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    """A line that is no dead letter is LocalIOError with its number, on reading and on opening."""
    keep(tmp_path, parsed(10))
    path = tmp_path / "dead-letters.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(LocalIOError, match="Line 2"):
        list(read(path))
    with pytest.raises(LocalIOError, match="Line 2"):
        opened(tmp_path)


def test_close_can_be_called_twice(tmp_path: Path) -> None:
    """Closing is safe before opening and after closing."""
    letters = DeadLetters(tmp_path, "a")
    letters.close()
    letters.open(resume_offset=0)
    letters.close()
    letters.close()
