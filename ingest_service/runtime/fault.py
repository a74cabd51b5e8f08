"""Named places where a crash test ends this process, as kill -9 would.

Passing one costs a comparison, unless the environment says otherwise: INGEST_TEST_FAULT_POINT=name:n ends the process
when it passes that place for the n-th time, and INGEST_TEST_JOURNAL names a file in which each passing is noted, as
`time name sink start end` (monotonic seconds; the rows that it is about). What was noted survives the kill.
"""

import os
import signal
import time
from itertools import count

POINTS = {
    "lease-taken": "the sink's lease is taken, nothing is read",
    "dead-letters-written": "dead letters are written, not yet synced",
    "dead-letters-synced": "dead letters are synced, their chunk is not offered",
    "before-write": "a chunk is about to be written to a sink",
    "redis-sending": "part of a chunk's commands is on its way to Redis",
    "dynamodb-request": "a batch is about to be sent to DynamoDB",
    "dynamodb-reply": "DynamoDB has acknowledged a batch",
    "mongodb-reply": "MongoDB has acknowledged a batch",
    "sqlite-inserted": "part of a chunk is in SQLite's open transaction",
    "after-write": "the sink has acknowledged the chunk, it is not settled",
    "settled": "the chunk is settled, no checkpoint says so",
    "checkpoint-swap": "a checkpoint is about to be stored",
    "checkpoint-temporary": "a checkpoint file's temporary file is written, not synced",
    "checkpoint-synced": "the temporary file is synced, not renamed",
    "checkpoint-renamed": "it is renamed, the folder not synced",
    "checkpoint-folder-synced": "the folder is synced",
    "sqlite-commit": "rows and checkpoint are about to be committed together",
    "sqlite-committed": "they are committed",
    "checkpoint-swapped": "the checkpoint is stored, the lease does not know yet",
    "checkpoint-saved": "the checkpoint is stored",
}

_NAME, _, _times = os.environ.get("INGEST_TEST_FAULT_POINT", "").partition(":")
_JOURNAL = os.environ.get("INGEST_TEST_JOURNAL", "")
_ARMED = bool(_NAME or _JOURNAL)
_times_left = count(int(_times or 1) - 1, -1)
_journal = os.open(_JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if _JOURNAL else -1


def point(name: str, sink: str = "-", start: int = 0, end: int = 0) -> None:
    """Pass the place `name`; rows [start, end) of the source are what it is about."""
    if _ARMED:
        _pass(name, sink, start, end)


def _pass(name: str, sink: str, start: int, end: int) -> None:
    if _journal >= 0:
        os.write(_journal, f"{time.monotonic():.6f} {name} {sink} {start} {end}\n".encode())
    if name == _NAME and next(_times_left) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
