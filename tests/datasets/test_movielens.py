"""MovieLens's files: every row becomes the record that the specification says, in every kind of sink."""

import asyncio
import contextlib
import csv
import io
import json
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets.kinds import ID, TEXT, Kind, Time
from ingest_service.datasets.movielens import LINKS, MOVIELENS, MOVIES, TAGS, HalfStars
from ingest_service.errors import RowError
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.rows.interaction import timestamp_text
from ingest_service.sources.local import FileSource
from tests.helpers import (
    Cli,
    create_tables,
    dynamodb_at,
    dynamodb_client,
    dynamodb_items,
    mongodb_documents,
    redis_sets,
    sqlite_rows,
)

HEADERS = {
    MOVIELENS: "userId,movieId,rating,timestamp",
    TAGS: "userId,movieId,tag,timestamp",
    LINKS: "movieId,imdbId,tmdbId",
    MOVIES: "movieId,title,genres",
}
FIELDS: dict[Kind, st.SearchStrategy[str]] = {
    ID: st.sampled_from(["1", "007", "-3", "x", "", " 5 "]),
    Time("s"): st.sampled_from(["1445714994", "0", "-1", "9214646399", "", "2020-01-01T00:00:00"]),
    HalfStars(): st.sampled_from(
        ["4", "4.0", "0.5", "5.0", "5.5", "0", "0.0", "4.25", "4.50", " 3 ", "", ".5", "4.", "10"]
    )
    | st.text("0123456789.", max_size=4),
    TEXT: st.sampled_from(["funny", "a b ", "", "0114709", "Cité", 'say ""x""', "x'y", "1|2"]) | st.text(max_size=5),
}
WRAPS = st.sampled_from(["{}"] * 4 + ['"{}"', ' "{}" ', '"{}"x'])


@st.composite
def files(draw: st.DrawFn, dataset: Any) -> bytes:
    rows = [
        ",".join(draw(WRAPS).replace("{}", draw(FIELDS[column.kind])) for column in dataset.columns)
        for _ in range(draw(st.integers(0, 8)))
    ]
    return draw(st.sampled_from(["\n", "\r\n"])).join([HEADERS[dataset], *rows]).encode(errors="replace")


@pytest.mark.parametrize("dataset", HEADERS, ids=lambda dataset: dataset.name)
@given(data=st.data())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_columns_and_specification_agree(
    tmp_path_factory: pytest.TempPathFactory, dataset: Any, data: st.DataObject
) -> None:
    """Whatever the file holds, the columnar path accepts the rows that the specification does, with their values."""
    path = tmp_path_factory.getbasetemp() / "movielens.csv"
    path.write_bytes(data.draw(files(dataset)))
    reader = DelimitedReader(FileSource(path), dataset)
    try:
        while (block := reader.next()) is not None:
            chunk = reader.chunk(block)
            wanted = [values for row in reader.values(block) if not isinstance(row, RowError) for values in row]
            assert chunk.accepted == len(wanted)
            texts = {name: texts.to_list() for name, texts in chunk.columns.texts.items()}
            for row, values in enumerate(wanted):
                by_role = dict(zip([column.role for column in dataset.columns], values, strict=True))
                assert chunk.columns.owner[0][row] == by_role.get("user", by_role["item"])
                for role, value in by_role.items():
                    if role in texts and role != "timestamp":
                        assert texts[role][row] == (value.strip() if dataset is MOVIES else value)
                if dataset is not MOVIES:
                    one = dataset.interaction(by_role)
                    assert texts["user_id"][row] == str(one.user_id)
                    assert texts["video_id"][row] == str(one.video_id)
                    assert texts["timestamp"][row] == timestamp_text(one.timestamp)
                    assert (texts["event_type"][row], texts["device"][row]) == (one.event_type.value, one.device.value)
                    assert texts["session_id"][row] == one.session_id
    finally:
        reader.close()


@pytest.mark.parametrize("number", ["1", '"1"', " 1 ", '"1" '])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", ""])
def test_a_text_at_the_end_of_a_line(cli: Cli, number: str, end: str) -> None:
    """One CR belongs to the line end, any more to the text; whichever way the row is parsed."""
    cli.file("links.csv", f"movieId,imdbId,tmdbId\n{number},0114709,862{end}")
    cli.load("links.csv", "--dataset", "movielens-links")
    assert [row["tmdb_id"] for row in cli.rows.values()] == ["862\r" if end == "\r\r\n" else "862"]


# --- into every sink --------------------------------------------------------------------------------

FILES = {
    "movielens": 'userId,movieId,rating,timestamp\n1,2,4.5,1445714994\n2,2,"3",1445714995\n1,2,0.5,1445714994\n',
    "movielens-tags": 'userId,movieId,tag,timestamp\n2,60756,funny,1445714994\n2,60756,"say ""hi"", é",1445714994\n',
    "movielens-links": "movieId,imdbId,tmdbId\n1,0114709,862\n2,0113497,\n",
}
OWN: dict[str, list[dict[str, Any]]] = {
    "movielens": [{"rating": 0.5}, {"rating": 3.0}],
    "movielens-tags": [{"tag": "funny"}, {"tag": 'say "hi", é'}],
    "movielens-links": [{"imdb_id": "0114709", "tmdb_id": "862"}, {"imdb_id": "0113497", "tmdb_id": ""}],
}


def own(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return sorted(({key: row[key] for key in OWN[name][0]} for row in rows), key=str)


@pytest.mark.parametrize("name", FILES)
def test_each_data_set_goes_into_every_sink(
    cli: Cli, name: str, redis_db_url: str, mongodb_db_url: str, dynamodb_url: str, table: str
) -> None:
    """Of a member of an archive, as `run` names it: fields of its own included, and one record a key.

    `verify` finds all as it should be, and in each sink a record whose own field was changed.
    """
    path = cli.folder / "ml-test.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-test/rows.csv", FILES[name])
    dynamodb = dynamodb_at(dynamodb_url, table)
    asyncio.run(create_tables(dynamodb))
    sinks = ["sqlite:///rows.db", redis_db_url, mongodb_db_url, dynamodb]
    arguments = [argument for sink in sinks for argument in ("--to", sink)]
    outcome = cli.here("run", f"{path}#rows.csv", "--dataset", name, *arguments, "--json")
    assert outcome.code == 0, outcome.stderr
    wanted = sorted(OWN[name], key=str)
    assert own(list(sqlite_rows(cli.folder / "rows.db").values()), name) == wanted
    assert own(mongodb_documents(mongodb_db_url, "interactions"), name) == wanted
    items = dynamodb_items(dynamodb_url, table).values()
    plain = [{key: value.get("S", value.get("N")) for key, value in item.items()} for item in items]
    expected = [
        {key: value if isinstance(value, str) else f"{value:g}" for key, value in row.items()} for row in wanted
    ]
    assert own(plain, name) == sorted(expected, key=str)
    members = [json.loads(member) for found in redis_sets(redis_db_url).values() for member in found]
    assert own(members, name) == wanted
    verify = ["verify", f"{path}#rows.csv", "--dataset", name, *arguments, "--json"]
    found = cli.here(*verify)
    assert (found.code, {one["compared"] for one in found.report["sinks"].values()}) == (0, {2}), found.stdout
    change_one(cli, next(iter(OWN[name][0])), redis_db_url, mongodb_db_url, dynamodb_url, table)
    found = cli.here(*verify)
    differences = {sink: (one["missing"], one["altered"], one["extra"]) for sink, one in found.report["sinks"].items()}
    assert found.code == 1
    # Of a set in Redis the tag is all that tells a record from another; elsewhere the key still has the old one.
    by_key = (1, 0, 1) if name == "movielens-tags" else (0, 1, 0)
    assert differences == dict.fromkeys(("sqlite", "mongodb", "dynamodb"), (0, 1, 0)) | {"redis": by_key}


def change_one(cli: Cli, field: str, redis_url: str, mongodb_url: str, dynamodb_url: str, table: str) -> None:
    """Give one record in each sink another value of this field, behind the program's back."""
    with contextlib.closing(sqlite3.connect(cli.folder / "rows.db", isolation_level=None)) as connection:
        first = "SELECT event_key FROM interactions ORDER BY event_key LIMIT 1"
        connection.execute(f'UPDATE interactions SET "{field}" = 5.0 WHERE event_key = ({first})')
    with pymongo.MongoClient[dict[str, Any]](mongodb_url) as mongodb:
        mongodb.get_default_database()["interactions"].update_one({}, {"$set": {field: 5.0}})
    with dynamodb_client(dynamodb_url) as dynamodb:
        item = dynamodb.scan(TableName=table)["Items"][0]
        dynamodb.put_item(TableName=table, Item=item | {field: {"N": "5"}})
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        key = next(client.scan_iter("recent:*"))
        [(member, score)] = client.zrange(key, 0, 0, withscores=True)
        client.zrem(key, member)
        client.zadd(key, {json.dumps(json.loads(member) | {field: "5"}, separators=(",", ":")): score})


def test_replayed_rows_have_their_own_fields(cli: Cli) -> None:
    """A dead letter with texts of its own lands after it was mended, and `verify` knows its tag."""
    path = cli.file("tags.csv", "userId,movieId,tag,timestamp\n1,2,so-so,yesterday\n1,2,good,1445714994\n")
    cli.load(path, "--dataset", "movielens-tags")
    (letters,) = (cli.folder / ".ingest").rglob("dead-letters.jsonl")
    letters.write_text(letters.read_text().replace("yesterday", "1445714994"))
    assert cli.here("replay", letters, "--dataset", "movielens-tags", "--json").report["landed"] == 1
    assert sorted(row["tag"] for row in cli.rows.values()) == ["good", "so-so"]
    found = cli.here("verify", path, "--dataset", "movielens-tags", "--json")
    assert (found.code, found.report["sinks"]["sqlite"]["compared"]) == (0, 2)


def test_a_database_of_other_rows_takes_them_too(cli: Cli) -> None:
    """SQLite's table gets the columns that a data set needs, and keeps what it holds."""
    cli.file("pairs.csv", "user,item,timestamp\n1,2,1583366400000\n")
    cli.file("tags.csv", FILES["movielens-tags"])
    cli.load("pairs.csv")
    cli.load("tags.csv", "--dataset", "movielens-tags")
    cli.file("more.csv", "user,item,timestamp\n3,4,1583366400000\n")
    cli.load("more.csv")
    with sqlite3.connect(cli.folder / "interactions.db") as connection:
        found = connection.execute("SELECT event_type, tag FROM interactions ORDER BY event_type, tag").fetchall()
    connection.close()
    assert found == [("click", None), ("click", None), ("tag", "funny"), ("tag", 'say "hi", é')]


@pytest.mark.parametrize("name", ["tags", "links"])
def test_the_real_files(cli: Cli, ml_latest_small: Path, name: str) -> None:
    """Every row of ml-latest-small, against Python's csv module; imdbId keeps its zeros."""
    text = (ml_latest_small / f"{name}.csv").read_text()
    cli.load(ml_latest_small / f"{name}.csv", "--dataset", f"movielens-{name}")
    rows = list(csv.DictReader(io.StringIO(text)))
    found = list(cli.rows.values())
    if name == "tags":
        assert sorted(row["tag"] for row in found) == sorted(row["tag"] for row in rows)
    else:
        assert sorted((row["imdb_id"], row["tmdb_id"]) for row in found) == sorted(
            (row["imdbId"], row["tmdbId"]) for row in rows
        )
    assert len(found) == len(rows)
