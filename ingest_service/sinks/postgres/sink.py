"""PostgreSQL: interactions as rows of a table, in columns of their own types, and the checkpoint beside them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID, uuid4

import numpy as np

from ingest_service.errors import ConfigurationError
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns, stable_order
from ingest_service.rows.interaction import INTERACTION, ITEM, VideoInteraction
from ingest_service.rows.schema import FieldKind, Schema
from ingest_service.sinks.base import Finding, Sink, Written
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.fields import interaction_of
from ingest_service.sinks.postgres import tables
from ingest_service.sinks.postgres.address import PostgresOptions, parse, postgres_url_with
from ingest_service.sinks.postgres.checkpoints import PostgresCheckpoints
from ingest_service.sinks.postgres.copy_rows import Values, tuples, with_zero_bytes
from ingest_service.sinks.postgres.items import PostgresItems
from ingest_service.sinks.postgres.pieces import STAGED, Piece, Target, target
from ingest_service.sinks.postgres.reading import Reading
from ingest_service.sinks.postgres.session import Connection, Session
from ingest_service.sinks.postgres.tables import Table, quoted
from ingest_service.sinks.sizes import Tally
from ingest_service.sinks.urls import split_url

if TYPE_CHECKING:
    import polars as pl

_PIECE_ROWS = 1 << 16
_PIECE_BYTES = 12 << 20
_PIECE_USERS = 500  # asked for in one statement


class PostgresSink(Sink[list[Ints]]):
    """`postgresql://user@host/database?table=…&schema=…`; what else stands in the query goes to libpq, as do PG…
    variables and ~/.pgpass. The tables are made when missing, if the user may.
    """

    scheme: ClassVar[str] = "postgresql"
    is_fenced: ClassVar[bool] = True
    options: PostgresOptions

    def __init__(self, url: str, usual: Schema = INTERACTION) -> None:
        """usual: what the table is made for where nobody says what it will hold."""
        uri, options = parse(url)
        super().__init__(options)
        self._session = Session(uri, options, self.name, self.retrier)
        self._url = url
        self._usual = usual
        self.items = PostgresItems(self._session, options.schema_name, options.item_table)
        self._fitted: dict[Schema, tuple[Target, dict[str, str]]] = {}
        self._makes = True  # what is missing
        self._makes_keys = False
        self._is_made = False
        parts = split_url(uri)
        self._table = tables.place(options.schema_name, options.table)
        host = parts.netloc.rpartition("@")[2]
        self.place = Place(f"{options.schema_name}.{options.table}", f"{host}{parts.path}" if host else "")
        self.checkpoints: CheckpointStore = PostgresCheckpoints(self._session, self.name, self._version)

    def hold_at_most(self, n_bytes: int) -> None:
        self._session.hold_at_most(n_bytes)

    async def open(self) -> None:
        named = await self._session.open()
        if not self.place.server:  # the URL leaves it to the environment
            self.place = Place(self.place.name, named)

    # --- writing ------------------------------------------------------------------------------------

    def prepare(self, chunk: Chunk) -> list[Ints]:
        """The rows to store in pieces, user by user as in the primary key: that halves the server's work."""
        rows = chunk.last_of_each_key()
        if not len(rows):
            return []
        schema = chunk.columns.schema
        users = chunk.columns.texts[schema.owner].take(rows).prefixes()
        is_uuid = any(field.name == schema.owner and field.kind is FieldKind.UUID for field in schema.fields)
        rows = rows[stable_order(users >> np.uint64(32)) if is_uuid else np.argsort(users, kind="stable")]
        widths = sum(np.broadcast_to(chunk.columns.texts[name].widths, chunk.accepted) for name in schema.texts)
        ends = np.cumsum(np.asarray(widths)[rows])
        first, pieces = 0, []
        while first < len(rows):
            fitting = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + _PIECE_BYTES, side="right"))
            last = max(first + 1, min(first + self.rate.piece(_PIECE_ROWS), fitting))
            pieces.append(rows[first:last])
            first = last
        return pieces

    async def write(self, chunk: Chunk, prepared: list[Ints]) -> Written:
        dead: list[DeadRow] = []
        if not prepared:
            return Written(0, chunk.accepted)
        target, types = await self._target(chunk.columns.schema)
        making = asyncio.create_task(self._made(chunk, prepared[0], target, types))
        try:
            for number in range(len(prepared)):
                piece, rows, unfit = await making
                if number + 1 < len(prepared):
                    making = asyncio.create_task(self._made(chunk, prepared[number + 1], target, types))
                reason = "It has a zero byte, which PostgreSQL's texts cannot hold."
                dead += [chunk.dead_row(row, self.name, "refused", reason) for row in unfit]
                await self.rate.take(len(piece))
                refused = await self._session.call(
                    lambda connection, piece=piece: self._session.put(connection, piece),  # type: ignore[misc]
                    moves_rows=True,
                )
                dead += [chunk.dead_row(int(rows[at]), self.name, why.code, why.reason) for at, why in refused.items()]
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
        n_rows = sum(map(len, prepared))
        return Written(n_rows - len(dead), chunk.accepted - n_rows, dead)

    async def _made(
        self, chunk: Chunk, rows: Ints, target: Target, types: dict[str, str]
    ) -> tuple[Piece, Ints, list[int]]:
        """A piece, its rows, and those that cannot be among them."""

        def make() -> tuple[Piece, Ints, list[int]]:
            columns = chunk.columns.take(rows)
            unfit = with_zero_bytes([columns.texts[name] for name in sorted(columns.schema.free_texts)])
            kept = np.delete(rows, unfit)
            if len(unfit):
                columns = chunk.columns.take(kept)
            return Piece(target, tuples(_values(columns, types), types)), kept, rows[unfit].tolist()

        return await asyncio.to_thread(make)

    async def remove(self, columns: Columns) -> None:
        target, types = await self._target(columns.schema)
        piece = Piece(target, await asyncio.to_thread(lambda: tuples(_values(columns, types), types)))

        async def delete(connection: Connection) -> None:
            await self._session.begin(connection)
            await self._session.writer.stage(connection, piece)
            await connection.execute(f"DELETE FROM {target.table} there USING {STAGED} staged WHERE {target.same}")
            await self._session.commit_rows(connection)

        await self._session.call(delete)

    async def flush(self) -> None:
        await self._session.call(self._session.commit_rows)

    # --- the tables ---------------------------------------------------------------------------------

    async def _found(self, connection: Connection) -> Table | None:
        return await Table.of(connection, self.options.schema_name, self.options.table)

    async def _version(self, connection: Connection, make: bool) -> str | None:
        """Of the table with the rows; where nobody looked before, the tables may still have to be made."""
        if make and not self._is_made:
            await self._make_tables(connection, self._usual)
        return await tables.version_of(connection, self.options.schema_name, self.options.table)

    async def epoch(self) -> str:
        """The table, and the server's own history, which is another one after a failover or from a backup."""

        async def ask(connection: Connection) -> str:
            row = await (
                await connection.execute(
                    "SELECT (SELECT system_identifier FROM pg_control_system()), oid, CASE WHEN pg_is_in_recovery()"
                    " THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
                    " FROM pg_database WHERE datname = current_database()"
                )
            ).fetchone()
            return ".".join(map(str, (*(row or ()), await self._version(connection, True))))

        return await self._session.call(ask)

    async def _make_tables(self, connection: Connection, schema: Schema) -> None:
        """Those that are missing; the lock is for runners that begin at once."""
        name = self.options.schema_name
        missing = await Table.of(connection, name, tables.CHECKPOINTS) is None or await self._found(connection) is None
        if missing:
            await self._session.begin(connection)
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('ingest-service'))")
            if await Table.of(connection, name, tables.CHECKPOINTS) is None:
                await connection.execute(tables.create_checkpoints(name))
            if await self._found(connection) is None:
                await connection.execute(tables.create_table(name, self.options.table, schema))
            await self._session.commit_rows(connection)
        self._is_made = True

    async def _target(self, schema: Schema) -> tuple[Target, dict[str, str]]:
        """Where records of a data set go, and the types of the columns. ConfigurationError if they cannot."""
        if schema not in self._fitted:
            for finding in await self._surveyed(schema):
                if not finding.ok:
                    raise ConfigurationError(f"{self.name}: {finding.what}: {finding.detail}")
            table = await self._session.call(self._found)
            assert table is not None, "the survey makes it"
            columns = [field.name for field in schema.fields]
            has_triggers = bool(table.triggers)
            fitted = target(self._table, columns, tables.key_of(schema), has_triggers=has_triggers)
            self._fitted[schema] = fitted, table.types(schema)
        return self._fitted[schema]

    async def survey(self, columns: Columns) -> list[Finding]:
        return await self._surveyed(columns.schema)

    async def _surveyed(self, schema: Schema) -> list[Finding]:
        """What such records would meet. What is missing is made before, unless this only looks."""
        what = f"table {self.place.name}"

        async def look(connection: Connection) -> list[Finding]:
            table = await self._found(connection)
            if table is None:
                if not self._makes:
                    return []
                await self._make_tables(connection, schema)
                return [Finding(what, True, "was made")]
            if self._makes_keys and table.is_own and not table.has_key(schema):
                await connection.execute(tables.create_key(self.options.schema_name, self.options.table, schema))
                table = await self._found(connection) or table
            findings = tables.survey(what, table, schema)
            lacking = tables.lacking(table, schema)
            if lacking and self._makes and all(finding.ok for finding in findings):
                await connection.execute(
                    tables.add_columns(self.options.schema_name, self.options.table, lacking, schema)
                )
            return findings

        return await self._session.call(look)

    async def check(self, *, create: bool) -> list[Finding]:
        self._makes = self._makes_keys = create
        await self.open()

        async def look(connection: Connection) -> list[Finding]:
            row = await (
                await connection.execute(
                    "SELECT has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE'),"
                    " has_database_privilege(current_database(), 'TEMPORARY')"
                    " FROM pg_namespace WHERE nspname = %s",
                    (self.options.schema_name,),
                )
            ).fetchone()
            what = f"schema {self.options.schema_name}"
            if row is None:
                return [Finding(what, False, "is missing; make it with CREATE SCHEMA, or name another with ?schema=")]
            may_use, may_create, may_stage = row
            if not may_use:
                return [Finding(what, False, "may not be used by this user; GRANT USAGE on it")]
            findings = [Finding(what, True, "can be reached")]
            if not may_stage:
                detail = "lets this user make no temporary tables; GRANT TEMPORARY on it"
                findings.append(Finding("database", False, detail))
            for name in (self.options.table, tables.CHECKPOINTS):
                findings += await self._looked_at(connection, name, may_create=may_create, create=create)
            return findings

        return await self._session.call(look)

    async def _looked_at(self, connection: Connection, name: str, *, may_create: bool, create: bool) -> list[Finding]:
        what = f"table {self.options.schema_name}.{name}"
        table = await Table.of(connection, self.options.schema_name, name)
        if table is None:
            if create and may_create:
                return []  # the survey makes it
            if may_create:
                return [Finding(what, True, "will be made by the first run")]
            detail = "is missing, and this user may make none; let one who may run `check --create`"
            return [Finding(what, False, detail)]
        if table.missing_rights:
            detail = f"may not be used as it must be; GRANT {', '.join(table.missing_rights)} on it to this user"
            return [Finding(what, False, detail)]
        return [Finding(what, True, "can be written")]

    # --- reading ------------------------------------------------------------------------------------

    def tally(self, prices: Path | None) -> Tally:
        from ingest_service.sinks.postgres.sizes import PostgresTally

        return PostgresTally()

    def preview(self, columns: Columns) -> list[str]:
        shown = {name: columns.texts[name].to_list() for name in columns.schema.texts}
        shown |= {name: columns.numbers[name].tolist() for name in columns.schema.numbers}
        return [str(dict(zip(shown, row, strict=True))) for row in zip(*shown.values(), strict=True)]

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.readback import all_expected

        return all_expected(frame, schema)

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA, frame_of_stored

        frames = [pl.DataFrame(schema=STORED_SCHEMA)]
        reading = await self._reading()
        for first in range(0, len(users) if reading else 0, _PIECE_USERS):
            piece = users[first : first + _PIECE_USERS]
            assert reading is not None
            rows = await self._session.call(lambda connection: reading.of_users(connection, piece, schema))  # noqa: B023
            frames.append(await asyncio.to_thread(frame_of_stored, rows, schema))
        return pl.concat(frames)

    async def recent(self, user_id: UUID | str, limit: int) -> list[VideoInteraction]:
        """A user's newest interactions, newest first."""
        reading = await self._reading()
        if reading is None:
            return []
        found = await self._session.call(lambda connection: reading.newest(connection, str(user_id), limit))
        return [interaction_of(fields) for fields in found]

    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None, limit: int | None = None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first, or so many of them."""
        reading = await self._reading()
        if reading is None:
            return []
        found = await self._session.call(
            lambda connection: reading.between(connection, str(user_id), since, until, limit)
        )
        return [interaction_of(fields) for fields in found]

    async def _reading(self) -> Reading | None:
        table = await self._session.call(self._found)
        if table is not None and not {INTERACTION.owner, *INTERACTION.key} <= table.columns.keys():
            raise ConfigurationError(f"{self.name}: table {self.place.name} has no interactions; see `check`.")
        return None if table is None else Reading(self._table, table)

    def for_items(self) -> "PostgresSink":
        return PostgresSink(postgres_url_with(self._url, table=self.options.item_table), ITEM)

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """A schema of its own in the same database, dropped on leaving."""
        name = f"ingest_trial_{uuid4().hex[:12]}"
        sink = PostgresSink(url)
        try:
            await sink.open()
            await sink._execute(f"CREATE SCHEMA {quoted(name)}")
            yield postgres_url_with(url, schema=name)
        finally:
            await sink._execute(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS {quoted(name)} CASCADE")
            await sink.close()

    async def _execute(self, statement: str) -> None:
        async def execute(connection: Connection) -> None:
            await connection.execute(statement)

        await self._session.call(execute)

    async def close(self) -> None:
        await self._session.close()


def _values(columns: Columns, types: dict[str, str]) -> dict[str, Values]:
    """The fields by name; the record's time as a number where it goes into a column for times."""
    values: dict[str, Values] = {name: columns.texts[name] for name in columns.schema.texts}
    time = columns.schema.key[0]
    if types[time] == "timestamptz":
        values[time] = columns.times
    return values | {name: columns.numbers[name] for name in columns.schema.numbers}
