"""`verify` of Feast's online stores: what the source says is what a store has, and what was changed in it is found."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from ingest_service.sinks.feast.values import field_hash, moment_us
from tests.helpers import Cli, create_tables, dynamodb_client
from tests.sinks import test_feast, test_feast_dynamodb
from tests.sinks.test_feast import GOLDEN, RATINGS, ratings, some_ratings

ROWS = some_ratings(1_500, 120, 5)
TIME = "_ts:taste"
RATING = b"\x35\x00\x00\x00\x3f"  # 0.5 as Feast has it
OF_TEXTS = "entity=user_id:STRING&features=video_id,rating,event_type,timestamp"


@dataclass(frozen=True, slots=True)
class Store:
    """Of ratings. `remove`, `alter` and `turn_back` change what it has of a user behind the program's back."""

    url: str
    remove: Callable[[int], None]
    alter: Callable[[int], None]
    turn_back: Callable[[int], None]


@pytest.fixture(params=["redis", "dynamodb"])
def place(request: pytest.FixtureRequest) -> Store:
    return in_redis(request) if request.param == "redis" else in_dynamodb(request)


def in_redis(request: pytest.FixtureRequest) -> Store:
    url = request.getfixturevalue("redis_db_url")

    def change(user: int, **fields: bytes) -> None:
        key = test_feast.key_of_number(user)
        with redis.Redis.from_url(url) as client:
            assert client.exists(key)
            if not fields:
                client.delete(key)
            for name, value in fields.items():
                client.hset(key, TIME.encode() if name == "time" else field_hash("taste", name), value)

    return Store(
        test_feast.feast(url, RATINGS),
        change,
        lambda user: change(user, rating=RATING),
        lambda user: change(user, time=b"\x08\x00"),
    )


def in_dynamodb(request: pytest.FixtureRequest) -> Store:
    endpoint, table = request.getfixturevalue("dynamodb_url"), request.getfixturevalue("table")
    url = test_feast_dynamodb.feast(endpoint, table, RATINGS)
    asyncio.run(create_tables(url))

    def change(user: int, name: str = "", value: Any = None) -> None:
        key = {"entity_id": {"S": test_feast_dynamodb.id_of(user)}}
        with dynamodb_client(endpoint) as client:
            item = client.get_item(TableName=table, Key=key, ConsistentRead=True)["Item"]
            if not name:
                client.delete_item(TableName=table, Key=key)
                return
            (item if name == "event_ts" else item["values"]["M"])[name] = value
            client.put_item(TableName=table, Item=item)

    return Store(
        url,
        change,
        lambda user: change(user, "rating", {"B": RATING}),
        lambda user: change(user, "event_ts", {"S": "1970-01-01 00:00:00+00:00"}),
    )


def verified(cli: Cli, path: Path, url: str, *options: str) -> tuple[int, dict[str, Any]]:
    outcome = cli.here("verify", path, "--dataset", "movielens", "--to", url, "--json", *options)
    assert outcome.code in (0, 1), outcome.stderr
    (found,) = json.loads(outcome.stdout)["sinks"].values()
    return outcome.code, found


def test_what_the_source_says_is_there(cli: Cli, place: Store) -> None:
    """Each user's newest rating, of equal times the later row; in any order of time, and of files that share users."""
    path = ratings(cli.folder / "ratings.csv", ROWS)
    cli.load(path, "--dataset", "movielens", "--to", place.url)
    code, found = verified(cli, path, place.url)
    assert (code, found["compared"]) == (0, len({user for user, *_ in ROWS}))
    other = ratings(cli.folder / "other.csv", some_ratings(500, 150, 6))
    cli.load(other, "--dataset", "movielens", "--to", place.url)
    assert verified(cli, path, place.url, str(other))[0] == 0


def test_each_difference_is_found(cli: Cli, place: Store) -> None:
    """An entity that is gone, a feature that is another, and an event that is older than the newest."""
    path = ratings(cli.folder / "ratings.csv", ROWS)
    cli.load(path, "--dataset", "movielens", "--to", place.url)
    users = sorted({user for user, _, rating, _ in newest_rows() if rating != 0.5})
    place.remove(users[0])
    place.alter(users[1])
    place.turn_back(users[2])
    code, found = verified(cli, path, place.url)
    assert code == 1
    assert (found["missing"], found["altered"], found["extra"]) == (2, 1, 1)
    named = {(one["kind"], one["user_id"]) for one in found["first"]}
    assert named == {
        ("missing", str(users[0])),
        ("altered", str(users[1])),
        ("missing", str(users[2])),
        ("extra", str(users[2])),
    }


def newest_rows() -> list[tuple[int, int, float, int]]:
    """By a loop."""
    found: dict[int, tuple[int, int, float, int]] = {}
    for row in ROWS:
        if row[0] not in found or row[3] >= found[row[0]][3]:
            found[row[0]] = row
    return list(found.values())


def test_texts_and_dead_letters(cli: Cli, place: Store) -> None:
    """Ids as stored, times; a row that the sink refused is not asked for, and the one before it is."""
    path = ratings(cli.folder / "ratings.csv", [*ROWS[:300], (1, 2**31, 1.0, 10_000), (500, 2**31, 1.0, 10_000)])
    url = place.url.replace(RATINGS, "entity=user_id:INT64&features=video_id:INT32")
    cli.load(path, "--dataset", "movielens", "--to", url)
    assert len(cli.dead_letters) == 2
    assert verified(cli, path, url)[0] == 0
    url = place.url.replace(RATINGS, OF_TEXTS)
    cli.load(path, "--dataset", "movielens", "--to", url)
    assert verified(cli, path, url)[0] == 0


def test_a_load_that_was_stopped_is_held_to_what_it_has(cli: Cli, place: Store) -> None:
    """Rows beyond the checkpoint may be there or not."""
    path = ratings(cli.folder / "ratings.csv", ROWS)
    cli.run_with(path, "--dataset", "movielens", "--to", place.url, "--limit", "700")
    code, found = verified(cli, path, place.url)
    assert (code, found["complete"]) == (0, False)


def test_other_sinks_are_verified_beside_it(cli: Cli, place: Store) -> None:
    """Each by its own keys, with one reading of the source."""
    path = ratings(cli.folder / "ratings.csv", ROWS)
    to = ("--to", place.url, "--to", "sqlite:///here.db")
    cli.load(path, "--dataset", "movielens", *to)
    outcome = cli.here("verify", path, "--dataset", "movielens", *to, "--json")
    found = {name: one["compared"] for name, one in json.loads(outcome.stdout)["sinks"].items()}
    assert (outcome.code, found["feast"]) == (0, len({user for user, *_ in ROWS}))
    assert found["sqlite"] > found["feast"]


@pytest.mark.parametrize("row", GOLDEN["rows"]["INT64"], ids=lambda row: str(row["time_us"]))
def test_times_of_feast_are_read(row: dict[str, Any]) -> None:
    """And what is no time is none."""
    message = bytes.fromhex(row["hash"][f"_ts:{GOLDEN['view']}".encode().hex()])
    assert moment_us(message) == row["time_us"]
    assert moment_us(b"\x08\xfb" + b"\xff" * 8 + b"\x01") == -5_000_000
    assert [moment_us(one) for one in (None, b"\x08", b"\x08\x80", b"\x18\x01", b"text")] == [None] * 5
