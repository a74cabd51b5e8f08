"""What every script among the peers begins with: its arguments, and a row of the CSV as a record.

As a careful user would write it: with the standard library, computing each id once.
"""

import argparse
import csv
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

NAMESPACE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
RECENT_LIMIT = 100
RECENT_TTL_S = 86_400
to_json = json.JSONEncoder(separators=(",", ":")).encode


class Row(NamedTuple):
    user_id: str
    video_id: str
    timestamp: str
    score_ms: int
    session_id: str


@dataclass(frozen=True)
class Arguments:
    path: Path
    to: str
    limit: int | None


def arguments() -> Arguments:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--to", required=True)
    parser.add_argument("--limit", type=int, help="only the first rows of the file")
    return Arguments(**vars(parser.parse_args()))


@cache
def identity(kind: str, number: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{kind}_{number}"))


def rows(path: Path, limit: int | None) -> Iterator[Row]:
    with path.open(newline="") as file:
        for row in islice(csv.DictReader(file), limit):
            yield row_of(row["userID"], row["videoID"], row["timestamp"])


def row_of(user: str, video: str, at: str) -> Row:
    when = datetime.fromisoformat(at).replace(tzinfo=UTC)
    timestamp = when.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Row(
        identity("user", user),
        identity("video", video),
        timestamp,
        int(when.timestamp() * 1000),
        f"session_{user}_{timestamp[:10]}",
    )


def records(path: Path, limit: int | None) -> Iterator[dict[str, str]]:
    """Each row with the attributes that DynamoDB and SQLite store."""
    return map(record_of, rows(path, limit))


def record_of(row: Row) -> dict[str, str]:
    return {"user_id": row.user_id, "event_key": f"{row.timestamp}#{row.video_id}", **attributes_of(row)}


def attributes_of(row: Row) -> dict[str, str]:
    """Those that every store has beside its key."""
    return {
        "video_id": row.video_id,
        "timestamp": row.timestamp,
        "event_type": "click",
        "device": "mobile",
        "session_id": row.session_id,
    }


def recent(path: Path, limit: int | None) -> Iterator[tuple[str, str, int]]:
    """Each row as Redis stores it: the key, the member and its score."""
    return map(recent_of, rows(path, limit))


def recent_of(row: Row) -> tuple[str, str, int]:
    return f"recent:{{{row.user_id}}}", to_json(attributes_of(row)), row.score_ms


def dynamodb_table(url: str) -> tuple[str, dict[str, str]]:
    """The table that a dynamodb:// URL names, and what boto3 wants to know to reach it."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return parts.netloc, {"endpoint_url": query["endpoint"], "region_name": query["region"]}
