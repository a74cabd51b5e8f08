"""The script that a user would write for Ray Data: `read_csv`, and `map_batches` with the client of the store.

Runs in an environment of its own, which has ray, pandas, redis and boto3.
"""

import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import ray

from benchmarks.measure import ROOT
from benchmarks.peers.reaped import adopt, wait_for_all
from benchmarks.peers.rows import RECENT_TTL_S, Arguments, arguments, dynamodb_table, identity, to_json

WORKERS = 2
PIPELINE_COMMANDS = 1_000


def records(batch: Any) -> Any:
    """Each row with the attributes that are stored, and its time in milliseconds."""
    import pandas as pd

    when = pd.to_datetime(batch["timestamp"], utc=True)
    texts = when.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    scores = when.astype("int64") // 10**6
    for user, video, text, score in zip(batch["userID"], batch["videoID"], texts, scores, strict=True):
        yield (
            identity("user", str(user)),
            int(score),
            {
                "video_id": identity("video", str(video)),
                "timestamp": text,
                "event_type": "click",
                "device": "mobile",
                "session_id": f"session_{user}_{text[:10]}",
            },
        )


class ToRedis:
    def __init__(self, url: str) -> None:
        import redis

        self._client = redis.Redis.from_url(url)

    def __call__(self, batch: Any) -> Any:
        pipeline = self._client.pipeline(transaction=False)
        for user, score, record in records(batch):
            key = f"recent:{{{user}}}"
            pipeline.zadd(key, {to_json(record): score})
            pipeline.expire(key, RECENT_TTL_S)
            if len(pipeline) >= PIPELINE_COMMANDS:
                pipeline.execute()
        pipeline.execute()
        return batch[:0]


class ToDynamoDB:
    def __init__(self, url: str) -> None:
        import boto3  # type: ignore[import-not-found]

        name, where = dynamodb_table(url)
        self._table = boto3.resource("dynamodb", **where).Table(name)

    def __call__(self, batch: Any) -> Any:
        with self._table.batch_writer() as writer:
            for user, _, record in records(batch):
                event = f"{record['timestamp']}#{record['video_id']}"
                writer.put_item(Item={"user_id": user, "event_key": event, **record})
        return batch[:0]


def main(args: Arguments) -> None:
    kind = ToDynamoDB if args.to.startswith("dynamodb") else ToRedis
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with args.path.open("rb") as source, path.open("wb") as target:
            target.writelines(islice(source, None if args.limit is None else args.limit + 1))
        adopt()
        os.environ["PYTHONPATH"] = str(ROOT)  # of Ray's workers
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        rows = ray.data.read_csv(str(path))
        rows.map_batches(
            kind, fn_constructor_args=(args.to,), batch_format="pandas", concurrency=WORKERS, num_cpus=0.5
        ).materialize()
        ray.shutdown()
        wait_for_all()


if __name__ == "__main__":
    main(arguments())
