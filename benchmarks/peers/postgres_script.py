"""Rows into PostgreSQL as a careful user would write them, one of four ways.

    python -m benchmarks.peers.postgres_script pairs.csv --to postgresql://… --way executemany

executemany: `INSERT … ON CONFLICT` of 5,000 rows at a time. write_row: psycopg's COPY, a row at a time; asyncpg: its
`copy_records_to_table`; ADBC: Arrow's columns by `adbc_ingest`; all three into a temporary table, and from there as
above, since COPY cannot replace rows.
"""

import argparse
import asyncio
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.peers.rows import records

_COLUMNS = ("user_id", "timestamp", "video_id", "event_type", "device", "session_id")
_LISTED = ", ".join(f'"{name}"' for name in _COLUMNS)
_ON_CONFLICT = """
    ON CONFLICT (user_id, "timestamp", video_id) DO UPDATE SET event_type = EXCLUDED.event_type,
    device = EXCLUDED.device, session_id = EXCLUDED.session_id
"""
_STAGE = "CREATE TEMPORARY TABLE staged (LIKE interactions) ON COMMIT DROP"
_MERGE = f"INSERT INTO interactions ({_LISTED}) SELECT {_LISTED} FROM staged {_ON_CONFLICT}"
_BATCH_ROWS = 50_000


def values(path: Path, limit: int | None) -> Iterator[tuple[Any, ...]]:
    for one in records(path, limit):
        at = datetime.fromisoformat(one["timestamp"])
        words = (one["event_type"], one["device"], one["session_id"])
        yield (UUID(one["user_id"]), at, UUID(one["video_id"]), *words)


def batches(path: Path, limit: int | None, size: int) -> Iterator[list[tuple[Any, ...]]]:
    rows = values(path, limit)
    while batch := list(islice(rows, size)):
        yield batch


def by_executemany(to: str, path: Path, limit: int | None) -> None:
    import psycopg

    places = ", ".join(["%s"] * len(_COLUMNS))
    statement = f"INSERT INTO interactions ({_LISTED}) VALUES ({places}) {_ON_CONFLICT}"
    with psycopg.connect(to) as connection:
        for batch in batches(path, limit, 5_000):
            connection.cursor().executemany(statement, batch)
            connection.commit()


def by_write_row(to: str, path: Path, limit: int | None) -> None:
    import psycopg

    with psycopg.connect(to) as connection:
        for batch in batches(path, limit, _BATCH_ROWS):
            connection.execute(_STAGE)
            with connection.cursor().copy(f"COPY staged ({_LISTED}) FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["uuid", "timestamptz", "uuid", "text", "text", "text"])
                for row in batch:
                    copy.write_row(row)
            connection.execute(_MERGE)
            connection.commit()


async def by_asyncpg(to: str, path: Path, limit: int | None) -> None:
    import asyncpg

    connection = await asyncpg.connect(to)
    for batch in batches(path, limit, _BATCH_ROWS):
        async with connection.transaction():
            await connection.execute(_STAGE)
            await connection.copy_records_to_table("staged", records=batch, columns=_COLUMNS)
            await connection.execute(_MERGE)
    await connection.close()


def by_adbc(to: str, path: Path, limit: int | None) -> None:
    import pyarrow as pa
    from adbc_driver_postgresql import dbapi

    # It makes no UUIDs: the columns are staged as they come, and cast on the way from there.
    kinds = (pa.string(), pa.timestamp("us", "UTC"), *(pa.string() for _ in range(4)))
    schema = pa.schema(list(zip(_COLUMNS, kinds, strict=True)))
    columns = ", ".join(f'"{name}"::uuid' if name in ("user_id", "video_id") else f'"{name}"' for name in _COLUMNS)
    with dbapi.connect(to) as connection, connection.cursor() as cursor:
        for batch in batches(path, limit, _BATCH_ROWS):
            arrays = [
                pa.array(map(str, column) if kind == pa.string() else column, kind)
                for column, kind in zip(zip(*batch, strict=True), kinds, strict=True)
            ]
            cursor.adbc_ingest("staged", pa.table(arrays, schema=schema), mode="create", temporary=True)
            cursor.execute(f"INSERT INTO interactions ({_LISTED}) SELECT {columns} FROM staged {_ON_CONFLICT}")
            cursor.execute("DROP TABLE staged")
            connection.commit()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--to", required=True)
    parser.add_argument("--limit", type=int, help="only the first rows of the file")
    parser.add_argument("--way", choices=("executemany", "write_row", "asyncpg", "adbc"), required=True)
    given = parser.parse_args()
    if given.way == "asyncpg":
        asyncio.run(by_asyncpg(given.to, given.path, given.limit))
    else:
        ways = {"executemany": by_executemany, "write_row": by_write_row, "adbc": by_adbc}
        ways[given.way](given.to, given.path, given.limit)


if __name__ == "__main__":
    main()
