"""The bytes of a binary COPY, column by column, as PostgreSQL reads them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.rows.interaction import micros_of, timestamp_text
from ingest_service.rows.texts import Texts
from ingest_service.sinks.postgres.copy_rows import HEADER, TRAILER, Values, tuples, uuids, with_zero_bytes

TYPES = {
    **{"id": "uuid", "at": "timestamptz", "kept": "timestamptz", "text": "text", "list": "jsonb", "truth": "bool"},
    **{"number": "numeric", "whole": "int8", "real": "float8"},
}
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2261, 12, 31), timezones=st.just(UTC))
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
ROW = st.tuples(
    st.uuids(),
    TIMES,
    TIMES,
    TEXT,
    st.lists(TEXT, max_size=3),
    st.booleans(),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=7).map(
        lambda one: one if one else abs(one)  # there is no other zero in PostgreSQL
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)


@pytest.fixture(scope="module")
def connection(postgresql_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE TEMP TABLE rows ({', '.join(f'{name} {kind}' for name, kind in TYPES.items())})")
        connection.execute("SET timezone = 'UTC'")
        yield connection


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(ROW, min_size=1, max_size=30))
def test_rows_are_what_was_meant(connection: psycopg.Connection, rows: list[tuple[object, ...]]) -> None:
    """Each type, alone and many, all equal or not."""
    columns = list(zip(*rows, strict=True))
    values: dict[str, Values] = {
        "id": Texts.of([str(one) for one in columns[0]]),
        "at": np.array([micros_of(one) for one in columns[1] if isinstance(one, datetime)], np.int64),
        "kept": Texts.of([timestamp_text(one) for one in columns[2] if isinstance(one, datetime)]),
        "text": Texts.of([str(one) for one in columns[3]]),
        "list": Texts.of([json.dumps(one, ensure_ascii=False) for one in columns[4]]),
        "truth": Texts.of([str(one).lower() for one in columns[5]]),
        "number": Texts.of([f"{one:f}" for one in columns[6] if isinstance(one, Decimal)]),
        "whole": np.array(columns[7], np.int64),
        "real": np.array(columns[8], np.float64),
    }
    connection.execute("TRUNCATE rows")
    with connection.cursor().copy(f"COPY rows ({', '.join(TYPES)}) FROM STDIN (FORMAT binary)") as copy:
        copy.write(HEADER + tuples(values, TYPES).buffer.tobytes() + TRAILER)
    found = connection.execute("SELECT *, number::text FROM rows ORDER BY ctid").fetchall()
    assert [row[:9] for row in found] == rows
    assert [row[9] for row in found] == [f"{row[6]:f}" for row in rows if isinstance(row[6], Decimal)]


def test_one_row_of_constants(connection: psycopg.Connection) -> None:
    """Where no column differs from row to row."""
    values: dict[str, Values] = {"id": Texts.of([str(UUID(int=7))]), "text": Texts.constant("x", 1)}
    connection.execute("TRUNCATE rows")
    with connection.cursor().copy("COPY rows (id, text) FROM STDIN (FORMAT binary)") as copy:
        copy.write(HEADER + tuples(values, TYPES).buffer.tobytes() + TRAILER)
    assert connection.execute("SELECT id, text FROM rows").fetchall() == [(UUID(int=7), "x")]


def test_uuids_of_a_dictionary() -> None:
    """Whether rows share texts with their neighbours, with others, or with none."""
    known = Texts.of([str(UUID(int=number * 3**70 % 2**128)) for number in range(20)])
    for rows in ([3, 3, 3, 9], list(range(20)) * 4, [7, 0, 7, 19] * 30, [5], []):
        made = uuids(known.take(np.array(rows, np.int64)))
        assert [made.raw(at) for at in range(len(rows))] == [UUID(known.to_list()[row]).bytes for row in rows]


def test_zero_bytes_are_found() -> None:
    """In whichever column, beside empty texts."""
    columns = [Texts.of(["a", "", "b\0", "", "c"]), Texts.of(["", "\0", "", "", ""])]
    assert with_zero_bytes(columns).tolist() == [1, 2]
    assert with_zero_bytes([]).tolist() == []
