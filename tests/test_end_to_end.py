"""One file, every sink: what plain clients find afterwards is what the rows say."""

from pathlib import Path

import pytest

from ingest_service import ingest
from ingest_service.api import MicroLensPairsReader
from ingest_service.sinks.testing.rows import key_of
from tests.helpers import (
    create_tables,
    dead_letters,
    dynamodb_at,
    dynamodb_items,
    expected_sets,
    plain,
    redis_sets,
    sqlite_rows,
    write_pairs,
)
from tests.sinks.kits import texts_of


async def test_a_file_lands_in_all_sinks(
    redis_db_url: str, dynamodb_url: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis, DynamoDB (both transports) and SQLite hold exactly what the row-by-row reader gives; the counts agree."""
    monkeypatch.chdir(tmp_path)
    pairs = write_pairs(tmp_path / "pairs.csv", 4_000, blocks=3)
    dynamodb = dynamodb_at(dynamodb_url, table, ttl_s=60)
    sdk = dynamodb_at(dynamodb_url, f"{table}_sdk", transport="sdk", name="sdk")
    await create_tables(dynamodb)
    await create_tables(sdk)
    to = [redis_db_url, dynamodb, sdk, "sqlite:///pairs.db"]
    report = await ingest(pairs.path, to=to)
    assert report.balanced
    assert report.streams[0].complete

    expected = {}
    for record in MicroLensPairsReader(pairs.path).read():
        user_id, event_key = key_of(record)
        expected[user_id, event_key] = {"user_id": user_id, "event_key": event_key, **texts_of(record)}
    assert sqlite_rows(tmp_path / "pairs.db") == expected
    assert plain(dynamodb_items(dynamodb_url, f"{table}_sdk")) == expected
    with_expiry = dynamodb_items(dynamodb_url, table)
    assert {item.pop("expires_at").keys() == {"N"} for item in with_expiry.values()} == {True}
    assert plain(with_expiry) == expected
    assert redis_sets(redis_db_url) == expected_sets(expected)

    for name, numbers in report.streams[0].sinks.items():
        counts = numbers.counts
        assert (counts.read, counts.rejected) == (pairs.rows, len(pairs.bad)), name
        assert (counts.dead, numbers.offset) == (0, pairs.path.stat().st_size), name
    letters = dead_letters(tmp_path / ".ingest")
    assert [(letter["line"], letter["offset"], letter["raw"].encode()) for letter in letters] == pairs.bad
