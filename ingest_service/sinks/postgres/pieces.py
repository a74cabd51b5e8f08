"""Pieces of rows on their way into the table, in an open transaction.

Straight by COPY, which is twice as fast as anything that looks for rows that are there. Where it meets one, this piece
and the next few go by a temporary table and `INSERT … ON CONFLICT`: a file that is loaded again meets its rows in each.
Of a piece that has refused rows, halves of halves are tried, and the few rows that are left one by one in the server.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from ingest_service.errors import ConfigurationError
from ingest_service.rows.texts import Texts
from ingest_service.sinks.postgres import errors
from ingest_service.sinks.postgres.copy_rows import HEADER, TRAILER
from ingest_service.sinks.postgres.errors import Refusal, RowRefused
from ingest_service.sinks.postgres.tables import quoted

STAGED = "pg_temp.ingest_staged"
REFUSED = "pg_temp.ingest_refused"
_STAGED_AFTER_A_CLASH = 16  # pieces
_FEWEST_ROWS = 100  # in a statement that was too slow with more
_SENT_BYTES = 1 << 20
_ONE_BY_ONE_ROWS = 2_048  # at most


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go. All names are quoted; `key` are the columns by which a row replaces its earlier self."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    has_triggers: bool = False

    @property
    def listed(self) -> str:
        return ", ".join(self.columns)

    @property
    def upsert(self) -> str:
        return (
            f"INSERT INTO {self.table} AS there ({self.listed}) SELECT {self.listed} FROM {STAGED} {self._on_conflict}"
        )

    @property
    def _on_conflict(self) -> str:
        """What is equal already is not written again, so that a table does not grow by what it has."""
        others = [name for name in self.columns if name not in self.key]
        action = "NOTHING"
        if others:
            changed = ", ".join(f"{name} = EXCLUDED.{name}" for name in others)
            old, new = (", ".join(f"{of}.{name}" for name in others) for of in ("there", "EXCLUDED"))
            action = f"UPDATE SET {changed} WHERE ({old}) IS DISTINCT FROM ({new})"
        return f"ON CONFLICT ({', '.join(self.key)}) DO {action}"

    @property
    def one_by_one(self) -> str:
        """A block that inserts the staged rows each for itself, and notes those that are refused for good."""
        values = ", ".join(f"one.{name}" for name in self.columns)
        return f"""
            DO $$ DECLARE one record; place int := -1; rule text;
            BEGIN
                FOR one IN SELECT * FROM {STAGED} ORDER BY ctid LOOP
                    place := place + 1;
                    BEGIN
                        INSERT INTO {self.table} AS there ({self.listed}) VALUES ({values}) {self._on_conflict};
                    EXCEPTION WHEN OTHERS THEN
                        IF left(SQLSTATE, 2) <> ALL ('{{{",".join(errors.ROW_CLASSES)}}}') THEN RAISE; END IF;
                        GET STACKED DIAGNOSTICS rule = CONSTRAINT_NAME;
                        INSERT INTO {REFUSED} VALUES (place, SQLSTATE, rule);
                    END;
                END LOOP;
            END $$
        """

    @property
    def same(self) -> str:
        """Whether a row of the table and one of those staged have the same key."""
        return " AND ".join(f"there.{name} = staged.{name}" for name in self.key)


def target(table: str, columns: Sequence[str], key: Sequence[str], *, has_triggers: bool) -> Target:
    return Target(table, tuple(map(quoted, columns)), tuple(map(quoted, key)), has_triggers)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows with different keys, as COPY takes them: one after the other in the buffer."""

    target: Target
    rows: Texts

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_bytes(self) -> int:
        return len(self.rows.buffer)

    @property
    def bytes(self) -> memoryview:
        if not len(self):
            return memoryview(b"")
        widths = np.broadcast_to(np.asarray(self.rows.widths), len(self))
        return self.rows.buffer.data[int(self.rows.starts[0]) : int(self.rows.starts[-1] + widths[-1])]

    def part(self, first: int, last: int) -> "Piece":
        return Piece(self.target, self.rows.take(slice(first, last)))

    def without(self, refused: Collection[int]) -> "Piece":
        if not refused:
            return self
        kept = [self.rows.raw(row) for row in range(len(self)) if row not in refused]
        return Piece(self.target, Texts.of_bytes(kept))


class Writer:
    """Puts pieces into the table of an open transaction, and knows what this transaction has beside it."""

    def __init__(self, answered: Callable[[], None]) -> None:
        """answered: is told of each statement that came to its end."""
        self._answered = answered
        self._staged_left = 0
        self._staged_of: Target | None = None  # whose rows the temporary table is for, if there is one
        self._most_rows = 1 << 30

    def forget(self) -> None:
        """The transaction is over."""
        self._staged_of = None

    async def put(self, connection: psycopg.AsyncConnection[Any], piece: Piece) -> dict[int, Refusal]:
        """Store it, and return the rows that are refused, by their place in it."""
        refused: dict[int, Refusal] = {}
        waiting = [(0, len(piece))]
        while waiting:
            first, last = waiting.pop()
            if last - first > self._most_rows:
                waiting += [((first + last) // 2, last), (first, (first + last) // 2)]
                continue
            part = piece.part(first, last)
            try:
                await self._put_whole(connection, part, is_new=len(part) == len(piece))
            except RowRefused:
                if last - first <= _ONE_BY_ONE_ROWS:
                    found = await self._put_one_by_one(connection, part)
                    refused |= {first + row: why for row, why in found.items()}
                else:
                    waiting += [((first + last) // 2, last), (first, (first + last) // 2)]
            except psycopg.errors.QueryCanceled:
                if last - first <= _FEWEST_ROWS:
                    raise
                self._most_rows = (last - first) // 2
                waiting.append((first, last))
        return refused

    async def _put_whole(self, connection: psycopg.AsyncConnection[Any], part: Piece, *, is_new: bool) -> None:
        """All rows or, by RowRefused, none of them."""
        if not len(part):
            return
        if self._staged_left == 0:
            try:
                await self._under_savepoint(connection, part, self._copied)
                return
            except RowRefused as why:
                if why.state != errors.UNIQUE:
                    raise
                self._staged_left = 1 + _STAGED_AFTER_A_CLASH
        self._staged_left -= is_new
        await self._under_savepoint(connection, part, self._upserted)

    async def _under_savepoint(self, connection: psycopg.AsyncConnection[Any], part: Piece, put: Any) -> None:
        await connection.execute("SAVEPOINT piece")
        staged_of = self._staged_of
        try:
            await put(connection, part)
        except psycopg.Error as error:
            why = errors.of_rows(error)
            if why is None and not isinstance(error, psycopg.errors.QueryCanceled):
                raise
            await connection.execute("ROLLBACK TO piece")
            self._answered()
            self._staged_of = staged_of  # made since, it is gone
            raise (why or error) from error
        await connection.execute("RELEASE piece")
        self._answered()

    async def _copied(self, connection: psycopg.AsyncConnection[Any], part: Piece) -> None:
        n_copied = await self._copy(connection, f"{part.target.table} ({part.target.listed})", part)
        if n_copied != len(part):
            raise ConfigurationError(
                f"PostgreSQL keeps {len(part) - n_copied} of {len(part)} rows out without a word, because of a trigger "
                f"on {part.target.table}; drop it, or name another table with ?table=."
            )

    async def _upserted(self, connection: psycopg.AsyncConnection[Any], part: Piece) -> None:
        await self.stage(connection, part)
        await connection.execute(part.target.upsert)
        if part.target.has_triggers:
            await self._require_all(connection, part)

    async def _put_one_by_one(self, connection: psycopg.AsyncConnection[Any], part: Piece) -> dict[int, Refusal]:
        await self.stage(connection, part)
        await connection.execute(
            "CREATE TEMPORARY TABLE ingest_refused (place int, state text, rule text) ON COMMIT DROP"
        )
        await connection.execute(part.target.one_by_one)
        cursor = await connection.execute(f"SELECT place, state, rule FROM {REFUSED}")
        refused = {place: errors.refusal(state, rule) for place, state, rule in await cursor.fetchall()}
        await connection.execute(f"DROP TABLE {REFUSED}")
        self._answered()
        if part.target.has_triggers:
            await self._require_all(connection, part, without=list(refused))
        return refused

    async def _require_all(
        self, connection: psycopg.AsyncConnection[Any], part: Piece, without: Sequence[int] = ()
    ) -> None:
        counting = f"""
            SELECT count(*) FROM (SELECT *, row_number() OVER (ORDER BY ctid) - 1 AS ingest_place FROM {STAGED}) staged
            JOIN {part.target.table} there ON {part.target.same} WHERE ingest_place <> ALL (%s)
        """
        row = await (await connection.execute(counting, (list(without),))).fetchone()
        if row is None or row[0] != len(part) - len(without):
            raise ConfigurationError(
                f"PostgreSQL keeps rows out without a word, because of a trigger on {part.target.table}; "
                "drop it, or name another table with ?table=."
            )

    async def stage(self, connection: psycopg.AsyncConnection[Any], part: Piece) -> None:
        """The rows, and no others, in the temporary table."""
        target = part.target
        if self._staged_of == target:
            await connection.execute(f"TRUNCATE {STAGED}")
        else:
            await connection.execute(f"DROP TABLE IF EXISTS {STAGED}")
            await connection.execute(
                f"CREATE TEMPORARY TABLE ingest_staged ON COMMIT DROP AS"
                f" SELECT {target.listed} FROM {target.table} WITH NO DATA"
            )
            self._staged_of = target
        await self._copy(connection, f"{STAGED} ({target.listed})", part)

    async def _copy(self, connection: psycopg.AsyncConnection[Any], into: str, part: Piece) -> int:
        """How many rows were taken."""
        data = part.bytes
        async with connection.cursor() as cursor:
            async with cursor.copy(f"COPY {into} FROM STDIN (FORMAT binary)") as copying:
                await copying.write(HEADER)
                for at in range(0, len(data), _SENT_BYTES):
                    await copying.write(data[at : at + _SENT_BYTES])
                    self._answered()  # a slow line takes its time, and takes something
                await copying.write(TRAILER)
            return cursor.rowcount
