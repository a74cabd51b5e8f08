"""Runs, and where the service keeps them: one SQLite file, so that none is lost with the process.

A run waits as `queued`, is `running` while its process lives, and ends `done`, `failed` or `cancelled`. Every change is
on disk when its call returns. All calls block; the service makes them in threads of the store's own, by `look` and
`change`.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from ingest_service.errors import ConfigurationError, IngestError, LocalIOError
from ingest_service.runtime.escaped import escaped
from ingest_service.runtime.tasks import finish_in
from ingest_service.service.store_file import connect, open_file, translated

FILE_NAME = "service.db"
State = Literal["queued", "running", "done", "failed", "cancelled"]
LOADS = ("run", "replay")  # the kinds of tasks that load rows into sinks; others are steps, by whose name they are
STATES: tuple[State, ...] = ("queued", "running", "done", "failed", "cancelled")
LIVE: tuple[State, ...] = ("queued", "running")
MOST_DEATHS = 3  # of the service in a row, while one run was at work
_SUSPECT = (
    f"The service died {MOST_DEATHS} times in a row while this run was at work, so it is kept apart; "
    "look for the cause in the service's log, then retry it."
)
_PRUNED_AT_ONCE = 100
_PROBE_BYTES = 16 << 10  # more than there may be room for by chance, in pages that the journal has already

P = ParamSpec("P")
T = TypeVar("T")

_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    identity TEXT NOT NULL,
    uri TEXT NOT NULL,
    task TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before TEXT NOT NULL DEFAULT '',
    cancel INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    reason TEXT,
    progress TEXT,
    report TEXT,
    deaths INTEGER NOT NULL DEFAULT 0,
    request_key TEXT
);
"""
_COLUMNS = {"deaths": "INTEGER NOT NULL DEFAULT 0", "request_key": "TEXT"}  # which version 0.1 did not have
_SCHEMA = """
CREATE INDEX IF NOT EXISTS by_state ON runs (state, number);
CREATE INDEX IF NOT EXISTS by_identity ON runs (identity, number);
CREATE INDEX IF NOT EXISTS by_uri ON runs (uri, number);
CREATE INDEX IF NOT EXISTS by_request_key ON runs (request_key) WHERE request_key IS NOT NULL;
CREATE TABLE IF NOT EXISTS probe (id INTEGER PRIMARY KEY, content BLOB);
CREATE TABLE IF NOT EXISTS counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL);
INSERT OR IGNORE INTO counts VALUES ('queued', 0), ('running', 0), ('done', 0), ('failed', 0), ('cancelled', 0);
CREATE TRIGGER IF NOT EXISTS counted_in AFTER INSERT ON runs BEGIN
    UPDATE counts SET n = n + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER IF NOT EXISTS counted_out AFTER DELETE ON runs BEGIN
    UPDATE counts SET n = n - 1 WHERE state = OLD.state;
END;
CREATE TRIGGER IF NOT EXISTS counted_over AFTER UPDATE OF state ON runs WHEN OLD.state <> NEW.state BEGIN
    UPDATE counts SET n = n - 1 WHERE state = OLD.state;
    UPDATE counts SET n = n + 1 WHERE state = NEW.state;
END;
"""


@dataclass(frozen=True, slots=True)
class Task:
    """What a run is to do.

    `source` is the canonical address of what it reads, without secrets: no two runs of one source are at work at once.
    `name` is what its command is given: a path or URL, or a step and its options. `sinks` are names of the
    configuration, and `restart` says not to go on where an earlier run stopped. `code`, `letter` and `text` are those
    of the replay (audit/chosen.py).
    """

    kind: str
    source: str
    name: str
    sinks: tuple[str, ...] = ()
    dataset: str = ""
    limit: int | None = None
    restart: bool = False
    origin: str = "api"
    code: str | None = None
    letter: str | None = None
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Run:
    """A task and how it stands. `attempt` counts its starts, `failures` those since it was last asked for."""

    number: int
    task: Task
    state: State
    created_at: str
    started_at: str | None
    finished_at: str | None
    attempt: int
    failures: int
    cancel: bool
    exit_code: int | None
    reason: str | None
    progress: dict[str, Any] | None = field(repr=False)
    report: dict[str, Any] | None = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.number)

    def as_json(self, progress: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A Run of the API; `progress` is newer than what is stored."""
        return {
            "id": self.id,
            "kind": self.task.kind,
            "source": escaped(self.task.source),
            "dataset": self.task.dataset,
            "sinks": list(self.task.sinks),
            "limit": self.task.limit,
            "origin": self.task.origin,
            "state": self.state,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "attempt": self.attempt,
            "exit_code": self.exit_code,
            "reason": escaped(self.reason) if self.reason is not None else None,
            "progress": progress or self.progress,
            "report": self.report,
        }


class Runs:
    """The store. One process at a time has it: the service holds a lock on its folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._keep = keep
        self.fault: LocalIOError | None = None  # why the last change could not be made, or the last look taken
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = open_file(folder / FILE_NAME, _TABLE, _COLUMNS, _SCHEMA)
            self._reader = connect(folder / FILE_NAME)  # readers do not wait for a commit that is being synced
        except (sqlite3.Error, OSError) as error:
            raise LocalIOError(f"{folder / FILE_NAME} cannot be opened ({type(error).__name__}).") from error
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._lookers = ThreadPoolExecutor(2, "look")
        self._changer = ThreadPoolExecutor(1, "change")

    async def look(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call one that reads the store, in a thread that nothing else holds up."""
        return await finish_in(self._lookers, function, *args, **kwargs)

    async def change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call one that changes the store, in a thread that nothing else holds up."""
        return await finish_in(self._changer, function, *args, **kwargs)

    def announce(
        self, task: Task, identity: str, same: Collection[State], request_key: str | None = None
    ) -> tuple[Run, bool]:
        """Queue a task, unless the newest run of that identity is in one of the states `same`: then it is that one.

        What was asked for under a key is one run, however often it is asked for. Returns the run and whether it is
        new. ConfigurationError if the key was another request's.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT * FROM runs WHERE request_key = ? ORDER BY number DESC LIMIT 1", (request_key,)
            ).fetchone()
            if row is not None:
                if row["task"] != _text(task):
                    raise ConfigurationError("The Idempotency-Key was used for another request; use a new one.")
                return _run(row), False
            row = db.execute(
                "SELECT * FROM runs WHERE identity = ? ORDER BY number DESC LIMIT 1", (identity,)
            ).fetchone()
            if row is not None and row["state"] in same:
                return _run(row), False
            values = (identity, task.source, _text(task), "queued", now(), request_key)
            row = db.execute(
                "INSERT INTO runs (identity, uri, task, state, created_at, request_key) VALUES (?, ?, ?, ?, ?, ?)"
                " RETURNING *",
                values,
            ).fetchone()
            self._prune(db)
            return _run(row), True

    def take(self) -> Run | None:
        """The oldest run that may start now: it is `running` from here on. None if there is none."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE runs SET state = 'running', started_at = :now, finished_at = NULL, attempt = attempt + 1,"
                " exit_code = NULL, reason = NULL WHERE number = (SELECT number FROM runs AS next"
                " WHERE state = 'queued' AND not_before <= :now AND NOT EXISTS"
                " (SELECT 1 FROM runs AS other WHERE other.state = 'running' AND other.uri = next.uri)"
                " ORDER BY number LIMIT 1) RETURNING *",
                {"now": now()},
            ).fetchone()
            if row is None:
                return None
            if _task(row) is None:
                return _run(_failed(db, row["number"], "What the run is to do is not understood; submit it again."))
            return _run(row)

    def finish(
        self,
        number: int,
        state: State,
        *,
        exit_code: int | None,
        reason: str | None,
        progress: Mapping[str, Any] | None,
        report: Mapping[str, Any] | None,
    ) -> Run:
        """The run's process has ended, and this is what is to be remembered of it."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE runs SET state = ?, finished_at = ?, exit_code = ?, reason = ?, cancel = 0, deaths = 0,"
                " progress = coalesce(?, progress), report = coalesce(?, report) WHERE number = ? RETURNING *",
                (state, now(), exit_code, reason, _text(progress), _text(report), number),
            ).fetchone()
            return _run(row)

    def requeue(
        self, number: int, *, not_before: str, exit_code: int, reason: str | None, progress: Mapping[str, Any] | None
    ) -> Run:
        """It failed, and goes on by itself at `not_before`."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE runs SET state = 'queued', not_before = ?, failures = failures + 1, exit_code = ?, reason = ?,"
                " deaths = 0, progress = coalesce(?, progress) WHERE number = ? RETURNING *",
                (not_before, exit_code, reason, _text(progress), number),
            ).fetchone()
            return _run(row)

    def begin_anew(self, number: int, *, exit_code: int, reason: str | None) -> Run:
        """Its file was replaced by another one: queue the run again, from the file's start."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE runs SET state = 'queued', not_before = '', exit_code = ?, reason = ?, deaths = 0,"
                " progress = NULL, task = json_set(task, '$.restart', json('true')) WHERE number = ? RETURNING *",
                (exit_code, reason, number),
            ).fetchone()
            return _run(row)

    def cancel(self, number: int) -> Run | None:
        """A queued run is cancelled; of a running one it is noted that it shall be. Others stay; None: no such run."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET cancel = state = 'running', finished_at = iif(state = 'queued', ?, finished_at),"
                " state = iif(state = 'queued', 'cancelled', state)"
                " WHERE number = ? AND state IN ('queued', 'running')",
                (now(), number),
            )
            return _found(db, number)

    def retry(self, number: int) -> Run | None:
        """A run that has ended is queued again. Others stay; None: no such run."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET state = 'queued', finished_at = NULL, failures = 0, not_before = '', cancel = 0,"
                " deaths = 0"
                " WHERE number = ? AND state IN ('done', 'failed', 'cancelled')",
                (number,),
            )
            return _found(db, number)

    def recover(self, *, died: bool = True) -> int:
        """What ran when the service ended is queued again, or cancelled if that was asked for.

        Where the service died again and again while a run was at work, that run may be why: it is failed.
        """
        with self._transaction() as db:
            db.execute("UPDATE runs SET deaths = iif(?, deaths + 1, 0) WHERE state = 'running'", (died,))
            suspects = "SELECT number FROM runs WHERE state = 'running' AND NOT cancel AND deaths >= ?"
            for row in db.execute(suspects, (MOST_DEATHS,)).fetchall():
                _failed(db, row["number"], _SUSPECT)
            return db.execute(
                "UPDATE runs SET state = iif(cancel, 'cancelled', 'queued'), finished_at = iif(cancel, ?, NULL),"
                " cancel = 0 WHERE state = 'running'",
                (now(),),
            ).rowcount

    def get(self, number: int) -> Run | None:
        with self._looking() as db:
            return _found(db, number)

    def done_among(self, numbers: Collection[int]) -> dict[int, Run]:
        with self._looking() as db:
            rows = db.execute(
                "SELECT * FROM runs WHERE number IN (SELECT value FROM json_each(?)) AND state = 'done'",
                (json.dumps(list(numbers)),),
            )
            return {run.number: run for run in map(_run, rows)}

    def newest_of(self, uri: str) -> Run | None:
        """The last load of a source."""
        with self._looking() as db:
            rows = db.execute("SELECT * FROM runs WHERE uri = ? ORDER BY number DESC LIMIT 50", (uri,))
            return next((run for run in map(_run, rows) if run.task.kind == "run"), None)

    def replays_of(self, uri: str) -> list[Run]:
        """The replays of a source that wait or are at work."""
        with self._looking() as db:
            rows = db.execute("SELECT * FROM runs WHERE uri = ? AND state IN ('queued', 'running')", (uri,))
            return [run for run in map(_run, rows) if run.task.kind == "replay"]

    def page(self, state: State | None, limit: int, before: int | None, source: str = "") -> list[Run]:
        """Runs with numbers below `before`, newest first: those with `source` in their address, in any case."""
        where, values = "number < ?", list[Any]([before if before is not None else (1 << 63) - 1])
        if state is not None:
            where, values = f"state = ? AND {where}", [state, *values]
        if source:
            where, values = f"{where} AND instr(lower(uri), lower(?))", [*values, source]
        with self._looking() as db:
            rows = db.execute(f"SELECT * FROM runs WHERE {where} ORDER BY number DESC LIMIT ?", [*values, limit])
            return [_run(row) for row in rows]

    def counts(self) -> dict[str, int]:
        with self._looking() as db:
            found = dict(db.execute("SELECT state, n FROM counts").fetchall())
        return {state: found[state] for state in STATES}

    def oldest_queued_at(self) -> str | None:
        """When the run that waits longest was announced."""
        with self._looking() as db:
            row = db.execute("SELECT created_at FROM runs WHERE state = 'queued' ORDER BY number LIMIT 1").fetchone()
        return row["created_at"] if row else None

    def probe(self) -> None:
        """LocalIOError if no run could be stored now."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO probe VALUES (1, zeroblob(?))", (_PROBE_BYTES,))

    def close(self) -> None:
        for threads in (self._lookers, self._changer):
            threads.shutdown()
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    def _prune(self, db: sqlite3.Connection) -> None:
        """Forget the oldest that have ended, as far as there are more than `keep`."""
        total = db.execute("SELECT sum(n) FROM counts").fetchone()[0]
        if total > self._keep:
            db.execute(
                "DELETE FROM runs WHERE number IN (SELECT number FROM runs"
                " WHERE state IN ('done', 'failed', 'cancelled') ORDER BY number LIMIT ?)",
                (min(_PRUNED_AT_ONCE, total - self._keep),),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                with self._writer:
                    yield self._writer
                self.fault = None
            except sqlite3.Error as error:
                self.fault = translated(error, FILE_NAME, "written")
                raise self.fault from error

    @contextmanager
    def _looking(self) -> Iterator[sqlite3.Connection]:
        with self._reading:
            try:
                yield self._reader
            except sqlite3.Error as error:
                self.fault = translated(error, FILE_NAME, "read")
                raise self.fault from error


def now() -> str:
    """ISO 8601, UTC; sorts as text."""
    return at(datetime.now(UTC))


def at(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _found(db: sqlite3.Connection, number: int) -> Run | None:
    row = db.execute("SELECT * FROM runs WHERE number = ?", (number,)).fetchone()
    return _run(row) if row else None


def _failed(db: sqlite3.Connection, number: int, reason: str) -> sqlite3.Row:
    row: sqlite3.Row = db.execute(
        "UPDATE runs SET state = 'failed', finished_at = ?, exit_code = ?, reason = ?, deaths = 0 WHERE number = ?"
        " RETURNING *",
        (now(), IngestError.exit_code, reason, number),
    ).fetchone()
    return row


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, Task):
        value = {name: getattr(value, name) for name in Task.__slots__}
    return json.dumps(value)


def _run(row: sqlite3.Row) -> Run:
    return Run(
        number=row["number"],
        task=_task(row) or Task("run", row["uri"], ""),
        state=row["state"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        attempt=row["attempt"],
        failures=row["failures"],
        cancel=bool(row["cancel"]),
        exit_code=row["exit_code"],
        reason=row["reason"],
        progress=json.loads(row["progress"]) if row["progress"] else None,
        report=json.loads(row["report"]) if row["report"] else None,
    )


def _task(row: sqlite3.Row) -> Task | None:
    """None where it is not understood: one such row is no reason to show and run no others."""
    try:
        task = json.loads(row["task"])
        return Task(**{**task, "sinks": tuple(task["sinks"])})
    except (ValueError, KeyError, TypeError):
        return None
