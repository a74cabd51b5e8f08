"""What the contract suite must know about each sink. A sink joins with one class here, and one line in KITS.

Everything is read back with plain clients, never through the sink.
"""

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow
import pyarrow.parquet as parquet
import pymongo
import pytest
import redis

from ingest_service.rows.chunk import Chunk
from ingest_service.rows.interaction import INTERACTION, VideoInteraction, timestamp_text
from ingest_service.sinks.postgres.tables import create_table
from ingest_service.sinks.testing import Kit, Stored
from ingest_service.sinks.testing.rows import chunk_of, interaction, interactions, key_of
from tests.helpers import (
    UNREACHABLE,
    create_tables,
    dynamodb_at,
    dynamodb_client,
    dynamodb_items,
    mongodb_documents,
    parquet_rows,
    postgresql,
    redis_sets,
    sqlite_rows,
)

COLUMNS = ("video_id", "timestamp", "event_type", "device", "session_id")


def texts_of(record: VideoInteraction) -> dict[str, str]:
    values = record.model_dump(mode="json") | {"timestamp": timestamp_text(record.timestamp)}
    return {name: values[name] for name in COLUMNS}


class SQLiteKit(Kit):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        folder: Path = request.getfixturevalue("tmp_path")
        self.path = folder / "interactions.db"
        self.url = f"sqlite:///{self.path}"

    def stored(self) -> Stored:
        return dict(sqlite_rows(self.path))

    def remove(self, record: VideoInteraction) -> None:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM interactions WHERE user_id = ? AND event_key = ?", key_of(record))

    def exact(self, record: VideoInteraction) -> object:
        user_id, event_key = key_of(record)
        return {"user_id": user_id, "event_key": event_key, **texts_of(record)}


class RedisKit(Kit):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.url = request.getfixturevalue("redis_db_url")
        self.down_url = f"redis://{UNREACHABLE}/0?retry_budget_s=0.2"

    def stored(self) -> Stored:
        found: Stored = {}
        for key, members in redis_sets(self.url).items():
            for member, score in members.items():
                content = json.loads(member)
                user_id = key.removeprefix("recent:{").removesuffix("}")
                place = user_id, f"{content['timestamp']}#{content['video_id']}"
                assert place not in found, "one record, two members"
                found[place] = (key, member, score)
        return found

    def remove(self, record: VideoInteraction) -> None:
        key, member, _ = self.exact(record)
        with redis.Redis.from_url(self.url) as client:
            assert client.zrem(key, member) == 1

    def exact(self, record: VideoInteraction) -> tuple[str, str, float]:
        member = json.dumps(texts_of(record), separators=(",", ":"))
        return f"recent:{{{record.user_id}}}", member, float(int(record.timestamp.timestamp() * 1_000))

    def kept(self, records: Sequence[VideoInteraction]) -> Sequence[VideoInteraction]:
        found: dict[object, list[VideoInteraction]] = {}
        for record in sorted(records, key=lambda one: one.timestamp):
            found.setdefault(record.user_id, []).append(record)
        return [record for mine in found.values() for record in mine[-100:]]

    def poisoned(self) -> tuple[Chunk, dict[int, str]] | None:
        rows = interactions(40)
        culprit = rows[3].user_id
        with redis.Redis.from_url(self.url) as client:
            client.set(f"recent:{{{culprit}}}", "something else")
        return chunk_of(rows), {i: "wrong_type" for i, row in enumerate(rows) if row.user_id == culprit}


class DynamoDBKit(Kit):
    transport: ClassVar[str] = "bulk"

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.endpoint: str = request.getfixturevalue("dynamodb_url")
        self.table: str = request.getfixturevalue("table")
        self.url = dynamodb_at(self.endpoint, self.table, transport=self.transport)
        self.down_url = dynamodb_at(f"http://{UNREACHABLE}", self.table, transport=self.transport, retry_budget_s=0.2)

    async def set_up(self) -> None:
        await create_tables(self.url)

    def stored(self) -> Stored:
        return dict(dynamodb_items(self.endpoint, self.table))

    def remove(self, record: VideoInteraction) -> None:
        user_id, event_key = key_of(record)
        with dynamodb_client(self.endpoint) as client:
            client.delete_item(TableName=self.table, Key={"user_id": {"S": user_id}, "event_key": {"S": event_key}})

    def exact(self, record: VideoInteraction) -> object:
        user_id, event_key = key_of(record)
        values = {"user_id": user_id, "event_key": event_key, **texts_of(record)}
        return {name: {"S": value} for name, value in values.items()}

    def poisoned(self) -> tuple[Chunk, dict[int, str]] | None:
        rows = interactions(60)
        large, long_key, empty_key = 4, 30, 59
        rows[large] = interaction(1, 1, session_id="s" * 401 * 1024)
        users = [str(row.user_id) for row in rows]
        videos = [str(row.video_id) for row in rows]
        videos[long_key] = "v" * 1100
        users[empty_key] = ""
        chunk = chunk_of(rows, user_id=users, video_id=videos)
        return chunk, {large: "item_too_large", long_key: "bad_key", empty_key: "bad_key"}


class DynamoDBSdkKit(DynamoDBKit):
    transport = "sdk"


class MongoDBKit(Kit):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.url = request.getfixturevalue("mongodb_db_url")
        self.down_url = f"mongodb://{UNREACHABLE}/nowhere?retry_budget_s=0.2"

    def stored(self) -> Stored:
        documents = mongodb_documents(self.url, "interactions")
        return {(document["user_id"], document["event_key"]): document for document in documents}

    def remove(self, record: VideoInteraction) -> None:
        with pymongo.MongoClient[dict[str, object]](self.url.partition("?")[0], directConnection=True) as client:
            found = client.get_default_database()["interactions"].delete_one({"_id": "#".join(key_of(record))})
            assert found.deleted_count == 1

    def exact(self, record: VideoInteraction) -> object:
        user_id, event_key = key_of(record)
        return {"_id": f"{user_id}#{event_key}", "user_id": user_id, "event_key": event_key, **texts_of(record)}

    def poisoned(self) -> tuple[Chunk, dict[int, str]] | None:
        rows = interactions(40)
        large, taken = 5, 30
        rows[large] = interaction(1, 1, session_id="s" * (17 << 20))
        rows[taken] = interaction(2, 2, session_id="taken")
        with pymongo.MongoClient[dict[str, object]](self.url.partition("?")[0], directConnection=True) as client:
            interactions_there = client.get_default_database()["interactions"]
            only_some = {"session_id": "taken"}
            interactions_there.create_index("session_id", unique=True, partialFilterExpression=only_some)
            other = interaction(3, 3, session_id="taken")
            interactions_there.insert_one(dict(self.exact(other)))  # type: ignore[call-overload]
        return chunk_of(rows), {large: "item_too_large", taken: "duplicate_key"}


RAISES = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.session_id = 'raising' THEN RAISE 'not this one: %', NEW.session_id; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON interactions FOR EACH ROW EXECUTE FUNCTION refuse()
"""


class PostgresKit(Kit):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.url = request.getfixturevalue("postgresql_schema_url")
        self.down_url = f"postgresql://{UNREACHABLE}/nowhere?retry_budget_s=0.2"

    def stored(self) -> Stored:
        with postgresql(self.url) as connection:
            if not connection.execute("SELECT to_regclass('interactions')").fetchone()[0]:  # type: ignore[index]
                return {}
            rows = connection.execute("SELECT * FROM interactions").fetchall()
        return {(str(row[0]), f"{timestamp_text(row[1])}#{row[2]}"): row for row in rows}

    def remove(self, record: VideoInteraction) -> None:
        with postgresql(self.url) as connection:
            where = 'user_id = %s AND "timestamp" = %s AND video_id = %s'
            key = (record.user_id, record.timestamp, record.video_id)
            assert connection.execute(f"DELETE FROM interactions WHERE {where}", key).rowcount == 1

    def exact(self, record: VideoInteraction) -> object:
        words = (record.event_type.value, record.device.value, record.session_id)
        return (record.user_id, record.timestamp, record.video_id, *words)

    def poisoned(self) -> tuple[Chunk, dict[int, str]] | None:
        rows = interactions(400)
        zero, checked, taken, raising = 5, 30, 31, 399
        for row, session in ((zero, "a\0b"), (checked, "checked"), (taken, "taken"), (raising, "raising")):
            rows[row] = interaction(1, row, session_id=session)
        with postgresql(self.url) as connection:
            connection.execute(create_table(self.url.rpartition("=")[2], "interactions", INTERACTION))
            connection.execute("ALTER TABLE interactions ADD CHECK (session_id <> 'checked')")
            connection.execute("CREATE UNIQUE INDEX ON interactions (session_id) WHERE session_id = 'taken'")
            connection.execute(RAISES)
            other = interaction(3, 3, session_id="taken")
            places = ", ".join(["%s"] * 6)
            connection.execute(f"INSERT INTO interactions VALUES ({places})", tuple(self.exact(other)))  # type: ignore[arg-type]
        return chunk_of(rows), {zero: "refused", checked: "refused", taken: "duplicate_key", raising: "refused"}


class ParquetKit(Kit):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.folder: Path = request.getfixturevalue("tmp_path") / "lake"
        self.url = f"parquet:///{self.folder}"

    def stored(self) -> Stored:
        found: Stored = {}
        for row in sorted(parquet_rows(self.folder), key=lambda row: (row["_source"], row["_offset"])):
            values = tuple(row[name] for name in ("user_id", "timestamp", *COLUMNS[:1], *COLUMNS[2:]))
            found[row["user_id"], f"{timestamp_text(row['timestamp'])}#{row['video_id']}"] = values
        return found

    def remove(self, record: VideoInteraction) -> None:
        for path in self.folder.glob("**/*.parquet"):
            table = parquet.read_table(path, partitioning=None)
            there = [
                key_of(record) != (row["user_id"], f"{timestamp_text(row['timestamp'])}#{row['video_id']}")
                for row in table.to_pylist()
            ]
            if not all(there):
                parquet.write_table(table.filter(pyarrow.array(there)), path)

    def exact(self, record: VideoInteraction) -> object:
        words = (record.event_type.value, record.device.value, record.session_id)
        return (str(record.user_id), record.timestamp, str(record.video_id), *words)


KITS: dict[str, type[SQLiteKit | ParquetKit | RedisKit | DynamoDBKit | MongoDBKit | PostgresKit]] = {
    "parquet": ParquetKit,
    "postgresql": PostgresKit,
    "sqlite": SQLiteKit,
    "redis": RedisKit,
    "dynamodb-bulk": DynamoDBKit,
    "dynamodb-sdk": DynamoDBSdkKit,
    "mongodb": MongoDBKit,
}
