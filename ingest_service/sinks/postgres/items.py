"""The table of items: a column a field, and the item's id as its key. It is made when it is first written to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ingest_service.rows.interaction import ITEM
from ingest_service.rows.schema import Field, FieldKind
from ingest_service.rows.texts import Texts
from ingest_service.sinks.items import Fields, ItemTable, RefusedItem
from ingest_service.sinks.postgres import tables
from ingest_service.sinks.postgres.copy_rows import Values, tuples
from ingest_service.sinks.postgres.pieces import Piece, target
from ingest_service.sinks.postgres.reading import Reading
from ingest_service.sinks.postgres.session import Connection, Session
from ingest_service.sinks.postgres.tables import Table, quoted

_ZERO = RefusedItem("refused", "It has a zero byte, which PostgreSQL's texts cannot hold.")
_KINDS = {int: FieldKind.INT, float: FieldKind.FLOAT}


class PostgresItems(ItemTable):
    """In the transaction of the sink's checkpoint, like its rows."""

    def __init__(self, session: Session, schema_name: str, name: str) -> None:
        self._session = session
        self._names = schema_name, name
        self._place = tables.place(schema_name, name)

    async def put(self, items: Mapping[str, Fields]) -> Mapping[str, RefusedItem]:
        unfit = {item for item, fields in items.items() if any("\0" in one for one in fields.values() if _is_text(one))}
        fit = {item: fields for item, fields in items.items() if item not in unfit}
        if not fit:
            return dict.fromkeys(unfit, _ZERO)
        names = list(next(iter(fit.values())))

        async def write(connection: Connection) -> dict[int, Any]:
            types = await self._types(connection, next(iter(fit.values())))
            values = {ITEM.owner: Texts.of(list(fit))} | {
                name: _column([fields[name] for fields in fit.values()]) for name in names
            }
            into = target(self._place, list(values), (ITEM.owner,), has_triggers=False)
            return await self._session.put(connection, Piece(into, tuples(values, types)))

        refused = await self._session.call(write, moves_rows=True)
        ids = list(fit)
        found = {ids[row]: RefusedItem(why.code, why.reason) for row, why in refused.items()}
        return found | dict.fromkeys(unfit, _ZERO)

    async def _types(self, connection: Connection, fields: Fields) -> dict[str, str]:
        """Of the columns, those of these fields among them; a data set whose survey was made has them all."""
        table = await self._found(connection)
        own = [Field(name, _KINDS.get(type(value), FieldKind.TEXT)) for name, value in fields.items()]
        schema = ITEM.extended(ITEM.name, *own)
        if table is None:
            await connection.execute(tables.create_table(*self._names, schema))
        elif lacking := tables.lacking(table, schema):
            await connection.execute(tables.add_columns(*self._names, lacking, schema))
        table = await self._found(connection)
        assert table is not None, "it was made"
        return {name: column.type for name, column in table.columns.items()}

    async def get(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        async def select(connection: Connection) -> list[dict[str, Any]]:
            table = await self._found(connection)
            if table is None or ITEM.owner not in table.columns:
                return []
            return await Reading(self._place, table, ITEM.owner).of_owners(connection, ids, list(table.columns))

        rows = await self._session.call(select)
        return {row.pop(ITEM.owner): {name: one for name, one in row.items() if one is not None} for row in rows}

    async def remove(self, ids: Sequence[str], names: Sequence[str]) -> None:
        async def clear(connection: Connection) -> None:
            if (table := await self._found(connection)) is None:
                return
            await self._session.begin(connection)
            nothing = ", ".join(f"{quoted(name)} = NULL" for name in names)
            kind = table.columns[ITEM.owner].type
            where = f"{quoted(ITEM.owner)} = ANY(%s::text[]::{kind}[])"
            await connection.execute(f"UPDATE {self._place} SET {nothing} WHERE {where}", (list(ids),))
            await self._session.commit_rows(connection)

        await self._session.call(clear)

    async def _found(self, connection: Connection) -> Table | None:
        return await Table.of(connection, *self._names)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _column(values: Sequence[Any]) -> Values:
    return Texts.of(values) if _is_text(values[0]) else np.array(values)
