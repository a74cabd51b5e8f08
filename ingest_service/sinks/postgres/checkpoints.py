"""Checkpoints in PostgreSQL: a table of their own, changed in the transaction of the rows.

One belongs to the table that its rows are in: after that was dropped and made anew, or emptied with TRUNCATE, there is
no checkpoint of it.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ingest_service.sinks.checkpoints import CheckpointStore
from ingest_service.sinks.postgres.session import Connection, Session

Version: TypeAlias = Callable[[Connection, bool], Awaitable[str | None]]


class PostgresCheckpoints(CheckpointStore):
    """`version`: that of the table with the rows; with True one that is missing is made."""

    def __init__(self, session: Session, sink: str, version: Version) -> None:
        self._session = session
        self._sink = sink
        self._version = version

    async def read(self, stream: str) -> str | None:
        async def select(connection: Connection) -> str | None:
            if (version := await self._version_read(connection)) is None:
                return None
            row = await (
                await connection.execute(
                    f"SELECT body FROM {self._session.checkpoints} WHERE stream = %s AND sink = %s AND of_table = %s",
                    (stream, self._sink, version),
                )
            ).fetchone()
            return None if row is None else str(row[0])

        return await self._session.call(select)

    async def streams(self) -> list[str]:
        async def select(connection: Connection) -> list[str]:
            if (version := await self._version_read(connection)) is None:
                return []
            cursor = await connection.execute(
                f"SELECT stream FROM {self._session.checkpoints} WHERE sink = %s AND of_table = %s ORDER BY 1",
                (self._sink, version),
            )
            return [row[0] for row in await cursor.fetchall()]

        return await self._session.call(select)

    async def _version_read(self, connection: Connection) -> str | None:
        """None where there are no checkpoints yet."""
        found = await (await connection.execute("SELECT to_regclass(%s)", (self._session.checkpoints,))).fetchone()
        return await self._version(connection, False) if found and found[0] else None

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        async def change(connection: Connection) -> bool:
            version = await self._version(connection, True)
            assert version is not None, "it is made"
            return await self._session.swap(connection, stream, old, new, version)

        return await self._session.call(change)
