"""Rows that cannot be stored, kept with their reason: JSON Lines, durable before any watermark passes them."""

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ingest_service.errors import LeaseHeld, LocalIOError, SourceChanged
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.mirror import Mirror
from ingest_service.rows.chunk import DeadRow
from ingest_service.runtime import fault
from ingest_service.runtime.durable import sync_folder, take_lock

fault.declare(
    {
        "dead-letters-written": "dead letters are written, not yet synced",
        "dead-letters-synced": "dead letters are synced, their chunk is not offered",
    }
)

FILE_NAME = "dead-letters.jsonl"
REPLAYED_NAME = "replayed.jsonl"  # beside it: the letters that a replay could store, with the sinks that took them
SLICE_BYTES = 8 << 20  # of letters in memory at once
ROW_STAGES = ("parse", "validate")  # refused before any sink; every other stage is a sink's name
_ROWS_AT_ONCE = 1 << 12  # made into lines before they are written: bounds the text in memory
_NEEDED = {"source": str, "line": int, "offset": int, "raw": str, "stage": str, "code": str}


class DeadLetters:
    """The dead letters of one stream. Blocking: the pipeline calls it in a thread, one call at a time."""

    def __init__(
        self,
        folder: Path,
        source: str,
        mirror: Mirror | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.path = folder / FILE_NAME
        self._source = source
        self._mirror = mirror
        self._now = now
        self._known: set[int] = set()  # hashes of the rows that are in already and may come again
        self._replayed: set[tuple[str, int]] = set()  # stages and offsets of those that a replay has stored since
        self._fd = -1
        self._end = 0  # of what this run has read or written

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job.folder, job.source.uri, job.mirror)

    def open(self, *, resume_offset: int, anew: bool = False) -> None:
        """Open for appending. What is in already, from `resume_offset` on, will not be written twice.

        With `anew`, the stream starts again: what an earlier start left is kept under another name.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if anew:
                self._set_aside()
            is_new = not self.path.exists()
            self._fd = _open_locked(self.path, fcntl.LOCK_SH)
            if is_new:
                sync_folder(self.path.parent)
            self._drop_torn_line()
            if self._mirror is not None:
                _bring(self._mirror, self.path)
            self._end = os.fstat(self._fd).st_size
        except OSError as error:
            raise _failed(error) from error
        for letter in read(self.path):
            if letter["source"] != self._source:
                continue
            if letter["offset"] >= resume_offset:
                self._known.add(identity_of(letter))
        for letter in read(self.path.with_name(REPLAYED_NAME), missing_ok=True):
            # By place alone: its bytes may have been edited before the replay.
            if letter["source"] == self._source and letter["offset"] >= resume_offset:
                self._replayed.add((letter["stage"], letter["offset"]))

    def append(self, rows: Iterable[DeadRow]) -> None:
        """Write those rows that are not in yet, and wait until they are on disk."""
        at = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            take_lock(lambda: fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB), self.path)
            self._learn_from_others()
            fresh = list(rows)
            if self._known or self._replayed:
                fresh = [row for row in fresh if not self._is_kept(row)]
            if not fresh:
                return
            for first in range(0, len(fresh), _ROWS_AT_ONCE):
                some = fresh[first : first + _ROWS_AT_ONCE]
                text = "".join(_line(row, self._source, at) for row in some).encode()
                if self._mirror is not None:
                    self._mirror.add(self.path, some[0].offset, text)
                data = memoryview(text)
                while data:
                    data = data[os.write(self._fd, data) :]
            fault.point("dead-letters-written")
            os.fsync(self._fd)
            self._end = os.fstat(self._fd).st_size
            fault.point("dead-letters-synced")
        except OSError as error:
            # After a failed fsync the next one may lie, so this run ends; the next one cuts a torn line off.
            raise _failed(error) from error
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _learn_from_others(self) -> None:
        """A runner that slept past its lease and the one that took over have both read the same rows.

        Neither knows of the other until its next checkpoint, so each looks at what was added to the file meanwhile.
        """
        if os.fstat(self._fd).st_size == self._end:
            return
        self._drop_torn_line()
        added = os.pread(self._fd, os.fstat(self._fd).st_size - self._end, self._end)
        letters = (json.loads(line) for line in added.splitlines())
        self._known |= {identity_of(letter) for letter in letters if letter["source"] == self._source}

    def _is_kept(self, row: DeadRow) -> bool:
        return (row.stage, row.offset) in self._replayed or _identity(row.stage, row.offset, row.raw) in self._known

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _set_aside(self) -> None:
        """Both files, under one number."""
        number = 1
        while any(self._aside(name, number).exists() for name in (FILE_NAME, REPLAYED_NAME)):
            number += 1
        for name in (FILE_NAME, REPLAYED_NAME):
            path = self.path.with_name(name)
            if self._mirror is not None:
                self._mirror.set_aside(path)
            if path.exists():
                fd = _open_locked(path, fcntl.LOCK_SH)
                path.rename(self._aside(name, number))
                os.close(fd)
        sync_folder(self.path.parent)

    def _aside(self, name: str, number: int) -> Path:
        return self.path.with_name(f"{name.removesuffix('.jsonl')}.{number}.jsonl")

    def _drop_torn_line(self) -> None:
        """Cut off what a crash left of a line without its end; its row comes again."""
        size = os.fstat(self._fd).st_size
        end = size
        while end > 0:
            start = max(0, end - (1 << 16))
            newline = os.pread(self._fd, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._fd, end)
        if size:
            os.fsync(self._fd)  # what a run that was killed left is taken for kept, so it must be


class Letters:
    """The letters of some rows of a source: those that begin at these offsets, refused at these stages. Blocks."""

    def __init__(self, job: Job, offsets: range, stages: Collection[str]) -> None:
        self._job = job
        self._offsets = offsets
        self._stages = stages

    def refuse_replayed(self) -> None:
        """SourceChanged if one of them was stored by a replay: maybe edited, so maybe as any record."""
        if any(map(self._is_meant, read(self._job.folder / REPLAYED_NAME, missing_ok=True))):
            raise SourceChanged(
                "The source's last line was continued since it was ingested, and what was its dead letter has been "
                "replayed; use --restart to start it again."
            )

    def remove(self) -> None:
        """Take them out of the file."""
        path = self._job.folder / FILE_NAME
        mirror = self._job.mirror
        if not path.exists() and mirror is None:
            return
        whole = DeadLetters.of(self._job)
        whole.open(resume_offset=self._offsets.stop)  # which cuts off what a crash left of a line
        whole.close()
        if not any(map(self._is_meant, read(path))):
            return
        if mirror is not None:
            mirror.remove(path, (text_of(letter).encode() for letter in read(path) if self._is_meant(letter)))
        with Rewriting(path) as new:
            new.write(letter for letter in read(path) if not self._is_meant(letter))
            new.commit()

    def _is_meant(self, letter: dict[str, Any]) -> bool:
        is_here = letter["source"] == self._job.source.uri and letter["offset"] in self._offsets
        return is_here and letter["stage"] in self._stages


class Rewriting:
    """A new text for a file of dead letters, which takes the old one's place at `commit`, whole or not at all.

    Inside `with`, no run appends to the old one: LeaseHeld if one does. Blocks the caller.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(f"{path.name}.tmp")
        try:
            self._lock = _open_locked(path, fcntl.LOCK_EX)
            self._new.unlink(missing_ok=True)  # of a replay that was killed
            self._file = os.fdopen(os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except OSError as error:
            raise _failed(error) from error

    def __enter__(self) -> Self:
        return self

    def write(self, letters: Iterable[dict[str, Any]]) -> None:
        try:
            self._file.writelines(text_of(letter).encode() for letter in letters)
        except OSError as error:
            raise _failed(error) from error

    def commit(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._new.rename(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise _failed(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # of a full disk; commit has said so
        finally:
            self._new.unlink(missing_ok=True)
            os.close(self._lock)


def bring(job: Job) -> None:
    """Add to a stream's letters here what workers elsewhere have kept. Blocks."""
    if job.mirror is not None:
        letters = DeadLetters.of(job)
        letters.open(resume_offset=0)
        letters.close()


def _bring(mirror: Mirror, path: Path) -> None:
    """To an open file, and to the one beside it of those that were replayed, whose letters are no longer in it."""
    replayed = path.with_name(REPLAYED_NAME)
    gone = set()
    for one in (replayed, path):
        known = {identity_of(letter) for letter in read(one, missing_ok=True)}
        for piece in mirror.pieces(one):
            letters = {identity_of(letter): letter for letter in map(json.loads, piece.splitlines())}
            fresh = [letter for key, letter in letters.items() if key not in known and _place_of(letter) not in gone]
            if fresh:
                append_durably(one, fresh)
            known |= letters.keys()
        gone |= {_place_of(letter) for letter in read(replayed, missing_ok=True)}


def _place_of(letter: dict[str, Any]) -> tuple[str, str, int]:
    return letter["source"], letter["stage"], letter["offset"]


def append_durably(path: Path, letters: Iterable[dict[str, Any]], mirror: Mirror | None = None) -> None:
    """Add letters to a file of them, made when missing, and wait until they are on disk."""
    text = "".join(map(text_of, some := list(letters))).encode()
    if mirror is not None and some:
        mirror.add(path, some[0]["offset"], text)
    try:
        is_new = not path.exists()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise _failed(error) from error


def _open_locked(path: Path, how: int) -> int:
    """Open for appending, shared among runs (LOCK_SH) or for a replay alone (LOCK_EX). LeaseHeld if it cannot be."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd  # and not one that was replaced between the two calls above
        except BlockingIOError:
            os.close(fd)
            raise LeaseHeld(f"Another process is writing {path}; wait for it or stop it.") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def read(path: Path, *, missing_ok: bool = False) -> Iterator[dict[str, Any]]:
    """The dead letters in a file, in order. LocalIOError names a line that is none."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                letter = _parsed(line)
                if letter is None:
                    raise LocalIOError(f"Line {number} of {path} is not a dead letter; repair or remove it.")
                yield letter
    except FileNotFoundError as error:
        if not missing_ok:
            raise _failed(error) from error
    except OSError as error:
        raise _failed(error) from error


def in_slices(letters: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Letters in lists that take about `SLICE_BYTES`; one may be as long as a block of the source."""
    some: list[dict[str, Any]] = []
    size = 0
    for letter in letters:
        some.append(letter)
        size += len(letter["raw"]) + 512
        if size >= SLICE_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        letter: dict[str, Any] = json.loads(line)
        # bool is an int to Python, and no offset to anyone.
        whole = all(type(letter[name]) is kind for name, kind in _NEEDED.items())
        if not whole or not 0 <= letter["offset"] < 1 << 63:
            return None
        raw_of(letter)
        text_of(letter).encode()
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return letter


def _identity(stage: str, offset: int, raw: bytes) -> int:
    """The raw bytes are part of it: what lies behind a watermark may have been rewritten since."""
    return hash((stage, offset, raw))


def identity_of(letter: dict[str, Any]) -> int:
    """Tells letters apart; the same for a letter and for the row that it was made from, within one process."""
    return _identity(letter["stage"], letter["offset"], raw_of(letter))


def id_of(letter: dict[str, Any]) -> str:
    """The same wherever and whenever it is asked for: 16 hexadecimal digits, of the stage, the offset and the row."""
    place = f"{letter['stage']}\0{letter['offset']}\0".encode()
    return hashlib.blake2b(place + raw_of(letter), digest_size=8).hexdigest()


def edited(letter: dict[str, Any], text: str) -> dict[str, Any]:
    """The letter with another text in place of its row, which is kept in `original`."""
    original = {name: letter[name] for name in ("raw", "encoding") if name in letter}
    plain = {name: value for name, value in letter.items() if name != "encoding"}
    return {"original": original, **plain, "raw": text}


def before_edit(letter: dict[str, Any]) -> dict[str, Any]:
    """The letter with the row that the source has."""
    return {**letter, **letter.get("original", {})}


def raw_of(letter: dict[str, Any]) -> bytes:
    raw: str = letter["raw"]
    return base64.b64decode(raw, validate=True) if letter.get("encoding") == "base64" else raw.encode()


def text_of(letter: dict[str, Any]) -> str:
    """One line of the file."""
    return json.dumps(letter, ensure_ascii=False) + "\n"


def _line(row: DeadRow, source: str, at: str) -> str:
    letter: dict[str, Any] = {"source": source, "line": row.line, "offset": row.offset}
    try:
        letter["raw"] = row.raw.decode()
    except UnicodeDecodeError:
        letter["raw"] = base64.b64encode(row.raw).decode()
        letter["encoding"] = "base64"
    letter |= {"stage": row.stage, "code": row.code, "reason": row.reason, "at": at}
    return text_of(letter)


def _failed(error: OSError) -> LocalIOError:
    return LocalIOError(f"The dead letters cannot be written ({error.strerror}); make room or fix the state folder.")
