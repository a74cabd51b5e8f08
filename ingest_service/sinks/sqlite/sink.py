"""SQLite: the sink that needs no server.

Rows and checkpoint share one transaction: rows wait in it until the checkpoint of the second commits both. After a
crash both fall back together, so nothing is ever half there.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid4

from ingest_service.errors import ConfigurationError, LocalIOError, Retry
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.rows.schema import Schema
from ingest_service.runtime import fault
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.fields import EVENT_KEY, interaction_of, stored_texts
from ingest_service.sinks.gathering import Gathering, most_waiting
from ingest_service.sinks.sizes import Tally
from ingest_service.sinks.sqlite import items
from ingest_service.sinks.sqlite.file import DatabaseFile
from ingest_service.sinks.sqlite.packed import Packed, merged
from ingest_service.sinks.sqlite.rows import Insertion, insertions, values
from ingest_service.sinks.sqlite.tables import FIELDS, TABLES, add_columns, columns_of, make_key, survey
from ingest_service.sinks.urls import parse_options

if TYPE_CHECKING:
    import polars as pl

fault.declare(
    {
        "sqlite-merge": "chunks are about to be stored together",
        "sqlite-inserted": "part of them is in SQLite's open transaction",
        "sqlite-merged": "all of them are, none is settled",
        "sqlite-commit": "rows and checkpoint are about to be committed together",
        "sqlite-committed": "they are committed",
    }
)

T = TypeVar("T")

_PIECE_ROWS = 1 << 14  # rows in one statement
_PIECE_USERS = 500  # asked for in one statement
# What is wrong with a file, by the beginning of SQLite's name for it.
_REASONS = {
    "SQLITE_NOTADB": "is no SQLite database; name another file",
    "SQLITE_CORRUPT": "is damaged; restore it, or name another file",
    "SQLITE_READONLY": "may not be written; check its rights and those of its folder",
    "SQLITE_CANTOPEN": "cannot be opened; check its path, its rights and those of its folder",
    "SQLITE_CONSTRAINT": "refuses rows by a rule of its table interactions; mend that, or name another file",
    "SQLITE_ERROR": "has tables of these names that are not what this program makes; name another file",
}
_NO_REASON = "cannot be used as a database; check its path and rights"


class SQLiteSink(Sink[Packed]):
    """`sqlite:///relative.db` or `sqlite:////absolute.db`; the file and its tables are made when missing."""

    scheme: ClassVar[str] = "sqlite"
    is_fenced: ClassVar[bool] = True
    is_prepared_whole: ClassVar[bool] = True
    most_waiting: ClassVar[int] = 1 << 22

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, SinkOptions)
        super().__init__(options, can_hang=False)
        path = unquote(parts.path.removeprefix("/"))
        if parts.netloc or not path:
            raise ConfigurationError("A SQLite URL has three slashes and a path: sqlite:///interactions.db.")
        self.path = Path(path)
        if str(self.path) == ":memory:":
            raise ConfigurationError("A database in memory ends with the run, and its rows with it; name a file.")
        # One thread owns the connection: SQLite has one writer anyway, and chunks queue up here.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._file = DatabaseFile(self.path)
        self.place = Place(server=os.path.realpath(self.path))
        self._gathering = Gathering(self._store_together, most_waiting(self.most_waiting, options.rate))
        self.items = items.SQLiteItems(self)
        self._has_key = False
        self._is_closed = False
        self.checkpoints: CheckpointStore = _Checkpoints(self)

    def hold_at_most(self, n_bytes: int) -> None:
        self._gathering.most_bytes = n_bytes

    async def open(self) -> None:
        if self._file.connection is None:
            await self.run(lambda: self._file.open(TABLES))

    async def survey(self, columns: Columns) -> list[Finding]:
        if self._file.connection is None:
            return []  # there is no file yet
        if columns.schema.is_about_items:
            return await self.run(lambda: items.survey(self.connected()))
        names = [*stored_texts(columns.schema), *columns.schema.numbers]
        return await self.run(lambda: survey(self.connected(), names))

    def prepare(self, chunk: Chunk) -> Packed:
        return Packed.of(chunk.columns.take(chunk.last_of_each_key()))

    async def write(self, chunk: Chunk, prepared: Packed) -> Written:
        merged = chunk.accepted - prepared.n
        return Written(prepared.n, merged, stored=await self._gathering.take(prepared)) if prepared.n else Written(0)

    async def _store_together(self, runs: Sequence[Packed]) -> None:
        """Each page of the table is touched once for the rows of all of these."""
        fault.point("sqlite-merge")
        pieces = _insertions_of(merged(runs), self.rate.piece(_PIECE_ROWS))

        def made_ahead() -> asyncio.Task[tuple[int, list[Insertion]] | None]:
            return asyncio.create_task(asyncio.to_thread(next, pieces, None))

        ahead = made_ahead()
        try:
            while (made := await ahead) is not None:
                ahead = made_ahead()
                n_rows, insertions = made
                await self.rate.take(n_rows)
                await self.run(partial(self._insert, insertions))
                self.stored_ahead += n_rows
        finally:
            self.stored_ahead = 0
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
        fault.point("sqlite-merged")

    def _insert(self, insertions: Sequence[Insertion]) -> None:
        connection = self.in_transaction()
        if not self._has_key:
            make_key(connection)
            self._has_key = True
        for insertion in insertions:
            if len(insertion.names) > len(FIELDS):
                add_columns(connection, insertion.names)
            connection.execute(insertion.statement, insertion.parameters)
        fault.point("sqlite-inserted")

    async def remove(self, columns: Columns) -> None:
        stored = values(columns)
        keys = list(zip(stored["user_id"].to_list(), stored["event_key"].to_list(), strict=True))
        delete = "DELETE FROM interactions WHERE user_id = ? AND event_key = ?"
        await self.run(lambda: self.in_transaction().executemany(delete, keys))

    def in_transaction(self) -> sqlite3.Connection:
        """The connection, in a transaction."""
        connection = self.connected()
        if not connection.in_transaction:
            self._file.require_writable()
            connection.execute("BEGIN IMMEDIATE")
        return connection

    def commit(self) -> None:
        """What was written is durable, in the file that the path names."""
        self.connected().commit()
        self._file.require_there()

    def roll_back(self) -> None:
        self._has_key = False  # it may have been made in this very transaction
        self.connected().rollback()

    def connected(self) -> sqlite3.Connection:
        if self._file.connection is None:
            raise RuntimeError("the sink is not open")
        return self._file.connection

    async def assure(self) -> None:
        await self.run(self._file.require_there)

    async def flush(self) -> None:
        await self.run(self.commit)

    async def run(self, job: Callable[[], T]) -> T:
        """A job on the connection's thread, tried again while another program holds the file."""

        def translated() -> T:
            with _errors_translated(self.path):
                result = job()
            self._file.require_unchanged()
            return result

        async def attempt() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._thread, translated)

        return await self.retrier.call(attempt)

    async def check(self, *, create: bool) -> list[Finding]:
        if not create and not self.path.exists():
            is_ready = os.access(self.path.parent, os.W_OK | os.X_OK)
            detail = (
                "will be made by the first run" if is_ready else "cannot be made: its folder is missing or read-only"
            )
            return [Finding(str(self.path), is_ready, detail)]
        await self.open()
        await self.run(lambda: self.connected().execute("SELECT 1 FROM interactions LIMIT 1").fetchall())
        if self._file.is_read_only:
            return [Finding(str(self.path), False, "may only be read; check its rights and those of its folder")]
        return [Finding(str(self.path), True, "can be written")]

    def tally(self, prices: Path | None) -> Tally:
        from ingest_service.sinks.sqlite.sizes import SQLiteTally

        return SQLiteTally()

    def preview(self, columns: Columns) -> list[str]:
        stored = {name: texts.to_list() for name, texts in values(columns).items()}
        return [str(dict(zip(stored, row, strict=True))) for row in zip(*stored.values(), strict=True)]

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.readback import all_expected

        return all_expected(frame, schema)

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA

        names = await self.run(lambda: sorted(columns_of(self.connected())))
        columns = ", ".join(f'"{name}"' for name in names)
        as_declared = {field.name.lower(): field.name for field in schema.fields}
        names = [as_declared.get(name, name) for name in names]
        frames = [pl.DataFrame(schema=STORED_SCHEMA)]
        for first in range(0, len(users), _PIECE_USERS):
            piece = users[first : first + _PIECE_USERS]
            where = f"WHERE user_id IN ({', '.join('?' * len(piece))})"
            select = f"SELECT {columns} FROM interactions {where}"
            rows = await self.run(lambda: self.connected().execute(select, piece).fetchall())  # noqa: B023
            frames.append(await asyncio.to_thread(_stored_frame, rows, names, schema))
        return pl.concat(frames)

    async def recent(self, user_id: UUID | str, limit: int) -> list[VideoInteraction]:
        """A user's newest interactions, newest first."""
        return await self._select("WHERE user_id = ? ORDER BY event_key DESC LIMIT ?", (str(user_id), limit))

    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None, limit: int | None = None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first, or so many of them."""
        low = timestamp_text(since) if since else ""
        high = timestamp_text(until) if until else "~"
        return await self._select(
            "WHERE user_id = ? AND event_key >= ? AND event_key < ? ORDER BY event_key LIMIT ?",
            (str(user_id), low, high, -1 if limit is None else limit),
        )

    async def _select(self, where: str, values: Sequence[object]) -> list[VideoInteraction]:
        def select() -> list[dict[str, Any]]:
            cursor = self.connected().execute(f"SELECT * FROM interactions {where}", values)
            names = [name for name, *_ in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        return [interaction_of(fields) for fields in await self.run(select)]

    def for_items(self) -> "SQLiteSink":
        return self

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """A file of its own in `folder`, which goes with the folder."""
        path = quote(str((folder / f"{uuid4().hex}.db").resolve()))
        query = urlsplit(url).query
        yield f"sqlite:///{path}" + (f"?{query}" if query else "")

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            # On the thread, after whatever still runs there; an open that was cancelled may.
            await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
            self._thread.shutdown(wait=False)


def _insertions_of(parts: Iterator[Columns], size: int) -> Iterator[tuple[int, list[Insertion]]]:
    """What inserts so many rows at once, and how many they are."""
    for part in parts:
        for first in range(0, len(part), size):
            piece = part.take(slice(first, first + size))
            yield len(piece), list(insertions(piece))


def _stored_frame(rows: Sequence[tuple[Any, ...]], names: Sequence[str], schema: Schema) -> "pl.DataFrame":
    """Rows with columns of these names. Those of another data set are null."""
    import polars as pl

    from ingest_service.sinks.readback import STORED_SCHEMA, value_text

    stored = []
    for row in rows:
        fields = dict(zip(names, row, strict=True))
        user, key = fields.pop("user_id"), fields.pop(EVENT_KEY)
        stored.append((str(user or ""), str(key or ""), value_text(schema, fields)))
    return pl.DataFrame(stored, schema=STORED_SCHEMA, orient="row")


class _Checkpoints(CheckpointStore):
    """Table `ingest_checkpoints`. A swap commits the rows that wait, or takes them back with it."""

    def __init__(self, sink: SQLiteSink) -> None:
        self._sink = sink

    async def read(self, stream: str) -> str | None:
        def select() -> str | None:
            row = (
                self._sink.connected()
                .execute(
                    "SELECT body FROM ingest_checkpoints WHERE stream = ? AND sink = ?",
                    (stream, self._sink.name),
                )
                .fetchone()
            )
            return None if row is None else str(row[0])

        return await self._sink.run(select)

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        return await self._sink.run(lambda: self._swap(stream, old, new))

    def _swap(self, stream: str, old: str | None, new: str) -> bool:
        connection = self._sink.in_transaction()
        if old is None:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO ingest_checkpoints VALUES (?, ?, ?)", (stream, self._sink.name, new)
            )
        else:
            cursor = connection.execute(
                "UPDATE ingest_checkpoints SET body = ? WHERE stream = ? AND sink = ? AND body = ?",
                (new, stream, self._sink.name, old),
            )
        if cursor.rowcount == 1:
            fault.point("sqlite-commit")
            self._sink.commit()
            fault.point("sqlite-committed")
            return True
        self._sink.roll_back()
        return False

    async def streams(self) -> list[str]:
        rows = await self._sink.run(
            lambda: (
                self._sink.connected()
                .execute("SELECT stream FROM ingest_checkpoints WHERE sink = ? ORDER BY stream", (self._sink.name,))
                .fetchall()
            )
        )
        return [row[0] for row in rows]


@contextmanager
def _errors_translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "") or type(error).__name__
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise Retry("another program holds the file") from error
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            raise LocalIOError(f"{path} cannot be written ({code}); make room, then run again.") from error
        reason = next((text for start, text in _REASONS.items() if code.startswith(start)), _NO_REASON)
        raise ConfigurationError(f"{path} {reason} ({code}).") from error
