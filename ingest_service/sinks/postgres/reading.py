"""Rows read back, in the form that records have in every store: UUIDs and times as texts, numbers as numbers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ingest_service.rows.interaction import INTERACTION, timestamp_text
from ingest_service.rows.schema import Schema
from ingest_service.sinks.postgres.session import Connection
from ingest_service.sinks.postgres.tables import Table, quoted

Row = dict[str, Any]

_TIME, _ITEM = INTERACTION.key
_NUMBERS = ("int8", "float8")


class Reading:
    """What is read of a table, whose records are asked for by their owner."""

    def __init__(self, place: str, table: Table, owner: str = INTERACTION.owner) -> None:
        self._place = place
        self._owner = owner
        self._types = {name: column.type for name, column in table.columns.items()}

    async def newest(self, connection: Connection, user: str, limit: int) -> list[Row]:
        return await self._select(
            connection, f"{self._is_owner} ORDER BY {self._order('DESC')} LIMIT %s", user, [limit]
        )

    async def between(
        self, connection: Connection, user: str, since: datetime | None, until: datetime | None, limit: int | None
    ) -> list[Row]:
        where, values = self._is_owner, list[Any]()
        for sign, at in ((">=", since), ("<", until)):
            if at is not None:
                where += f" AND {quoted(_TIME)} {sign} {self._value(_TIME)}"
                values.append(timestamp_text(at))
        where += f" ORDER BY {self._order('')} LIMIT %s"
        return await self._select(connection, where, user, [*values, limit])

    async def of_users(self, connection: Connection, users: Sequence[str], schema: Schema) -> list[Row]:
        """All that is there of these users, as far as it is in the schema's fields."""
        names = [field.name for field in schema.fields if field.name in self._types]
        return await self.of_owners(connection, users, names)

    async def of_owners(self, connection: Connection, owners: Sequence[str], names: Sequence[str]) -> list[Row]:
        wanted = [owner for owner in owners if self._can_be_owner(owner)]
        where = f"{quoted(self._owner)} = ANY({self._value(self._owner)}[])"
        return await self._rows(connection, names, where, [wanted])

    async def _select(self, connection: Connection, where: str, user: str, values: Sequence[Any]) -> list[Row]:
        if not self._can_be_owner(user):
            return []
        return await self._rows(connection, list(self._types), where, [user, *values])

    async def _rows(self, connection: Connection, names: Sequence[str], where: str, values: Sequence[Any]) -> list[Row]:
        shown = ", ".join(self._shown(name) for name in names)
        async with connection.cursor(binary=True) as cursor:  # as text, floats may be rounded
            await cursor.execute(f"SELECT {shown} FROM {self._place} WHERE {where}", values)
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    def _shown(self, name: str) -> str:
        column = quoted(name)
        match self._types[name]:
            case "timestamptz":
                return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
            case kind if kind in _NUMBERS:
                return column
            case _:
                return f"{column}::text"

    def _value(self, name: str) -> str:
        """A parameter that is compared with a column."""
        kind = self._types[name]
        return f"%s::{'text' if kind == 'enum' else kind}"

    @property
    def _is_owner(self) -> str:
        return f"{quoted(self._owner)} = {self._value(self._owner)}"

    def _order(self, direction: str) -> str:
        item = quoted(_ITEM) if self._types[_ITEM] == "uuid" else f'{quoted(_ITEM)} COLLATE "C"'
        return f"{quoted(_TIME)} {direction}, {item} {direction}"

    def _can_be_owner(self, user: str) -> bool:
        if self._types[self._owner] != "uuid":
            return "\0" not in user
        try:
            UUID(user)
        except ValueError:
            return False
        return True
