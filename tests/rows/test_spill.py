"""Rows that were set aside come back by user, all of them or a sample."""

import polars as pl
import pytest

from ingest_service.errors import LocalIOError
from ingest_service.rows.spill import MAX_PARTITIONS, PARTITION_ROWS, Spill

FRAMES = [
    pl.DataFrame({"user_id": [f"user {(i * 7 + n) % 50}" for i in range(200)], "row": range(n * 200, n * 200 + 200)})
    for n in range(5)
]


def partitions(rows: int | None, sample: int | None = None) -> list[pl.DataFrame]:
    with Spill(rows, sample) as spill:
        for frame in FRAMES:
            spill.add(frame)
        return list(spill)


@pytest.mark.parametrize("rows", [None, 0, 10 * PARTITION_ROWS])
def test_all_rows_of_a_user_come_in_one_partition_in_order(rows: int | None) -> None:
    """Whatever the number of partitions is, each row is in one of them, and its user in no other."""
    found = partitions(rows)
    assert len(found) == 1 if rows == 0 else len(found) > 1
    users = [user for part in found for user in part["user_id"].unique().to_list()]
    assert len(users) == len(set(users)) == 50
    assert all(part["row"].is_sorted() for part in found)
    assert pl.concat(found).sort("row").equals(pl.concat(FRAMES))


def test_a_sample_is_of_whole_users_and_always_the_same() -> None:
    """So many users, each with all of its rows, and the same ones whatever the number of partitions."""
    first, second = pl.concat(partitions(0, 7)), pl.concat(partitions(None, 7))
    assert first["user_id"].n_unique() == 7
    assert first.sort("row").equals(second.sort("row"))
    whole = pl.concat(FRAMES)
    assert first.height == whole.join(first.select("user_id").unique(), on="user_id", how="semi").height
    assert pl.concat(partitions(0, 1_000)).height == 1_000


def test_partitions_follow_the_rows() -> None:
    """As many as are needed to keep each small, up to a bound."""
    for rows, n in ((0, 1), (PARTITION_ROWS + 1, 2), (10**12, MAX_PARTITIONS)):
        with Spill(rows) as spill:
            assert spill.partitions == n


def test_a_full_disk_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the folder, and what to do."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "w+b", buffering=0))  # noqa: PTH123, SIM115
    with Spill(0) as spill, pytest.raises(LocalIOError, match="make room or set TMPDIR"):
        spill.add(FRAMES[0])
