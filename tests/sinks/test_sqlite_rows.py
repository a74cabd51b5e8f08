"""A piece of rows as one BLOB, and what SQLite makes of it."""

import contextlib
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.sinks.sqlite import rows
from ingest_service.sinks.sqlite.rows import insertions, values
from ingest_service.sinks.testing.rows import columns_of, interaction

TABLE = "CREATE TABLE interactions (user_id, event_key, video_id, timestamp, event_type, device, session_id)"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def stored(sessions: list[str]) -> tuple[int, list[tuple[str, ...]], list[tuple[str, ...]]]:
    """How many statements it took, what the table then holds, and what it should."""
    columns = columns_of([interaction(i, i, session_id=session) for i, session in enumerate(sessions)])
    made = list(insertions(columns))
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(TABLE)
        for insertion in made:
            connection.execute(insertion.statement, insertion.parameters)
        found = connection.execute("SELECT * FROM interactions ORDER BY rowid").fetchall()
    return len(made), found, list(zip(*(texts.to_list() for texts in values(columns).values()), strict=True))


@given(st.lists(TEXTS, max_size=30))
@settings(deadline=None)
def test_any_texts_arrive_as_they_are(sessions: list[str]) -> None:
    """Empty ones, NULs, every width of character, one for all or each its own; in the order of the rows."""
    _, found, expected = stored(sessions)
    assert found == expected


def test_a_huge_text_does_not_make_all_rows_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours go in statements of their own rather than be padded to its length."""
    monkeypatch.setattr(rows, "_BLOB_BYTES", 1 << 16)
    n_statements, found, expected = stored(["a", *["b" * (i % 50) for i in range(98)], "é" * 40_000])
    assert found == expected
    assert 2 < n_statements < 12
