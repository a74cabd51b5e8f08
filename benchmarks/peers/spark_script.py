"""The script that a user would write for Spark: `read.csv`, and `foreachPartition` with the client of the store.

Runs in an environment of its own, which has pyspark, redis and boto3, and needs Java.
"""

import os
import sys
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.measure import ROOT
from benchmarks.peers.reaped import adopt, wait_for_all
from benchmarks.peers.rows import RECENT_TTL_S, Arguments, arguments, dynamodb_table, identity, to_json

WORKERS = 2
PIPELINE_COMMANDS = 1_000


def record(row: Any) -> tuple[str, int, dict[str, str]]:
    """The attributes of a row that are stored, and its time in milliseconds."""
    from datetime import UTC, datetime

    when = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC)
    text = when.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return (
        identity("user", row["userID"]),
        int(when.timestamp() * 1000),
        {
            "video_id": identity("video", row["videoID"]),
            "timestamp": text,
            "event_type": "click",
            "device": "mobile",
            "session_id": f"session_{row['userID']}_{text[:10]}",
        },
    )


def to_redis(url: str, rows: Iterable[Any]) -> None:
    import redis

    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipeline:
        for user, score, stored in map(record, rows):
            key = f"recent:{{{user}}}"
            pipeline.zadd(key, {to_json(stored): score})
            pipeline.expire(key, RECENT_TTL_S)
            if len(pipeline) >= PIPELINE_COMMANDS:
                pipeline.execute()
        pipeline.execute()


def to_dynamodb(url: str, rows: Iterable[Any]) -> None:
    import boto3  # type: ignore[import-not-found]

    name, where = dynamodb_table(url)
    with boto3.resource("dynamodb", **where).Table(name).batch_writer() as writer:
        for user, _, stored in map(record, rows):
            event = f"{stored['timestamp']}#{stored['video_id']}"
            writer.put_item(Item={"user_id": user, "event_key": event, **stored})


def main(args: Arguments) -> None:
    adopt()
    os.environ |= {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}  # of its workers
    write = to_dynamodb if args.to.startswith("dynamodb") else to_redis
    url = args.to
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with args.path.open("rb") as source, path.open("wb") as target:
            target.writelines(islice(source, None if args.limit is None else args.limit + 1))
        spark = SparkSession.builder.master(f"local[{WORKERS}]").config("spark.ui.enabled", "false").getOrCreate()
        rows = spark.read.csv(str(path), header=True).repartition(WORKERS)
        rows.foreachPartition(lambda part: write(url, part))
        java = spark.sparkContext._gateway.proc
        spark.stop()
        java.stdin.close()  # by which it ends
        wait_for_all()


if __name__ == "__main__":
    main(arguments())
