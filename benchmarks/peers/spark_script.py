"""The script that a user would write for Spark: `read.csv`, and `foreachPartition` with the client of the store.

Runs in an environment of its own, which has pyspark, redis and boto3, and needs Java.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.measure import ROOT
from benchmarks.peers.reaped import adopt, wait_for_all
from benchmarks.peers.rows import (
    RECENT_TTL_S,
    Arguments,
    Row,
    arguments,
    dynamodb_table,
    recent_of,
    record_of,
    row_of,
)

WORKERS = 2
PIPELINE_COMMANDS = 1_000


def rows_of(rows: Iterable[Any]) -> Iterator[Row]:
    return (row_of(row["userID"], row["videoID"], row["timestamp"]) for row in rows)


def to_redis(url: str, rows: Iterable[Any]) -> None:
    import redis

    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipeline:
        for key, member, score in map(recent_of, rows_of(rows)):
            pipeline.zadd(key, {member: score})
            pipeline.expire(key, RECENT_TTL_S)
            if len(pipeline) >= PIPELINE_COMMANDS:
                pipeline.execute()
        pipeline.execute()


def to_dynamodb(url: str, rows: Iterable[Any]) -> None:
    import boto3  # type: ignore[import-not-found]

    name, where = dynamodb_table(url)
    with boto3.resource("dynamodb", **where).Table(name).batch_writer() as writer:
        for record in map(record_of, rows_of(rows)):
            writer.put_item(Item=record)


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
