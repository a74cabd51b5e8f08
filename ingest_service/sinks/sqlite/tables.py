"""The tables: how this program makes them, and what rows would meet in one that somebody else has made."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ingest_service.errors import ConfigurationError
from ingest_service.rows.interaction import INTERACTION
from ingest_service.sinks.base import Finding
from ingest_service.sinks.fields import stored_texts

FIELDS = stored_texts(INTERACTION)  # the columns that a new table has; others are added when they are written
TABLES = (
    f"""CREATE TABLE IF NOT EXISTS interactions ({", ".join(f"{name} TEXT NOT NULL" for name in FIELDS)},
        PRIMARY KEY (user_id, event_key)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS ingest_checkpoints (stream TEXT NOT NULL, sink TEXT NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (stream, sink)) WITHOUT ROWID""",
)
_KEY = frozenset({"user_id", "event_key"})
_MAKE_KEY = "CREATE UNIQUE INDEX IF NOT EXISTS ingest_interactions_key ON interactions (user_id, event_key)"
_TWICE = "SELECT 1 FROM interactions GROUP BY user_id, event_key HAVING count(*) > 1 LIMIT 1"
_WAY_OUT = "rename it, or name another file"
_GENERATED = (2, 3)  # what `table_xinfo` says of such a column: virtual, stored


@dataclass(frozen=True, slots=True)
class _Index:
    """A unique index. A column is None where an expression stands instead of one."""

    name: str
    columns: tuple[str | None, ...]
    is_partial: bool

    @property
    def is_key(self) -> bool:
        return set(self.columns) == _KEY and not self.is_partial


@dataclass(frozen=True, slots=True)
class _Table:
    """Names are in lower case: SQLite takes either for the same."""

    kind: str
    sql: str
    columns: frozenset[str]
    generated: frozenset[str]
    wanting: frozenset[str]  # columns that need a value and make none
    nullable: frozenset[str]  # columns that stay NULL, which no unique index minds
    indexes: tuple[_Index, ...]
    triggers: tuple[str, ...]

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "_Table":
        def rows(statement: str, *values: str) -> list[tuple[Any, ...]]:
            return connection.execute(statement, values).fetchall()

        ((kind, sql),) = rows(
            "SELECT type, sql FROM sqlite_master WHERE lower(name) = 'interactions' AND type IN ('table', 'view')"
        )
        names, generated, wanting, nullable = (set[str]() for _ in range(4))
        for _, name, declared, not_null, default, pk, hidden in rows("PRAGMA table_xinfo(interactions)"):
            names.add(name.lower())
            numbers_itself = pk and declared.upper() == "INTEGER"
            if hidden in _GENERATED:
                generated.add(name.lower())
            elif default is None and not numbers_itself:
                (wanting if not_null else nullable).add(name.lower())
        indexes = []
        for _, name, unique, _, partial in rows("PRAGMA index_list(interactions)"):
            if unique:
                parts = rows("SELECT name FROM pragma_index_info(?) ORDER BY seqno", name)
                columns = tuple(part and part.lower() for (part,) in parts)
                indexes.append(_Index(name, columns, bool(partial)))
        triggers = rows("SELECT name FROM sqlite_master WHERE lower(tbl_name) = 'interactions' AND type = 'trigger'")
        return cls(
            kind,
            sql,
            frozenset(names),
            frozenset(generated),
            frozenset(wanting),
            frozenset(nullable),
            tuple(indexes),
            tuple(name for (name,) in triggers),
        )

    @property
    def has_key(self) -> bool:
        return any(index.is_key for index in self.indexes)


def survey(connection: sqlite3.Connection, written: Sequence[str]) -> list[Finding]:
    """What rows with the columns `written` would meet: refusals first, and if there are none, warnings."""
    table = _Table.of(connection)
    details = _refusals(table, {name.lower() for name in written})
    refusals = [Finding("table interactions", False, detail) for detail in details]
    if not refusals and not table.has_key and connection.execute(_TWICE).fetchone():
        detail = "has no unique index on user_id and event_key, and rows that share theirs; delete all but one of each"
        refusals.append(Finding("table interactions", False, f"{detail}, or name another file."))
    if not refusals and table.triggers and not _takes_rows(connection):
        detail = f"does not keep rows as they are written, because of {_listed(table.triggers, 'trigger')}"
        refusals.append(Finding("table interactions", False, f"{detail}; drop it, or name another file."))
    return refusals or list(_warnings(table))


def _refusals(table: _Table, written: set[str]) -> Iterator[str]:
    if table.kind == "view" or table.sql.upper().startswith("CREATE VIRTUAL"):
        yield f"is a {'view' if table.kind == 'view' else 'virtual table'}, not a table of its own; {_WAY_OUT}."
        return
    if missing := [name for name in FIELDS if name not in table.columns]:
        yield f"lacks {_listed(missing)}; {_WAY_OUT}."
    if computed := sorted(table.generated & written):
        yield f"computes {_listed(computed)} by itself; {_WAY_OUT}."
    if wanting := sorted(table.wanting - written):
        yield f"wants a value for {_listed(wanting)}, which rows do not have; allow NULL there, or name another file."
    never_met = table.nullable - written
    for index in table.indexes:
        # A row replaces whatever has its values in a unique index. Only the key's may be that of the same record.
        if not _KEY.issubset(index.columns) and not never_met.intersection(index.columns):
            yield (
                f"has the unique index {index.name}, by which one record would replace another; "
                "drop it, or name another file."
            )


def _warnings(table: _Table) -> Iterator[Finding]:
    if not table.has_key:
        yield Finding("table interactions", True, "has no unique index on user_id and event_key; it gets one.", True)
    if table.triggers:
        detail = f"has {_listed(table.triggers, 'trigger')}, which may drop or change rows; compare it with verify."
        yield Finding("table interactions", True, detail, True)


def _takes_rows(connection: sqlite3.Connection) -> bool:
    """Whether a made-up row is there as it was written. It is taken back."""
    user, video, time = str(uuid4()), str(uuid4()), "2020-03-05T00:00:00.000000Z"
    row = (user, f"{time}#{video}", video, time, "click", "mobile", "session_1_2020-03-05")
    names, places = ", ".join(FIELDS), ", ".join("?" * len(FIELDS))
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"INSERT OR REPLACE INTO interactions ({names}) VALUES ({places})", row)
        found = connection.execute(f"SELECT {names} FROM interactions WHERE user_id = ?", row[:1]).fetchall()
    except sqlite3.IntegrityError:
        return True  # a row that it refuses is no silent loss: the run ends by it
    finally:
        connection.rollback()
    return found == [row]


def make_key(connection: sqlite3.Connection) -> None:
    """Give a table that was made by others the unique index by which a row replaces its earlier self."""
    if _Table.of(connection).has_key:
        return
    try:
        connection.execute(_MAKE_KEY)
    except sqlite3.IntegrityError as error:
        raise ConfigurationError(
            "Table interactions has rows that share user_id and event_key, so it can have no unique index on them; "
            "delete all but one of each, or name another file."
        ) from error


def columns_of(connection: sqlite3.Connection) -> set[str]:
    """The columns that hold what was written there, in lower case."""
    return {row[1].lower() for row in connection.execute("PRAGMA table_info(interactions)")}


def add_columns(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Give the table what a data set has beyond these, where it has not got it yet."""
    there = columns_of(connection)
    for name in names:
        if name.lower() not in there:
            connection.execute(f'ALTER TABLE interactions ADD COLUMN "{name}"')


def _listed(names: Sequence[str], kind: str = "column") -> str:
    return f"the {kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
