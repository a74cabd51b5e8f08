"""`estimate` held to what the real stores say once the rows are there."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow.parquet as parquet
import pymongo
import pytest
import redis

from ingest_service.sinks.dynamodb.sizes import Prices
from ingest_service.sinks.redis.about import About
from ingest_service.sinks.redis.commands import Keeping
from ingest_service.sinks.redis.sizes import RedisTally
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, UNREACHABLE, Cli, create_tables, dynamodb_at, dynamodb_client

ROWS = 40_000
NOTES = """
name: notes
schema:
  fields:
    - {name: user, type: string, x-role: owner}
    - {name: item, type: string, x-role: item}
    - {name: at, type: integer, x-role: time, x-unit: ms}
    - {name: weight, type: number, x-keep: true}
    - {name: note, type: string, x-keep: true}
"""


def estimated(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    outcome = cli.here("estimate", *arguments, "--json")
    assert outcome.code == 0, outcome.stderr
    made: dict[str, Any] = json.loads(outcome.stdout)
    return made


def pairs(cli: Cli, users: list[int]) -> Path:
    """A row a user of the list, each another key."""
    rows = (f"{user},{i % 5000},{FIRST_MS + 1000 * i}\n" for i, user in enumerate(users))
    return cli.file("pairs.csv", f"{HEADER}\n{''.join(rows)}")


def test_rows_users_and_repeated_keys_are_counted_exactly(cli: Cli) -> None:
    """As a loop over the lines counts them, over many blocks; a repeated key counts wherever it comes again."""
    rng = random.Random(3)
    rows = [(rng.randrange(900), rng.randrange(40), rng.randrange(300)) for _ in range(30_000)]
    lines = [f"{user},{item},{FIRST_MS + at}{' ' * 200}\n" for user, item, at in rows]
    lines[5_000:5_000] = ["x,1,2\n"] * 7
    found = estimated(cli, cli.file("pairs.csv", f"{HEADER}\n{''.join(lines)}"), "--to=sqlite:///here.db")
    of_users = Counter(user for user, _, _ in set(rows))
    assert (found["rows_read"], found["rejected"], found["records"]) == (30_007, 7, 30_000)
    assert found["repeated_keys"] == 30_000 - len(set(rows))
    assert (found["users"], found["records_of_largest_user"]) == (len(of_users), max(of_users.values()))
    assert not (cli.folder / "here.db").exists()


SHAPES: dict[str, Callable[[random.Random], list[int]]] = {
    "a row a user": lambda _: list(range(ROWS)),
    "three rows a user": lambda rng: [rng.randrange(ROWS // 3) for _ in range(ROWS)],
    "twenty rows a user": lambda rng: [rng.randrange(ROWS // 20) for _ in range(ROWS)],
    "few users with nearly all": lambda _: (np.random.default_rng(1).zipf(1.3, ROWS) % 100_000).tolist(),
    "sorted by user, more than are kept": lambda _: [i // 150 for i in range(ROWS)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_memory_of_redis_is_known_within_three_percent(cli: Cli, redis_db_url: str, shape: str) -> None:
    """Beside what the server says it took; users whose sets are trimmed, and the server's own tables, included."""
    file = pairs(cli, SHAPES[shape](random.Random(1)))
    sizes = estimated(cli, file, f"--to={redis_db_url}")["sinks"]["redis"]
    with redis.Redis.from_url(redis_db_url) as client:
        before = client.info("memory")["used_memory"]
        cli.load(file, f"--to={redis_db_url}")
        keys = list(client.scan_iter("recent:*", count=10_000))
        took = client.info("memory")["used_memory"] - before
        assert sizes["keys"] == len(keys)
        assert sizes["rows"] == sum(client.zcard(key) for key in keys)
    assert sizes["memory_bytes"] == pytest.approx(took, rel=0.03)
    assert "formula" not in sizes, "another Redis: its structures are to be looked at"


def test_the_limits_of_redis_are_said(cli: Cli, redis_db_url: str) -> None:
    """maxmemory and its policy; and where the server cannot be asked, that it cannot be, beside all the rest."""
    file = pairs(cli, [1, 2, 3])
    with redis.Redis.from_url(redis_db_url) as client:
        client.config_set("maxmemory", 1 << 30)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            sizes = estimated(cli, file, f"--to={redis_db_url}")["sinks"]["redis"]
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
    assert (sizes["maxmemory_bytes"], sizes["maxmemory_policy"]) == (1 << 30, "allkeys-lru")
    sizes = estimated(cli, file, f"--to=redis://{UNREACHABLE}?retry_budget_s=0.1")["sinks"]["redis"]
    assert sizes["rows"] == 3
    assert "cannot be reached" in sizes["limits"] or "not known" in sizes["limits"]


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"redis_version": "7.0.15"}, None),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "that of Redis 7.0; the server is Valkey 9.1.2"),
        ({"redis_version": "7.00.1"}, "that of Redis 7.0; the server is Redis 7.00.1"),
        ({"redis_version": "8.0.0"}, "that of Redis 7.0; the server is Redis 8.0.0"),
        ({}, "that of Redis 7.0; the server is of an unknown version"),
    ],
)
async def test_of_another_server_it_is_said_that_the_formula_is_not_its(info: dict[str, str], says: str | None) -> None:
    """By what the server's INFO calls it."""

    async def look() -> tuple[list[About], str]:
        return [About.of(info)], ""

    assert (await RedisTally(Keeping("", 100, 60), look).ask()).get("formula") == says


def test_write_units_are_those_that_dynamodb_counts(cli: Cli, dynamodb_url: str, table: str) -> None:
    """Item by item, on both sides of a kilobyte: texts outside ASCII, numbers with many digits and few."""
    rng = random.Random(5)
    notes = [rng.choice(("é", "n", "xy")) * (rng.randrange(1_500) if i % 2 else 380 + i % 40) for i in range(300)]
    weights = ("1", "-2.5", "123456.789", "0.001", "100")
    rows = [f"u{i % 7},i{i},{FIRST_MS + i},{rng.choice(weights)},{note}" for i, note in enumerate(notes)]
    file, schema = cli.file("notes.csv", "user,item,at,weight,note\n" + "\n".join(rows)), cli.file("notes.yaml", NOTES)
    url = dynamodb_at(dynamodb_url, table)
    asyncio.run(create_tables(url))
    sizes = estimated(cli, file, f"--to={url}", f"--dataset={schema}")["sinks"]["dynamodb"]
    cli.load(file, f"--to={url}", f"--dataset={schema}")
    with dynamodb_client(dynamodb_url) as client:
        items = [item for page in client.get_paginator("scan").paginate(TableName=table) for item in page["Items"]]
        put = [client.put_item(TableName=table, Item=item, ReturnConsumedCapacity="TOTAL") for item in items]
    units = [answer["ConsumedCapacity"]["CapacityUnits"] for answer in put]
    assert sizes["items"] == len(items) == 300
    assert sizes["write_units"] == sum(units)
    assert sizes["usd_on_demand"] == pytest.approx(sum(units) * 0.625e-6, abs=1e-4)


def test_a_list_of_prices_takes_the_place_of_ours(cli: Cli) -> None:
    """With its region and date; one that is none is refused with the place and what would be right."""
    file, to = pairs(cli, list(range(2_000))), "--to=dynamodb://table?region=eu-west-1&wcu=10"
    listed = {"region": "eu-west-1", "usd_per_million_write_units": 700, "usd_per_unit_hour": 3.6}
    listed |= {"usd_per_gb_month": 1, "usd_per_gb_imported": 1}
    text = "date = 2026-01-02\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in listed.items())
    sizes = estimated(cli, file, to, f"--prices={cli.file('prices.toml', text)}")["sinks"]["dynamodb"]
    assert (sizes["prices"], sizes["write_units"]) == ("eu-west-1, 2026-01-02", 2_000)
    assert (sizes["usd_on_demand"], sizes["usd_provisioned"], sizes["load_s"]) == (1.4, 2.0, 200.0)
    for wrong, says in (("usd_per_unit_hour = 1", "region"), ("= 1", "TOML")):
        outcome = cli.here("estimate", file, to, f"--prices={cli.file('prices.toml', wrong)}")
        assert (outcome.code, says in outcome.message) == (78, True), outcome.stderr
    assert Prices.of(None).region == "us-east-1"


@pytest.mark.parametrize("shape", ["twenty rows a user", "a row a user"])
def test_disk_is_known_within_a_tenth(cli: Cli, postgresql_schema_url: str, shape: str) -> None:
    """SQLite's file; PostgreSQL's table and its key, each for itself."""
    file = pairs(cli, SHAPES[shape](random.Random(1)))
    sinks = estimated(cli, file, "--to=sqlite:///here.db", f"--to={postgresql_schema_url}")["sinks"]
    cli.load(file, "--to=sqlite:///here.db", f"--to={postgresql_schema_url}")
    assert sinks["sqlite"]["disk_bytes"] == pytest.approx((cli.folder / "here.db").stat().st_size, rel=0.1)
    url, _, schema = postgresql_schema_url.partition("?schema=")
    place = f"'{schema}.interactions'"
    with psycopg.connect(url) as connection:
        statement = f"SELECT pg_table_size({place}), pg_indexes_size({place})".encode()
        ((table, index),) = connection.execute(statement).fetchall()
    assert sinks["postgresql"]["table_bytes"] == pytest.approx(table, rel=0.1)
    assert sinks["postgresql"]["index_bytes"] == pytest.approx(index, rel=0.1)


@pytest.mark.parametrize("notes", [False, True])
def test_documents_are_those_that_mongodb_counts(cli: Cli, mongodb_db_url: str, notes: bool) -> None:
    """Their bytes exactly, by `collStats`; the keys of their index within a tenth; a key that comes again once."""
    rng = random.Random(4)
    rows = [(rng.randrange(400), rng.randrange(20), FIRST_MS + rng.randrange(50)) for _ in range(3_000)]
    file, arguments = pairs(cli, []), [f"--to={mongodb_db_url}"]
    file.write_text("\n".join([HEADER, *(f"{user},{item},{at}" for user, item, at in rows)]) + "\n")
    if notes:
        texts = (rng.choice(("é", "n", "xy")) * rng.randrange(1, 300) for _ in rows)
        lines = (f"u{user},i{item},{at},{user / 8},{text}" for (user, item, at), text in zip(rows, texts, strict=True))
        file.write_text("\n".join(["user,item,at,weight,note", *lines]) + "\n")
        arguments.append(f"--dataset={cli.file('notes.yaml', NOTES)}")
    sizes = estimated(cli, file, *arguments)["sinks"]["mongodb"]
    cli.load(file, *arguments)
    with pymongo.MongoClient[dict[str, Any]](mongodb_db_url) as client:
        counted = client.get_default_database().command("collStats", "interactions")
    assert sizes["documents"] == counted["count"] == len(set(rows))
    assert sizes["document_bytes"] == pytest.approx(counted["size"], rel=0)
    assert sizes["index_bytes"] == pytest.approx(counted["totalIndexSize"], rel=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_parquet_is_known_within_a_tenth(cli: Cli, shape: str) -> None:
    """Many row groups, of which some were written for it: beside the files that a load makes."""
    users = SHAPES[shape](random.Random(1))
    file = pairs(cli, [user for part in range(8) for user in users])
    sizes = estimated(cli, file, "--to=parquet:///lake")["sinks"]["parquet"]
    assert not (cli.folder / "lake").exists()
    cli.load(file, "--to=parquet:///lake")
    files = list((cli.folder / "lake").glob("month=*/*.parquet"))
    assert sizes["rows"] == sum(parquet.read_metadata(file).num_rows for file in files)
    assert sizes["disk_bytes"] == pytest.approx(sum(file.stat().st_size for file in files), rel=0.1)


def test_a_measured_rate_leaves_nothing_behind(cli: Cli, redis_db_url: str) -> None:
    """The first rows go to scratch places; nothing is in the sinks, nor among the dead letters, afterwards."""
    file = pairs(cli, list(range(1_000)))
    sinks = estimated(cli, file, "--measure", f"--to={redis_db_url}", "--to=sqlite:///here.db")["sinks"]
    assert {sizes["rate"] for sizes in sinks.values()} == {"measured"}
    assert all(sizes["rows_per_s"] > 0 for sizes in sinks.values())
    with redis.Redis.from_url(redis_db_url) as client:
        assert client.dbsize() == 0
    assert {path.name for path in cli.folder.iterdir()} <= {"pairs.csv"}


def test_it_is_told_to_people_and_of_one_file(cli: Cli) -> None:
    """Lines with names and numbers; a store of which nothing is known is said; several files are refused."""
    file = pairs(cli, [1, 1, 2])
    feast = f"--to=feast+redis://{UNREACHABLE}?project=p&view=v&entity=user_id:INT64&features=video_id"
    outcome = cli.here("estimate", file, "--to=sqlite:///here.db", feast)
    assert outcome.code == 0
    assert "3 rows: 3 records of 2 users, 0 refused" in outcome.stdout
    assert "disk bytes" in outcome.stdout
    assert "no estimate is made" in outcome.stdout
    cli.file("other.csv", f"{HEADER}\n")
    assert cli.here("estimate", str(cli.folder / "*.csv"), "--to=sqlite:///here.db").code == 2
    assert cli.here("estimate", "-", "--to=sqlite:///here.db").code == 2


def test_items_are_no_users(cli: Cli) -> None:
    """Data sets about items are counted by items; what they take is not told, and that is said."""
    schema = cli.file(
        "titles.yaml",
        "name: titles\nx-about: items\nschema:\n  fields:\n    - {name: movieId, type: integer, x-role: item}\n"
        "    - {name: title, type: string, x-keep: true}\n",
    )
    file = cli.file("movies.csv", "movieId,title\n1,Toy Story\n2,Jumanji\n2,Jumanji II\nx,no\n")
    arguments = (file, f"--dataset={schema}", "--to=sqlite:///here.db")
    found = estimated(cli, *arguments)
    assert (found["records"], found["rejected"], found["repeated_keys"], found["items"]) == (3, 1, 1, 2)
    assert not any("user" in name for name in found)
    outcome = cli.here("estimate", *arguments)
    assert "4 rows: 3 records of 2 items, 1 refused" in outcome.stdout
    assert "no estimate is made of what is known of items" in outcome.stdout
    assert "largest user" not in outcome.stdout
