"""What is known of items, in every sink: put together from several data sets, verified, resumed, and shown."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid5

import pymongo
import pytest
import redis

from ingest_service import InteractionStore, ingest
from ingest_service.datasets import dataset_named
from ingest_service.errors import ConfigurationError
from ingest_service.pipeline.run import examine, sinks_of
from ingest_service.rows.interaction import NAMESPACE
from ingest_service.sinks.items import about_items
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, Cli, create_tables, dynamodb_at, dynamodb_client, postgresql
from tests.test_durability import Recorder

TITLES = 'item,title\r\n2,"Cats, dogs 🐈 and ""more"""\r\n3,\r\n9,Nobody saw it\r\nx,No number\r\n2,Cats\r\n'
COUNTS = "2\t10\t2000\n3\t0\t3\n"
FILES = {"microlens-titles": ("titles.csv", TITLES), "microlens-likes-and-views": ("likes_and_views.txt", COUNTS)}


def video(number: int) -> str:
    return str(uuid5(NAMESPACE, f"video_{number}"))


KNOWN = {
    video(2): {"title": "Cats", "likes": 10, "views": 2000},
    video(3): {"title": "", "likes": 0, "views": 3},
    video(9): {"title": "Nobody saw it"},
}


@dataclass
class Store:
    """A sink, and a plain look at its items and a change to them, by its own client."""

    name: str
    url: str
    table: str = ""

    def items(self) -> dict[str, dict[str, Any]]:
        match self.name:
            case "redis":
                with redis.Redis.from_url(self.url, decode_responses=True) as client:
                    keys: list[str] = list(client.scan_iter("item:*"))
                    found = {key[6:-1]: client.hgetall(key) for key in keys}
                    assert all(client.ttl(key) == -1 for key in keys)
                return {item: {n: v if n == "title" else int(v) for n, v in one.items()} for item, one in found.items()}
            case "sqlite":
                with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection:
                    connection.row_factory = sqlite3.Row
                    rows = [dict(row) for row in connection.execute("SELECT * FROM items")]
                return {row.pop("video_id"): {n: v for n, v in row.items() if v is not None} for row in rows}
            case "mongodb":
                with pymongo.MongoClient[dict[str, Any]](self.url.partition("?")[0], directConnection=True) as client:
                    documents = client.get_default_database()["items"].find().to_list()
                assert all(document["_id"] == document["video_id"] for document in documents)
                return {document.pop("video_id"): document for document in documents if document.pop("_id")}
            case "postgresql":
                with postgresql(self.url) as connection:
                    cursor = connection.execute("SELECT * FROM items")
                    columns = [column.name for column in cursor.description or ()]
                    found_rows = [dict(zip(columns, row, strict=True)) for row in cursor]
                return {str(row.pop("video_id")): {n: v for n, v in row.items() if v is not None} for row in found_rows}
            case _:
                with dynamodb_client(self.endpoint) as client:
                    items = client.scan(TableName=f"{self.table}_items")["Items"]
                typed = ({n: v.get("S") if "S" in v else int(v["N"]) for n, v in item.items()} for item in items)
                return {str(item.pop("video_id")): item for item in typed}

    def change(self, item: str) -> None:
        """Give it another title, behind the program's back."""
        match self.name:
            case "redis":
                with redis.Redis.from_url(self.url) as client:
                    client.hset(f"item:{{{item}}}", "title", "Dogs")
            case "sqlite":
                with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection:
                    connection.execute("UPDATE items SET title = 'Dogs' WHERE video_id = ?", (item,))
                    connection.commit()
            case "mongodb":
                with pymongo.MongoClient[dict[str, Any]](self.url.partition("?")[0], directConnection=True) as client:
                    client.get_default_database()["items"].update_one({"_id": item}, {"$set": {"title": "Dogs"}})
            case "postgresql":
                with postgresql(self.url) as connection:
                    connection.execute("UPDATE items SET title = 'Dogs' WHERE video_id = %s", (item,))
            case _:
                with dynamodb_client(self.endpoint) as client:
                    client.update_item(
                        TableName=f"{self.table}_items",
                        Key={"video_id": {"S": item}},
                        UpdateExpression="SET title = :dogs",
                        ExpressionAttributeValues={":dogs": {"S": "Dogs"}},
                    )

    @property
    def endpoint(self) -> str:
        return self.url.partition("endpoint=")[2].partition("&")[0]


@pytest.fixture(params=["redis", "sqlite", "mongodb", "dynamodb", "postgresql"])
def store(request: pytest.FixtureRequest, cli: Cli) -> Iterator[Store]:
    if request.param == "sqlite":
        yield Store("sqlite", f"sqlite:///{cli.folder}/here.db")
    elif request.param == "dynamodb":
        table = request.getfixturevalue("table")
        url = dynamodb_at(request.getfixturevalue("dynamodb_url"), table, item_table=f"{table}_items")
        asyncio.run(create_tables(url))
        yield Store("dynamodb", url, table)
    elif request.param == "postgresql":
        yield Store("postgresql", request.getfixturevalue("postgresql_schema_url"))
    else:
        yield Store(request.param, request.getfixturevalue(f"{request.param}_db_url"))


@pytest.fixture
def loaded(store: Store, cli: Cli) -> Store:
    """With titles and counts, each loaded twice, and a user's interactions."""
    for name, (file, text) in FILES.items():
        cli.file(file, text)
        checked = cli.here("check", file, "--create", "--dataset", name, "--to", store.url)
        assert checked.code == 0, checked.stdout
        for _ in range(2):
            cli.load(file, "--dataset", name, "--to", store.url, "--restart")
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n1,3,{FIRST_MS + 1}\n1,4,{FIRST_MS + 2}\n")
    cli.load("pairs.csv", "--to", store.url)
    return store


def verify(cli: Cli, name: str, store: Store) -> tuple[int, dict[str, Any]]:
    outcome = cli.here("verify", FILES[name][0], "--dataset", name, "--to", store.url, "--json")
    (found,) = outcome.report["sinks"].values()
    return outcome.code, {kind: found[kind] for kind in ("compared", "missing", "altered", "extra")}


def test_what_is_known_is_put_together(loaded: Store, cli: Cli) -> None:
    """One record an item, of two data sets; verify holds each to its own, and sees what was changed."""
    assert loaded.items() == KNOWN
    assert verify(cli, "microlens-titles", loaded) == (0, {"compared": 3, "missing": 0, "altered": 0, "extra": 0})
    loaded.change(video(3))
    assert verify(cli, "microlens-likes-and-views", loaded)[0] == 0
    assert verify(cli, "microlens-titles", loaded) == (1, {"compared": 3, "missing": 0, "altered": 1, "extra": 0})


def test_titles_stand_beside_interactions(loaded: Store, cli: Cli) -> None:
    """In `show --titles`, and in the API; an item's own record is shown by its id in the files."""
    shown = cli.here("show", "1", "--to", loaded.url, "--titles", "--json")
    rows = json.loads(shown.stdout)["interactions"]
    assert [row.get("title") for row in rows] == [None, "", "Cats"]
    assert "title" not in cli.here("show", "1", "--to", loaded.url, "--json").stdout
    counts = cli.here("show", "2", "--to", loaded.url, "--dataset", "microlens-likes-and-views", "--json")
    assert json.loads(counts.stdout)["fields"] == {"likes": 10, "views": 2000}
    nothing = cli.here("show", "7", "--to", loaded.url, "--dataset", "microlens-titles")
    assert f"knows nothing of item 7 ({video(7)})" in nothing.stdout


async def test_the_api_puts_titles_beside(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`titles=True`, for `recent` and `history`; a video without a title has none."""
    monkeypatch.chdir(cli.folder)
    to = ["sqlite:///here.db"]
    await ingest(cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n1,4,{FIRST_MS + 2}\n"), to=to)
    await ingest(cli.file("titles.csv", TITLES), to=to, dataset="microlens-titles")
    store = InteractionStore(to)
    wanted: list[dict[str, Any]] = [{"title": "Cats"}, {}]
    assert [one.model_extra for one in await store.history(user=1, titles=True)] == wanted
    assert [one.model_extra for one in await store.recent(user=1, titles=True)] == wanted[::-1]
    assert [one.model_extra for one in await store.recent(user=1)] == [{}, {}]


def test_kills_lose_nothing(store: Store, cli: Cli) -> None:
    """Killed again and again, in a place of its own: nothing is lost, and the store itself is as it was."""
    rows = "".join(f"{n},Title {n}\n" for n in range(500))
    cli.file("titles.csv", f"item,title\n{rows}")
    arguments = ("--dataset", "microlens-titles", "--to", store.url, "--cycles", "2", "--seed", "5", "--json")
    outcome = cli.run("crash-test", "titles.csv", *arguments)
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["rows_lost"] == outcome.report["rows_doubled"] == 0


def test_a_half_line_is_taken_back(store: Store, cli: Cli) -> None:
    """A file that ends within a row, and goes on later: the half title goes, what others say of the item stays."""
    cli.file("likes_and_views.txt", COUNTS)
    cli.file("titles.csv", "item,title\n9,Nobody\n2,Ca")
    for name, (file, _) in FILES.items():
        assert cli.here("check", "--create", "--dataset", name, "--to", store.url).code == 0
        cli.load(file, "--dataset", name, "--to", store.url)
    assert store.items()[video(2)]["title"] == "Ca"
    cli.file("titles.csv", "item,title\n9,Nobody\n2,Cats\n22,Dogs\n")
    cli.load("titles.csv", "--dataset", "microlens-titles", "--to", store.url)
    assert store.items()[video(2)] == {"title": "Cats", "likes": 10, "views": 2000}
    assert verify(cli, "microlens-titles", store)[0] == 0


def test_a_key_that_holds_something_else(cli: Cli, redis_db_url: str) -> None:
    """Its item is a dead letter, and all others are stored."""
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(f"item:{{{video(2)}}}", "theirs")
    cli.file("likes_and_views.txt", COUNTS)
    loaded = cli.load("likes_and_views.txt", "--dataset", "microlens-likes-and-views", "--to", redis_db_url)
    assert loaded.counts("redis") | {"dead": 1, "written": 1} == loaded.counts("redis")
    with redis.Redis.from_url(redis_db_url) as client:
        client.delete(f"item:{{{video(2)}}}")
    (letters,) = cli.folder.rglob("dead-letters.jsonl")
    replayed = cli.here("replay", letters, "--dataset", "microlens-likes-and-views", "--to", redis_db_url, "--json")
    assert replayed.report["landed"] == 1
    assert len(Store("redis", redis_db_url).items()) == 2


def test_a_table_of_other_items_is_refused(cli: Cli) -> None:
    """Before a row is written: it has another key."""
    path = cli.folder / "theirs.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
    url = f"sqlite:///{path}"
    dataset = dataset_named("microlens-titles")
    findings = asyncio.run(examine(sinks_of([url], dataset)[0], dataset))
    assert [one.ok for one in findings] == [True, False]
    assert "is not keyed by video_id" in findings[-1].detail
    cli.file("titles.csv", TITLES)
    refused = cli.here("run", "titles.csv", "--dataset", "microlens-titles", "--to", url)
    assert (refused.code, "is not keyed by video_id" in refused.message) == (78, True)


def test_a_table_that_is_missing(cli: Cli, dynamodb_url: str, table: str) -> None:
    """`run` says how it is made; the table of interactions is not needed."""
    url = dynamodb_at(dynamodb_url, table, item_table=f"{table}_items")
    cli.file("titles.csv", TITLES)
    named = ("titles.csv", "--dataset", "microlens-titles", "--to", url)
    refused = cli.here("run", *named)
    assert (refused.code, f"no DynamoDB table {table}_items" in refused.message) == (78, True)
    assert cli.here("check", *named, "--create").code == 0
    assert cli.here("run", *named).code == 0
    status = cli.here("status", "--dataset", "microlens-titles", "--to", url)
    assert (status.code, "titles.csv  complete" in status.stdout) == (0, True)


def test_too_large_for_dynamodb(cli: Cli, dynamodb_url: str, table: str) -> None:
    """A title over its limit is a dead letter with the reason."""
    url = dynamodb_at(dynamodb_url, table, item_table=f"{table}_items")
    cli.file("titles.csv", f"item,title\n1,small\n2,{'x' * 450_000}\n")
    named = ("titles.csv", "--dataset", "microlens-titles", "--to", url)
    assert cli.here("check", *named, "--create").code == 0
    counts = cli.load(*named).counts("dynamodb")
    assert (counts["written"], counts["dead"]) == (1, 1)


def test_own_items_by_a_schema_file(cli: Cli, ml_latest_small: Any) -> None:
    """MovieLens's movies: genres as a list, ids under the movies' own prefix, so that they are those of its ratings."""
    fields = [
        {"name": "movieId", "type": "integer", "x-role": "item", "x-prefix": "movielens_movie_"},
        {"name": "title", "x-keep": True},
        {"name": "genres", "type": "list", "delimiter": "|", "x-keep": True},
    ]
    schema = {"name": "movies", "schema": {"fields": fields}, "x-about": "items"}
    cli.file("movies.yaml", json.dumps(schema))
    movies = ml_latest_small / "movies.csv"
    cli.load(movies, "--dataset", "movies.yaml", "--to", "sqlite:///here.db", "--max-rejects", "0")
    cli.load(ml_latest_small / "ratings.csv", "--dataset", "movielens", "--to", "sqlite:///here.db")
    verified = cli.here("verify", movies, "--dataset", "movies.yaml", "--to", "sqlite:///here.db", "--json")
    assert (verified.code, verified.report["sinks"]["sqlite"]["compared"]) == (0, 9742)
    shown = cli.here("show", "1", "--dataset", "movielens", "--to", "sqlite:///here.db", "--titles", "--json")
    rows = json.loads(shown.stdout)["interactions"]
    assert rows
    assert all(row["title"] for row in rows)
    toy = cli.here("show", "1", "--dataset", "movies.yaml", "--to", "sqlite:///here.db", "--json")
    assert json.loads(toy.stdout)["fields"]["genres"].startswith('["Adventure", "Animation"')


def test_a_sink_that_holds_none(tmp_path: Path) -> None:
    """A sink without the ability is refused by its name."""
    with pytest.raises(ConfigurationError, match="is a kind of sink that holds interactions"):
        about_items(Recorder(tmp_path, set(), 1, 0))
