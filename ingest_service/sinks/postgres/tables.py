"""The tables: how this program makes them, and what rows would meet in one that somebody else has made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.sinks.base import Finding

CHECKPOINTS = "ingest_checkpoints"
_TYPES = dict.fromkeys(FieldKind, "text") | {
    FieldKind.UUID: "uuid",
    FieldKind.TIME: "timestamptz",
    FieldKind.LIST: "jsonb",
    FieldKind.TRUTH: "bool",
    FieldKind.DECIMAL: "numeric",
    FieldKind.INT: "int8",
    FieldKind.FLOAT: "float8",
}
_TEXTS = ("text", "varchar", "enum")  # what takes any field that is no number, as its text
_INTERACTION_ALONE = ("event_type", "device", "session_id")  # what every record has beside its key
_WAY_OUT = "name another table with ?table="

_TABLE = """
    SELECT c.oid::text, c.relkind::text, c.relpersistence::text, row_security_active(c.oid),
           pg_has_role(c.relowner, 'USAGE'),
           ARRAY(SELECT right_ FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) right_
                 WHERE NOT has_table_privilege(c.oid, right_)),
           ARRAY(SELECT tgname::text FROM pg_trigger
                 WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY 1),
           ARRAY(SELECT rulename::text FROM pg_rewrite WHERE ev_class = c.oid AND ev_type IN ('2', '3') ORDER BY 1)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""
_VERSION = """
    SELECT concat_ws('.', c.oid, pg_relation_filenode(c.oid))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""
_COLUMNS = """
    SELECT a.attname::text, CASE WHEN 'e' IN (t.typtype, b.typtype) THEN 'enum' ELSE coalesce(b.typname, t.typname) END,
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attgenerated <> '' OR a.attidentity = 'a'
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         LEFT JOIN pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd'
    WHERE a.attrelid = %s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_INDEXES = """
    SELECT c.relname::text, x.indpred IS NULL AND x.indisvalid AND x.indimmediate,
           ARRAY(SELECT coalesce(a.attname::text, '') FROM unnest(x.indkey) WITH ORDINALITY k (number, place)
                 LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
                 WHERE place <= x.indnkeyatts ORDER BY place)
    FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = %s::oid AND x.indisunique ORDER BY 1
"""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Column:
    type: str  # by PostgreSQL's own name; of a domain what it is made of
    wants_value: bool
    is_computed: bool


@dataclass(frozen=True, slots=True)
class Index:
    """A unique one. A column is "" where an expression stands instead of one."""

    name: str
    is_whole: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """What there is by the name that rows go to."""

    kind: str
    persistence: str
    has_row_security: bool
    is_own: bool
    missing_rights: tuple[str, ...]
    triggers: tuple[str, ...]
    rules: tuple[str, ...]
    columns: dict[str, Column]
    indexes: tuple[Index, ...]

    @classmethod
    async def of(cls, connection: AsyncConnection[Any], schema: str, name: str) -> "Table | None":
        found = await (await connection.execute(_TABLE, (schema, name))).fetchone()
        if found is None:
            return None
        oid, kind, persistence, has_row_security, is_own, missing, triggers, rules = found
        columns = await (await connection.execute(_COLUMNS, (oid,))).fetchall()
        indexes = await (await connection.execute(_INDEXES, (oid,))).fetchall()
        return cls(
            kind,
            persistence,
            has_row_security,
            is_own,
            tuple(missing),
            tuple(triggers),
            tuple(rules),
            {name: Column(*rest) for name, *rest in columns},
            tuple(Index(name, is_whole, tuple(parts)) for name, is_whole, parts in indexes),
        )

    def has_key(self, schema: Schema) -> bool:
        return any(index.is_whole and set(index.columns) == set(key_of(schema)) for index in self.indexes)

    def types(self, schema: Schema) -> dict[str, str]:
        return {field.name: self.columns[field.name].type for field in schema.fields}


async def version_of(connection: AsyncConnection[Any], schema: str, name: str) -> str | None:
    """It is another one once the table was emptied or made anew; None if there is none."""
    found = await (await connection.execute(_VERSION, (schema, name))).fetchone()
    return None if found is None else str(found[0])


def key_of(schema: Schema) -> tuple[str, ...]:
    return (schema.owner, *schema.key)


def lacking(table: Table, schema: Schema) -> list[Field]:
    """The fields of a data set's own that the table has no column for, and could get."""
    return [one for one in schema.fields if one.name not in table.columns and not _is_needed(one.name, schema)]


def _is_needed(name: str, schema: Schema) -> bool:
    """Whether every record has it, so that a table without it was made for something else."""
    return name in (*key_of(schema), *_INTERACTION_ALONE)


def create_table(schema_name: str, name: str, schema: Schema) -> str:
    """The statement that makes the table for a data set's records: the key's columns first."""
    key = key_of(schema)
    fields = sorted(schema.fields, key=lambda one: key.index(one.name) if one.name in key else len(key))
    columns = [_declared(field, schema) for field in fields]
    primary = ", ".join(quoted(name) for name in key)
    return f"CREATE TABLE {place(schema_name, name)} ({', '.join(columns)}, PRIMARY KEY ({primary}))"


def add_columns(schema_name: str, name: str, fields: Sequence[Field], schema: Schema) -> str:
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {_declared(field, schema)}" for field in fields)
    return f"ALTER TABLE {place(schema_name, name)} {added}"


def create_key(schema_name: str, name: str, schema: Schema) -> str:
    columns = ", ".join(quoted(one) for one in key_of(schema))
    return f"CREATE UNIQUE INDEX ON {place(schema_name, name)} ({columns})"


def create_checkpoints(schema_name: str) -> str:
    return f"""
        CREATE TABLE {place(schema_name, CHECKPOINTS)} (stream text COLLATE "C", sink text COLLATE "C",
            body text NOT NULL, of_table text NOT NULL, mark bigint NOT NULL DEFAULT 0, PRIMARY KEY (stream, sink))
    """


def place(schema_name: str, name: str) -> str:
    return f"{quoted(schema_name)}.{quoted(name)}"


def _declared(field: Field, schema: Schema) -> str:
    kind = _TYPES[field.kind]
    collation = ' COLLATE "C"' if kind == "text" and field.name in key_of(schema) else ""
    return f"{quoted(field.name)} {kind}{collation}{' NOT NULL' if _is_needed(field.name, schema) else ''}"


def survey(what: str, table: Table, schema: Schema) -> list[Finding]:
    """What a data set's records would meet: refusals first, and if there are none, warnings."""
    refusals = [Finding(what, False, detail) for detail in _refusals(table, schema)]
    return refusals or [Finding(what, True, detail, True) for detail in _warnings(table, schema)]


def _refusals(table: Table, schema: Schema) -> Iterator[str]:
    if table.kind not in ("r", "p"):
        yield f"is no table of its own, but a view or such; {_WAY_OUT}."
        return
    if table.persistence != "p":
        yield "would be empty after a crash of the server; make it durable: ALTER TABLE … SET LOGGED."
    if table.has_row_security:
        yield "has row security, which COPY does not go with; let this user bypass it: ALTER ROLE … BYPASSRLS."
    if table.missing_rights:
        yield f"may not be used as it must be; GRANT {', '.join(table.missing_rights)} on it to this user."
    if table.rules:
        yield f"has {_listed(table.rules, 'rule')} for what is written; drop it, or {_WAY_OUT}."
    yield from _wrong_columns(table, schema)
    if not table.has_key(schema) and all(name in table.columns for name in key_of(schema)):
        key = ", ".join(key_of(schema))
        yield f"has no unique index on {key}; make one with `check --create`, or {_WAY_OUT}."


def _wrong_columns(table: Table, schema: Schema) -> Iterator[str]:
    missing = [one.name for one in schema.fields if one.name not in table.columns]
    needed = [name for name in missing if _is_needed(name, schema)]
    if needed:
        yield f"lacks {_listed(needed)}; {_WAY_OUT}."
    elif missing and not table.is_own:
        yield f"lacks {_listed(missing)}; let its owner run `check --create`."
    for field in schema.fields:
        column = table.columns.get(field.name)
        if column and column.is_computed:
            yield f"computes the column {field.name} by itself; {_WAY_OUT}."
        elif column and not _takes(column.type, field):
            wanted = _TYPES[field.kind]
            yield f"has a column {field.name} of type {column.type}, and rows have {wanted}; {_WAY_OUT}."
    written = {field.name for field in schema.fields}
    wanting = [name for name, column in table.columns.items() if column.wants_value and name not in written]
    if wanting:
        yield f"wants a value for {_listed(wanting)}, which rows do not have; allow NULL there, or {_WAY_OUT}."


def _takes(kind: str, field: Field) -> bool:
    return kind == _TYPES[field.kind] or (kind in _TEXTS and not field.is_number)


def _warnings(table: Table, schema: Schema) -> Iterator[str]:
    if table.triggers:
        yield f"has {_listed(table.triggers, 'trigger')}, which may change rows; compare it with verify."
    key = set(key_of(schema))
    for index in table.indexes:
        if not key <= set(index.columns):
            yield f"has the unique index {index.name}; of rows with the same values all but one become dead letters."


def _listed(names: Sequence[str], kind: str = "column") -> str:
    return f"the {kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
