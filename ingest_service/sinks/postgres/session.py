"""One connection, and the transaction that is open on it: rows wait there until a checkpoint commits both.

    BEGIN ─► rows, a piece at a time (pieces.py) ─► UPDATE ingest_checkpoints … WHERE body = old ─► COMMIT

The connection may die while this process lives, and takes with it rows that `write` has reported as stored. So the
pieces of the open transaction are kept, and written again by the next one. They are few: where no checkpoint comes for
a while, they are committed without one. Whatever was committed has left its mark on the checkpoint that we hold, by
which a server is found out that has lost it again, as a standby may that lagged and took over.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ingest_service.errors import ConfigurationError, Retry, SinkUnavailable
from ingest_service.runtime import fault
from ingest_service.sinks.postgres import errors
from ingest_service.sinks.postgres.address import PostgresOptions
from ingest_service.sinks.postgres.pieces import Piece, Writer
from ingest_service.sinks.postgres.tables import CHECKPOINTS, place
from ingest_service.sinks.retry import Retrier

fault.declare(
    {
        "postgres-copied": "a piece of a chunk is in PostgreSQL's open transaction",
        "postgres-commit": "rows and checkpoint are about to be committed together",
        "postgres-committed": "they are committed",
    }
)

logging.getLogger("psycopg").addHandler(logging.NullHandler())  # what it would print of a cut connection, we say

T = TypeVar("T")
Connection: TypeAlias = psycopg.AsyncConnection[Any]

KEPT_BYTES = 16 << 20  # of rows that wait for a checkpoint, at most
_FINISH_S = 0.5  # what was cancelled may end first: a connection that is cut takes its transaction along
_CONNECT_S = 10
_BEGIN = """
    BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {lock_ms};
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'
"""
_LOST = (
    "PostgreSQL no longer has what it had confirmed: another runner has taken over, or a standby that lagged did; "
    "run the same command again to go on."
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """The checkpoint that was stored last, as it must be found: every commit changes it."""

    stream: str
    body: str
    mark: int = 0


class Session:
    """To be used through `call`: one job at a time has the connection."""

    def __init__(self, uri: str, options: PostgresOptions, sink: str, retrier: Retrier) -> None:
        self._uri = uri
        self._options = options
        self._sink = sink
        self._retrier = retrier
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._token = ""
        self._is_begun = False
        self._kept: list[Piece] = []
        self._most_bytes = KEPT_BYTES
        self._are_kept_there = True  # in the open transaction
        self._anchor: Anchor | None = None
        self._committing: Anchor | None = None  # of a commit whose reply did not come
        self._took_late: Anchor | None = None  # of such a one, when it was found to have been made
        self._is_lost = False
        self._has_written = False
        self._heard = 0.0  # when the server last ended a statement
        self.writer = Writer(self._answered)
        self.checkpoints = place(options.schema_name, CHECKPOINTS)

    def hold_at_most(self, n_bytes: int) -> None:
        """How much memory the rows may take that wait for a checkpoint."""
        self._most_bytes = n_bytes

    # --- jobs ---------------------------------------------------------------------------------------

    async def call(self, job: Callable[[Connection], Awaitable[T]], *, moves_rows: bool = False) -> T:
        """A job with the connection, done again as long as its fault may pass."""

        async def attempt() -> T:
            async with self._lock:
                return await self._finished(self._tried(job))

        return await self._retrier.call(attempt, moves_rows=moves_rows)

    async def _tried(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await job(await self._connected())
        except psycopg.Error as error:
            await self._give_up_transaction()
            if error.sqlstate == errors.READ_ONLY and self._connection is not None:
                await self._connection.close()  # the server that takes rows by now may be another one
            if error.sqlstate == errors.READ_ONLY and not self._has_written:
                raise ConfigurationError(
                    "PostgreSQL takes no rows there: it is a standby, or read-only; name the primary, or all hosts."
                ) from None
            raise errors.translated(error) from error
        except BaseException:
            await self._give_up_transaction()
            raise

    async def _finished(self, work: Awaitable[T]) -> T:
        """What was begun, while no answer takes `timeout_s`.

        A psycopg call is never cancelled, since it would wait for the server: the connection is cut under it.
        """
        running = asyncio.ensure_future(work)
        self._heard = time.monotonic()
        try:
            while (left_s := self._heard + self._options.timeout_s - time.monotonic()) > 0:
                await asyncio.wait((running,), timeout=left_s)
                if running.done():
                    return running.result()
        except asyncio.CancelledError:
            await asyncio.wait((running,), timeout=_FINISH_S)
            raise
        finally:
            if not running.done():
                self._cut()
                await asyncio.wait((running,), timeout=_FINISH_S)
            if not running.done():  # it is still connecting
                running.cancel()
                await asyncio.wait((running,), timeout=_FINISH_S)
            if running.done() and not running.cancelled():
                running.exception()  # looked at, so that nobody reports it as lost
        raise Retry("no answer in time")

    def _answered(self) -> None:
        self._heard = time.monotonic()
        self._retrier.answered()

    def _cut(self) -> None:
        """Whoever waits for the server learns that the connection is gone."""
        if self._connection is None or self._connection.closed:
            return
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as own:
            own.shutdown(socket.SHUT_RDWR)

    # --- the connection -------------------------------------------------------------------------------

    async def open(self) -> str:
        """Connect, and say to which database."""

        async def named(connection: Connection) -> str:
            return f"{connection.info.host}:{connection.info.port}/{connection.info.dbname}"

        return await self.call(named)

    async def _connected(self) -> Connection:
        if self._is_lost:
            raise SinkUnavailable(_LOST)
        if self._connection is not None and not self._connection.closed:
            return self._connection
        self._forget_transaction()
        token, self._token = self._token, f"ingest-service {uuid.uuid4().hex[:12]}"
        try:
            connection = await psycopg.AsyncConnection.connect(
                self._uri, autocommit=True, prepare_threshold=None, **self._parameters()
            )
        except psycopg.errors.ConnectionTimeout:
            raise await asyncio.to_thread(errors.of_silence, conninfo_to_dict(self._uri)) from None
        except psycopg.Error as error:
            raise errors.of_connecting(error) from None  # its text may quote the URL
        self._connection = connection
        if token:
            # What is left of the connection before would hold its locks until the server notices that we are gone.
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = %s AND usename = current_user",
                (token,),
            )
        await self._look_for_anchor(connection)
        return connection

    def _parameters(self) -> dict[str, Any]:
        given = conninfo_to_dict(self._uri)
        own: dict[str, Any] = {
            "application_name": self._token,
            "connect_timeout": max(2, round(min(_CONNECT_S, self._options.timeout_s, self._retrier.budget_s / 3))),
            "tcp_user_timeout": round(1_000 * self._options.timeout_s),
        }
        if "," in str(given.get("host", "")):
            own["target_session_attrs"] = "read-write"
        own = {name: value for name, value in own.items() if name not in given}
        return own | {"client_encoding": "utf8"}

    async def _look_for_anchor(self, connection: Connection) -> None:
        """Whether the last commit is there; of one whose reply did not come, whether it took."""
        committing, self._committing = self._committing, None
        if committing is not None and await self._found(connection, committing.stream) == committing:
            self._took(committing)
            self._took_late = committing
        elif self._anchor is not None and await self._found(connection, self._anchor.stream) != self._anchor:
            self._is_lost = True
            raise SinkUnavailable(_LOST)

    async def _found(self, connection: Connection, stream: str) -> Anchor | None:
        row = await (
            await connection.execute(
                f"SELECT body, mark FROM {self.checkpoints} WHERE stream = %s AND sink = %s", (stream, self._sink)
            )
        ).fetchone()
        return Anchor(stream, *row) if row else None

    # --- the transaction ------------------------------------------------------------------------------

    async def begin(self, connection: Connection) -> None:
        """Be in a transaction that has the kept pieces."""
        if not self._is_begun:
            self._is_begun = True
            await connection.execute(_BEGIN.format(lock_ms=round(500 * self._options.timeout_s)))
        if not self._are_kept_there:
            for piece in self._kept:
                if await self.writer.put(connection, piece):
                    raise SinkUnavailable(
                        "PostgreSQL refuses rows that it had taken before; run the same command again to go on."
                    )
                self._retrier.progressed()
            self._are_kept_there = True

    async def put(self, connection: Connection, piece: Piece) -> dict[int, errors.Refusal]:
        """Store a piece in the open transaction; returns the rows that are refused, by their place in it."""
        await self.begin(connection)
        refused = await self.writer.put(connection, piece)
        self._kept.append(piece.without(refused))
        self._has_written = True
        fault.point("postgres-copied")
        if sum(one.n_bytes for one in self._kept) >= min(KEPT_BYTES, self._most_bytes):
            await self.commit_rows(connection)
        return refused

    async def commit_rows(self, connection: Connection) -> None:
        """Make what was written durable, without a checkpoint that says so."""
        if not self._is_begun and not self._kept:
            return
        await self.begin(connection)
        anchor = self._anchor
        if anchor is not None:
            marked = await connection.execute(
                f"UPDATE {self.checkpoints} SET mark = mark + 1 WHERE stream = %s AND sink = %s AND body = %s",
                (anchor.stream, self._sink, anchor.body),
            )
            if marked.rowcount != 1:
                self._is_lost = True
                raise SinkUnavailable(_LOST)
            anchor = replace(anchor, mark=anchor.mark + 1)
        await self._commit(connection, anchor)

    async def swap(self, connection: Connection, stream: str, old: str | None, new: str, version: str) -> bool:
        """Commit a checkpoint, and the rows with it, if the text there is `old`."""
        late, self._took_late = self._took_late, None
        if late == Anchor(stream, new):
            return True
        await self.begin(connection)
        if old is None:
            # One that is about another table by this name is none.
            statement = f"""
                INSERT INTO {self.checkpoints} AS there (body, of_table, stream, sink) VALUES (%s, %s, %s, %s)
                ON CONFLICT (stream, sink) DO UPDATE SET body = EXCLUDED.body, of_table = EXCLUDED.of_table, mark = 0
                WHERE there.of_table <> EXCLUDED.of_table
            """
            values = [new, version, stream, self._sink]
        else:
            statement = f"""
                UPDATE {self.checkpoints} SET body = %s, mark = 0
                WHERE of_table = %s AND stream = %s AND sink = %s AND body = %s
            """
            values = [new, version, stream, self._sink, old]
        if (await connection.execute(statement, values)).rowcount != 1:
            await self._give_up_transaction()
            return False
        fault.point("postgres-commit")
        await self._commit(connection, Anchor(stream, new))
        fault.point("postgres-committed")
        return True

    async def _commit(self, connection: Connection, anchor: Anchor | None) -> None:
        self._committing = anchor
        await connection.execute("COMMIT")
        self._took(anchor)

    def _took(self, anchor: Anchor | None) -> None:
        self._anchor, self._committing = anchor, None
        self._kept.clear()
        self._forget_transaction()

    async def _give_up_transaction(self) -> None:
        """What is kept will be written again."""
        if self._connection is not None and self._is_begun and not self._connection.closed:
            try:
                await self._connection.execute("ROLLBACK")
            except psycopg.Error:
                await self._connection.close()
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        self._is_begun = False
        self._are_kept_there = not self._kept
        self.writer.forget()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._kept.clear()
        if connection is not None:
            with suppress(psycopg.Error):
                await connection.close()
