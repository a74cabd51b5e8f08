"""The SQLite file that runs are kept in: made, opened, looked at; and what its errors mean."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from ingest_service.errors import LocalIOError
from ingest_service.runtime.durable import sync_folder

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_WHAT_TO_DO = "stop the service and restore its backup, or move the file away to begin without its runs"


class StoreDamaged(LocalIOError):
    """Waiting and making room do not help."""


def open_file(path: Path, table: str, columns: Mapping[str, str], schema: str) -> sqlite3.Connection:
    """Open it, whole and of this version; made if it is not there. LocalIOError, or StoreDamaged. Blocks.

    `columns` are those of the table that earlier versions did not have. A file is made under another name first, so an
    empty one is never ours: its runs are gone.
    """
    try:
        _require_whole(path)
        if not path.exists():
            _make(path, table + schema)
        path.chmod(0o600)
        connection = connect(path)
        try:
            _look_at(connection, path)
            connection.executescript(table)
            known = {row["name"] for row in connection.execute("PRAGMA table_info(runs)")}
            for name, kind in columns.items():
                if name not in known:
                    connection.execute(f"ALTER TABLE runs ADD COLUMN {name} {kind}")
            connection.executescript(schema)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translated(error, path.name, "opened") from error
    except OSError as error:
        raise LocalIOError(f"{path} cannot be opened ({error.strerror}); mend it and start again.") from error
    return connection


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def translated(error: sqlite3.Error, name: str, what: str) -> LocalIOError:
    """An error of SQLite by its cause, with what to do about it."""
    code, kind = getattr(error, "sqlite_errorcode", 0) & 0xFF, getattr(error, "sqlite_errorname", type(error).__name__)
    if code in _DAMAGE:
        return StoreDamaged(f"{name} is damaged ({kind}); {_WHAT_TO_DO}.")
    advice = "make room" if code in _NO_ROOM else "look at its rights and its disk"
    return LocalIOError(f"{name} cannot be {what} ({kind}); {advice}.")


def _require_whole(path: Path) -> None:
    wal = path.with_name(f"{path.name}-wal")
    if path.exists() and path.stat().st_size == 0:
        raise StoreDamaged(f"{path.name} is empty, so the runs in it are gone; {_WHAT_TO_DO}.")
    if not path.exists() and wal.exists():
        raise StoreDamaged(f"{path.name} is not there, but {wal.name} is; bring it back, or move that away too.")


def _look_at(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreDamaged(f"{path.name} is damaged (quick_check); {_WHAT_TO_DO}.")


def _make(path: Path, script: str) -> None:
    new = path.with_name(f".{path.name}.new")
    for left in path.parent.glob(f"{new.name}*"):
        left.unlink()
    connection = connect(new)
    try:
        connection.executescript(script)
    finally:
        connection.close()
    new.rename(path)
    sync_folder(path.parent)
