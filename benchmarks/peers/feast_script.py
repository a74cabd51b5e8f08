"""Feast itself, run by an interpreter that has it (FEAST_PYTHON): pandas, and `write_to_online_store`.

With `--read` it writes nothing: `get_online_features` must give what the file says of a sample of its entities.
`--to` is the URL of a Redis, or the http:// address of a DynamoDB.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Bool, Float32, Float64, Int64, String, UnixTimestamp

TYPES = {
    "plays": Int64,
    "likes": Int64,
    "share": Float64,
    "score": Float32,
    "genre": String,
    "is_new": Bool,
    "seen": UnixTimestamp,
}
VIEW, PROJECT = "taste", "shop"
WRITE_ROWS = 10_000  # what a user would hand over at once
SAMPLE = 1_000


def store_of(url: str, folder: str) -> FeatureStore:
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry=f"{folder}/registry.db",
        online_store=online_store_at(url),
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    source = FileSource(path=f"{folder}/none.parquet", timestamp_field="event_timestamp")
    schema = [Field(name="user_id", dtype=Int64), *(Field(name=name, dtype=dtype) for name, dtype in TYPES.items())]
    view = FeatureView(name=VIEW, entities=[user], schema=schema, source=source)
    # What `apply` would do beside this is to look at the files of the offline store.
    store.registry.apply_entity(user, PROJECT)
    store.registry.apply_feature_view(view, PROJECT)
    return store


def make_table(store: FeatureStore) -> None:
    """What `apply` would do in DynamoDB; in Redis there is nothing to make."""
    online: Any = store._get_provider().online_store
    online.update(store.config, [], [store.get_feature_view(VIEW)], [], [], True)


def is_redis(url: str) -> bool:
    return url.startswith("redis")


def online_store_at(url: str) -> dict[str, str]:
    if not is_redis(url):
        return {"type": "dynamodb", "region": "eu-west-1", "endpoint_url": url}
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port},db={parts.path.strip('/') or 0}"
    if parts.password:
        address += f",password={parts.password}"
    return {"type": "redis", "connection_string": address}


def rows_of(path: Path, limit: int) -> pd.DataFrame:
    frame = pd.read_csv(path, nrows=limit, float_precision="round_trip").drop(columns="item")
    frame["is_new"] = frame["is_new"].astype(bool)
    for name in ("event_timestamp", "seen"):
        frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame


def read(store: FeatureStore, frame: pd.DataFrame) -> None:
    newest = frame.drop_duplicates("user_id", keep="last")
    sample = newest.sample(min(SAMPLE, len(newest)), random_state=1)
    entities = [{"user_id": user} for user in sample["user_id"].tolist()]
    features = [f"{VIEW}:{name}" for name in TYPES]
    found = store.get_online_features(features=features, entity_rows=entities).to_df().set_index("user_id")
    expected = sample.set_index("user_id")
    found["seen"] = pd.to_datetime(found["seen"], utc=True)
    for name in TYPES:
        theirs, given = found.loc[expected.index, name], expected[name]
        is_equal = (theirs - given).abs() < 1e-6 if name == "score" else theirs == given
        if not is_equal.all():
            raise SystemExit(f"get_online_features gives other values of {name} for {(~is_equal).sum()} entities")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--to", required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--read", action="store_true")
    args = parser.parse_args()
    frame = rows_of(args.path, args.limit)
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(args.to, folder)
        if args.read:
            read(store, frame)
            return
        if not is_redis(args.to):
            make_table(store)
        for first in range(0, len(frame), WRITE_ROWS):
            store.write_to_online_store(VIEW, frame.iloc[first : first + WRITE_ROWS])


if __name__ == "__main__":
    main()
