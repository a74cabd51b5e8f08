"""The file of a database: how it is opened, for reading only where it must be, and whether it is still there."""

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from ingest_service.errors import ConfigurationError, RowsGone

# With 16 KiB a quarter less time a row than with SQLite's 4, with 32 a tenth less again: each chunk touches most pages.
_PAGE_BYTES = 1 << 15
_WAL_BYTES = 1 << 29  # a page that many chunks change is copied from the log into the file once
_BUSY_TIMEOUT_S = 1  # the retrier goes on from there
_UNWRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR_LOCK")  # exFAT and such know no locks


class DatabaseFile:
    """One file, opened at most once. To be used by one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection: sqlite3.Connection | None = None
        self.is_read_only = False
        self._identity: tuple[int, int] | None = None
        self._version: tuple[int, int] | None = None  # of a file that nobody must change while it is read

    def open(self, tables: tuple[str, ...]) -> None:
        """Open it and make those of its tables that are missing; a file that may not be written is opened as it is.

        ConfigurationError where that does not do.
        """
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"There is no folder {self.path.parent} for {self.path.name}; make it first.")
        if self.path.exists() and not self.path.is_file():
            raise ConfigurationError(f"{self.path} is no file that could hold a database; name another one.")
        try:
            self.connection = self._opened_for_writing(tables)
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_UNWRITABLE) or not os.access(self.path, os.R_OK):
                raise
            self.connection = self._opened_for_reading()
            self.is_read_only = True
        self._identity = self._identity_now()

    def _opened_for_writing(self, tables: tuple[str, ...]) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file; an old one keeps its own
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_BYTES // _PAGE_BYTES}")
            for statement in tables:
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _opened_for_reading(self) -> sqlite3.Connection:
        """As it is. Where SQLite may not put its index of the log beside the file, only if there is no log to index."""
        try:
            return self._opened_as("mode=ro")
        except sqlite3.OperationalError as error:
            log = self.path.with_name(f"{self.path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise ConfigurationError(
                    f"{self.path} has rows that wait in {log.name}, which can only be read where its folder may be "
                    "written; make it so, or run this once as a user who may write there."
                ) from error
        connection = self._opened_as("immutable=1")
        self._version = self._version_now()
        return connection

    def _opened_as(self, option: str) -> sqlite3.Connection:
        uri = f"file:{quote(str(self.path.absolute()))}?{option}"
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except BaseException:
            connection.close()
            raise
        if "ingest_checkpoints" not in names:
            connection.close()
            raise ConfigurationError(
                f"{self.path} holds nothing that was loaded, and may not be written; check its rights and its folder's."
            )
        return connection

    def require_writable(self) -> None:
        if self.is_read_only:
            raise ConfigurationError(f"{self.path} may only be read; check its rights and those of its folder.")

    def require_there(self) -> None:
        """RowsGone if its path names another file by now, or none: what is written goes with the last to hold it."""
        if self._identity is not None and self._identity_now() != self._identity:
            raise RowsGone(
                f"{self.path} was deleted or replaced while it was in use, so rows are gone; keep others from doing "
                "so, and run the same command again."
            )

    def require_unchanged(self) -> None:
        """A file that is read without locks must be left alone meanwhile."""
        if self._version is not None and self._version_now() != self._version:
            raise ConfigurationError(f"{self.path} was changed while it was read; run again when nobody writes to it.")

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _stat(self) -> os.stat_result | None:
        try:
            return self.path.stat()
        except FileNotFoundError:
            return None

    def _identity_now(self) -> tuple[int, int] | None:
        found = self._stat()
        return found and (found.st_dev, found.st_ino)

    def _version_now(self) -> tuple[int, int] | None:
        found = self._stat()
        return found and (found.st_size, found.st_mtime_ns)
