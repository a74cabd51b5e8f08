"""Rows that cannot be stored, kept with their reason: JSON Lines, durable before any watermark passes them."""

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest_service.chunk import DeadRow
from ingest_service.durable import sync_folder
from ingest_service.errors import LocalIOError

FILE_NAME = "dead-letters.jsonl"
_ROWS_AT_ONCE = 1 << 12  # made into lines before they are written: bounds the text in memory
_NEEDED = {"source", "line", "offset", "raw", "stage", "code"}

CODES = {
    "wrong_arity": "fewer or more fields than the header",
    "unclosed_quote": "a quoted field that never ends",
    "bad_quote": "text after a closing quote",
    "invalid_utf8": "bytes that are not UTF-8",
    "nul_byte": "a NUL byte",
    "record_too_long": "longer than 1 MiB",
    "bad_id": "an id that is not a 64-bit integer",
    "bad_timestamp": "neither ISO 8601 nor Unix time, or a date that does not exist",
    "timestamp_out_of_range": "before 1970 or after 2261",
    "bad_rating": "not 0.5 to 5.0 stars in halves",
    "wrong_type": "the sink holds something else under the row's key",
    "item_too_large": "larger than the sink takes",
    "bad_key": "a key that the sink does not take",
    "duplicate_key": "another document has the row's value in a unique index of the sink",
    "unknown_movie": "a movie that was not loaded",
    "refused": "the sink refused the row for a reason of its own",
}


class DeadLetters:
    """The dead letters of one stream. Blocking: the pipeline calls it in a thread, one call at a time."""

    def __init__(self, folder: Path, source: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = folder / FILE_NAME
        self._source = source
        self._now = now
        self._known: set[int] = set()  # hashes of the rows that are in already and may come again
        self._fd = -1

    def open(self, *, resume_offset: int, anew: bool = False) -> None:
        """Open for appending. What is in already, from `resume_offset` on, will not be written twice.

        With `anew`, the stream starts again: what an earlier start left is kept under another name.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if anew:
                self._set_aside()
            is_new = not self.path.exists()
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if is_new:
                sync_folder(self.path.parent)
            self._drop_torn_line()
        except OSError as error:
            raise _failed(error) from error
        for letter in read(self.path):
            if letter["source"] != self._source:
                continue
            if letter["offset"] >= resume_offset:
                self._known.add(_identity(letter["stage"], letter["offset"], _raw_of(letter)))

    def append(self, rows: Iterable[DeadRow]) -> None:
        """Write those rows that are not in yet, and wait until they are on disk."""
        fresh = list(rows)
        if self._known:
            fresh = [row for row in fresh if _identity(row.stage, row.offset, row.raw) not in self._known]
        if not fresh:
            return
        at = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            for first in range(0, len(fresh), _ROWS_AT_ONCE):
                lines = (_line(row, self._source, at) for row in fresh[first : first + _ROWS_AT_ONCE])
                data = memoryview("".join(lines).encode())
                while data:
                    data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError as error:
            # After a failed fsync the next one may lie, so this run ends; the next one cuts a torn line off.
            raise _failed(error) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _set_aside(self) -> None:
        if not self.path.exists():
            return
        number = 1
        while (aside := self.path.with_name(f"dead-letters.{number}.jsonl")).exists():
            number += 1
        self.path.rename(aside)
        sync_folder(self.path.parent)

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
            os.fsync(self._fd)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The dead letters in a file, in order. LocalIOError names a line that is none."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    letter = json.loads(line)
                    whole = isinstance(letter, dict) and letter.keys() >= _NEEDED
                except ValueError:
                    whole = False
                if not whole:
                    raise LocalIOError(f"Line {number} of {path} is not a dead letter; repair or remove it.")
                yield letter
    except OSError as error:
        raise _failed(error) from error


def _identity(stage: str, offset: int, raw: bytes) -> int:
    """The raw bytes are part of it: what lies behind a watermark may have been rewritten since."""
    return hash((stage, offset, raw))


def _raw_of(letter: dict[str, Any]) -> bytes:
    raw: str = letter["raw"]
    return base64.b64decode(raw) if letter.get("encoding") == "base64" else raw.encode()


def _line(row: DeadRow, source: str, at: str) -> str:
    letter: dict[str, Any] = {"source": source, "line": row.line, "offset": row.offset}
    try:
        letter["raw"] = row.raw.decode()
    except UnicodeDecodeError:
        letter["raw"] = base64.b64encode(row.raw).decode()
        letter["encoding"] = "base64"
    letter |= {"stage": row.stage, "code": row.code, "reason": row.reason, "at": at}
    return json.dumps(letter, ensure_ascii=False) + "\n"


def _failed(error: OSError) -> LocalIOError:
    return LocalIOError(f"The dead letters cannot be written ({error.strerror}); make room or fix the state folder.")
