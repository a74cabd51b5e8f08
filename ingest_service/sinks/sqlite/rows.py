"""Rows as one BLOB, and the statement that takes it apart: SQLite makes the values itself, thousands in one step.

Bound one by one they would cost a Python string a value and, a row, a hand-over of the interpreter's lock, for which
every other thread of the program would have to wait.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ingest_service.rows.columns import Columns
from ingest_service.rows.parse import Bytes
from ingest_service.rows.schema import FieldKind
from ingest_service.rows.texts import Texts, decimals, write
from ingest_service.sinks.fields import field_texts, number_texts

_BLOB_BYTES = 1 << 23
_KINDS = dict.fromkeys(FieldKind, "TEXT") | {FieldKind.INT: "INTEGER", FieldKind.FLOAT: "REAL"}
_LENGTH_BASE = 10**9  # added to the length of a text: it then has ten digits


@dataclass(slots=True)
class Insertion:
    """A statement and its parameters. `names` are the table's columns, in its order."""

    names: list[str]
    statement: str = ""
    parameters: dict[str, str | int | memoryview] = field(default_factory=dict)


def values(columns: Columns) -> dict[str, Texts]:
    """What is stored, by the table's columns; numbers as decimal texts."""
    return field_texts(columns) | number_texts(columns)


def insertions(columns: Columns) -> Iterator[Insertion]:
    """What inserts or replaces the rows: one statement, or more where a few texts are huge."""
    if not len(columns):
        return
    yield from _insertions(values(columns), {field.name: _KINDS[field.kind] for field in columns.schema.fields})


def _insertions(texts: dict[str, Texts], kinds: dict[str, str]) -> Iterator[Insertion]:
    first = next(iter(texts))  # the owner, of whom there are many
    one = {name: column for name, column in texts.items() if name != first and column.are_one}
    fixed = {name: column for name, column in texts.items() if name not in one and _width(column) is not None}
    varying = {name: column for name, column in texts.items() if name not in one and name not in fixed}
    n = len(texts[first])
    # Each row takes as many bytes as the longest would, so that all places are known.
    lengths = [decimals(np.asarray(column.widths) + _LENGTH_BASE) for column in varying.values()]
    stride = sum(_longest(column) for column in [*fixed.values(), *varying.values(), *lengths])
    if n > 1 and n * stride > _BLOB_BYTES:
        for half in (slice(n // 2), slice(n // 2, n)):
            yield from _insertions({name: column.take(half) for name, column in texts.items()}, kinds)
        return
    blob: Bytes = np.empty(n * stride, np.uint8)
    places = np.arange(n) * stride
    write(blob, places, [*fixed.values(), *lengths])
    insertion = Insertion(list(texts), parameters={"blob": blob.data, "stride": stride, "end": n * stride})
    cells: dict[str, str] = {}
    for name, column in one.items():
        insertion.parameters[name] = column.take(slice(1)).to_list()[0]
        cells[name] = f":{name}"
    at = 0
    for name, column in fixed.items():
        cells[name] = f"substr(:blob, at + {at}, {_longest(column)})"
        at += _longest(column)
    after = at + sum(_longest(length) for length in lengths)
    for (name, column), length in zip(varying.items(), lengths, strict=True):
        write(blob, places + after, [column])
        size = f"CAST(substr(:blob, at + {at}, {_longest(length)}) AS INTEGER) - {_LENGTH_BASE}"
        # Its place is a parameter, as the longest text is another one in each piece: the statement stays the same.
        insertion.parameters[f"{name}_at"] = after
        cells[name] = f"substr(:blob, at + :{name}_at, {size})"
        at += _longest(length)
        after += _longest(column)
    insertion.statement = _statement({name: f"CAST({cells[name]} AS {kinds.get(name, 'TEXT')})" for name in texts})
    yield insertion


def _statement(cells: dict[str, str]) -> str:
    return f"""
        INSERT OR REPLACE INTO interactions ({", ".join(f'"{name}"' for name in cells)})
        WITH RECURSIVE place (at) AS (SELECT 1 UNION ALL SELECT at + :stride FROM place WHERE at + :stride < :end)
        SELECT {", ".join(cells.values())} FROM place
    """


def _width(texts: Texts) -> int | None:
    """The width of all of them, if it is one."""
    shortest, longest = int(np.min(texts.widths)), _longest(texts)
    return longest if shortest == longest else None


def _longest(texts: Texts) -> int:
    return int(np.max(texts.widths))
