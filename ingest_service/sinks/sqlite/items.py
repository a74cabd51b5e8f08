"""Table `items`: what is known of items, a column a field. It is made when it is first written to."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ingest_service.rows.interaction import ITEM
from ingest_service.sinks.base import Finding
from ingest_service.sinks.items import Fields, ItemTable, RefusedItem

T = TypeVar("T")

_KEY = ITEM.owner
_MAKE = f"CREATE TABLE IF NOT EXISTS items ({_KEY} TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID"
_PIECE_IDS = 500  # in one statement
_WHAT = "table items"


class Connected(Protocol):
    """What is needed of the sink."""

    async def run(self, job: Callable[[], T]) -> T: ...

    def in_transaction(self) -> sqlite3.Connection: ...

    def connected(self) -> sqlite3.Connection: ...


class SQLiteItems(ItemTable):
    """In the transaction of the sink's checkpoint, like its rows."""

    def __init__(self, sink: Connected) -> None:
        self._sink = sink

    async def put(self, items: Mapping[str, Fields]) -> Mapping[str, RefusedItem]:
        if items:
            await self._sink.run(lambda: self._put(items))
        return {}

    def _put(self, items: Mapping[str, Fields]) -> None:
        connection = self._sink.in_transaction()
        names = list(next(iter(items.values())))
        _make(connection, names)
        listed, places = ", ".join(f'"{name}"' for name in (_KEY, *names)), ", ".join("?" * (1 + len(names)))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in names)
        connection.executemany(
            f"INSERT INTO items ({listed}) VALUES ({places}) ON CONFLICT ({_KEY}) DO UPDATE SET {changes}",
            [(item, *fields.values()) for item, fields in items.items()],
        )

    async def get(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        def select() -> dict[str, dict[str, Any]]:
            connection = self._sink.connected()
            if not _columns(connection):
                return {}
            found: dict[str, dict[str, Any]] = {}
            for first in range(0, len(ids), _PIECE_IDS):
                piece = ids[first : first + _PIECE_IDS]
                cursor = connection.execute(
                    f"SELECT * FROM items WHERE {_KEY} IN ({', '.join('?' * len(piece))})", piece
                )
                names = [name for name, *_ in cursor.description]
                rows = [dict(zip(names, row, strict=True)) for row in cursor]
                found |= {row.pop(_KEY): {name: one for name, one in row.items() if one is not None} for row in rows}
            return found

        return await self._sink.run(select)

    async def remove(self, ids: Sequence[str], names: Sequence[str]) -> None:
        def clear() -> None:
            connection = self._sink.in_transaction()
            _make(connection, names)
            nothing = ", ".join(f'"{name}" = NULL' for name in names)
            connection.executemany(f"UPDATE items SET {nothing} WHERE {_KEY} = ?", [(one,) for one in ids])

        await self._sink.run(clear)


def survey(connection: sqlite3.Connection) -> list[Finding]:
    """One that somebody else has made must have the id as its key."""
    there = _columns(connection)
    has_key = (
        _KEY in there
        and connection.execute(
            "SELECT 1 FROM pragma_index_list('items') AS list WHERE list.\"unique\" AND NOT list.partial AND "
            "(SELECT group_concat(lower(name)) FROM pragma_index_info(list.name)) = ?",
            (_KEY,),
        ).fetchone()
    )
    if there and not has_key:
        detail = f"is not keyed by {_KEY}, so it is not for what is known of items; rename it, or name another file."
        return [Finding(_WHAT, False, detail)]
    return []


def _columns(connection: sqlite3.Connection) -> set[str]:
    """In lower case; none where there is no such table."""
    return {row[1].lower() for row in connection.execute("PRAGMA table_info(items)")}


def _make(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    connection.execute(_MAKE)
    there = _columns(connection)
    for name in names:
        if name.lower() not in there:
            connection.execute(f'ALTER TABLE items ADD COLUMN "{name}"')
