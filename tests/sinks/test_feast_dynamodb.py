"""Feast's online store in a real DynamoDB: what a run leaves there, which row counts, and what is refused."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from ingest_service.errors import ConfigurationError
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.texts import Texts
from ingest_service.sinks.base import AnySink, Written
from ingest_service.sinks.feast.values import entity_ids
from ingest_service.sinks.testing import Kit, Stored, sink  # noqa: F401 (a fixture)
from ingest_service.sinks.testing.keeping import (  # noqa: F401 (of the contract, what holds for one record a user)
    test_a_damaged_checkpoint_is_refused,
    test_a_watermark_is_found_by_the_next_runner,
    test_a_zombie_is_fenced,
    test_an_epoch_stays,
    test_checkpoints_change_by_compare_and_swap,
    test_checkpoints_of_streams_are_apart,
    test_of_many_swaps_at_once_one_is_made,
)
from ingest_service.sinks.testing.reading import (  # noqa: F401
    test_a_sink_that_is_down_is_unhealthy,
    test_check_finds_everything_in_order,
    test_close_is_safe_at_any_time,
    test_health_is_told_by_name,
)
from ingest_service.sinks.testing.rows import chunk_of, interaction, interactions, store
from ingest_service.sinks.testing.writing import (  # noqa: F401
    test_a_cancellation_is_never_swallowed,
    test_an_empty_chunk_is_nothing_to_write,
)
from ingest_service.sinks.urls import sink_at
from tests.helpers import UNREACHABLE, Cli, create_tables, dynamodb_client, opened
from tests.sinks.test_feast import OF_CHUNKS, RATINGS, ratings, some_ratings
from tests.test_recovery import kill_again_and_again

Items = dict[str, dict[str, Any]]


def feast(endpoint: str, table: str, options: str) -> str:
    return f"feast+dynamodb://{table}?endpoint={endpoint}&checkpoint_table={table}_checkpoints&{options}"


def items(endpoint: str, table: str) -> Items:
    """Those of a table by the id of their entity, times as texts and values as bytes."""
    with dynamodb_client(endpoint) as client:
        pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        found = [item for page in pages for item in page["Items"]]
    return {
        item.pop("entity_id")["S"]: {
            "event_ts": item.pop("event_ts")["S"],
            **{name: value["B"] for name, value in item.pop("values")["M"].items()},
            **item,
        }
        for item in found
    }


def id_of(user: int | str) -> str:
    ids = np.array([user]) if isinstance(user, int) else Texts.of([user])
    return entity_ids("user_id", ids)[0]


def of_record(record: VideoInteraction) -> tuple[str, dict[str, Any]]:
    """The id and the item of a record that went in with OF_CHUNKS."""
    session = record.session_id.encode()
    assert len(session) < 128
    value = b"\x12" + bytes([len(session)]) + session
    return id_of(str(record.user_id)), {"event_ts": str(record.timestamp), "session_id": value}


def newest_of(*files: list[tuple[int, int, float, int]]) -> Items:
    """By a loop: of each user the newest, of equal times the later row."""
    found: dict[int, tuple[int, int, float, int]] = {}
    for row in (row for rows in files for row in rows):
        if row[0] not in found or row[3] >= found[row[0]][3]:
            found[row[0]] = row
    made: Items = {}
    for user, movie, rating, seconds in found.values():
        at = np.datetime_as_string(np.datetime64(seconds, "s")).replace("T", " ") + "+00:00"
        low = [movie] if movie < 128 else [movie & 127 | 128, movie >> 7]
        value = b"\x35" + np.float32(rating).tobytes()
        made[id_of(user)] = {"event_ts": at, "rating": value, "video_id": b"\x20" + bytes(low)}
    return made


# --- the contract ---------------------------------------------------------------------------------


class FeastDynamoDBKit(Kit):
    def __init__(self, endpoint: str, table: str, transport: str) -> None:
        self.endpoint, self.table = endpoint, table
        self.url = feast(endpoint, table, f"{OF_CHUNKS}&transport={transport}")
        self.down_url = feast(f"http://{UNREACHABLE}", table, f"{OF_CHUNKS}&retry_budget_s=0.2")

    async def set_up(self) -> None:
        await create_tables(self.url)

    def stored(self) -> Stored:
        return {(key, ""): found for key, found in items(self.endpoint, self.table).items()}

    def remove(self, record: VideoInteraction) -> None:
        raise NotImplementedError

    def exact(self, record: VideoInteraction) -> object:
        return of_record(record)[1]


@pytest_asyncio.fixture(params=["bulk", "sdk"])
async def kit(request: pytest.FixtureRequest, dynamodb_url: str, table: str) -> Kit:
    made = FeastDynamoDBKit(dynamodb_url, table, request.param)
    await made.set_up()
    return made


async def test_each_row_is_accounted_for(kit: FeastDynamoDBKit, sink: AnySink) -> None:  # noqa: F811
    """One row a user is written, the others are merged into it; odd texts and microseconds are as they were."""
    rows = interactions(200)
    rows += [
        interaction(1, 1, 9_214_646_399_999),
        interaction(2, 2, 9_214_646_399_998, session_id='a "quoted" \\ text\r\n\x01 é 𝄞 and }'),
        interaction(3, 3, 9_000_000_000_000, session_id=""),
    ]
    assert await store(sink, chunk_of(rows)) == Written(7, len(rows) - 7)
    assert items(kit.endpoint, kit.table) == dict(of_record(row) for row in rows)


@pytest.mark.parametrize("delay_s", [0, 0.005, 0.05])
async def test_a_cancelled_write_leaves_the_sink_usable(
    kit: FeastDynamoDBKit,
    sink: AnySink,  # noqa: F811
    delay_s: float,
) -> None:
    """Wherever a write was cancelled, the same chunk can be written next, and what follows it, too."""
    rows = interactions(600, users=300)
    writing = asyncio.create_task(sink.store(chunk_of(rows[:400])))
    await asyncio.sleep(delay_s)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    for part in (rows[:400], rows[400:]):
        await store(sink, chunk_of(part))
    assert items(kit.endpoint, kit.table) == dict(of_record(row) for row in rows)


# --- which row counts -----------------------------------------------------------------------------

NEW = "2020-03-05 00:00:00.500000+00:00"
NEW_US = 1_583_366_400_500_000
THERE = {
    "2020-03-05 00:00:00.500001+00:00": True,
    NEW: False,
    "2020-03-05 00:00:00+00:00": False,
    "2020-03-05 00:00:01+00:00": True,
    "2020-03-05 02:00:00+02:00": False,
    "2020-03-05 02:00:00.500000+02:00": False,
    "2020-03-05 02:00:00.600000+02:00": True,
    "2020-03-04 23:00:00.600000-01:00": True,
    "2020-03-05 00:00:00.600000": True,
    "no time": False,
    "zzz+00:00": False,
    "": False,
}


@pytest.mark.parametrize("there", THERE)
async def test_times_are_compared_as_feast_keeps_them(
    kit: FeastDynamoDBKit,
    sink: AnySink,  # noqa: F811
    there: str,
) -> None:
    """A later event stays, in whatever zone Feast wrote its time; an earlier one, and what is no time, is replaced."""
    record = interaction(1, 1)
    chunk = chunk_of([record])
    chunk.columns.times[:] = NEW_US
    key, own = of_record(record)
    own["event_ts"] = NEW
    old = {"entity_id": {"S": key}, "event_ts": {"S": there}, "values": {"M": {"other": {"B": b"\x20\x01"}}}}
    with dynamodb_client(kit.endpoint) as client:
        client.put_item(TableName=kit.table, Item=old)
    assert await store(sink, chunk) == Written(1)
    expected = {"event_ts": there, "other": b"\x20\x01"} if THERE[there] else own
    assert items(kit.endpoint, kit.table) == {key: expected}


async def test_an_item_without_a_time_is_replaced(kit: FeastDynamoDBKit, sink: AnySink) -> None:  # noqa: F811
    """And one whose time is a number."""
    key, own = of_record(interaction(1, 1))
    for time in ({}, {"event_ts": {"N": "5"}}):
        with dynamodb_client(kit.endpoint) as client:
            client.put_item(TableName=kit.table, Item={"entity_id": {"S": key}, **time})
        assert await store(sink, chunk_of([interaction(1, 1)])) == Written(1)
        assert items(kit.endpoint, kit.table) == {key: own}


def test_the_newest_rating_of_each_user_counts(dynamodb_url: str, table: str, cli: Cli) -> None:
    """Within a file and across files, whatever order they come in; at one time the later row, and the later run."""
    url = feast(dynamodb_url, table, RATINGS)
    asyncio.run(create_tables(url))
    one, two = some_ratings(2_000, 150, 1), some_ratings(2_000, 200, 2)
    for name, rows in (("one.csv", one), ("two.csv", two), ("again.csv", one)):
        cli.load(ratings(cli.folder / name, rows), "--dataset", "movielens", "--to", url)
    assert items(dynamodb_url, table) == newest_of(one, two, one)


async def test_of_loads_side_by_side_the_newest_row_counts(dynamodb_url: str, table: str) -> None:
    """Each writes other times of the same users, at once."""
    url = feast(dynamodb_url, table, OF_CHUNKS)
    await create_tables(url)
    rows = [[interaction(user, n, 1_583_366_400_000 + n) for user in range(40)] for n in range(12)]
    order = np.random.default_rng(3).permutation(12).tolist()

    async def load(n: int) -> None:
        async with opened(url) as one:
            await store(one, chunk_of(rows[n]))

    await asyncio.gather(*(load(n) for n in order))
    assert items(dynamodb_url, table) == dict(of_record(row) for row in rows[-1])


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.fault(1)
def test_killed_runs_leave_what_one_run_does(dynamodb_url: str, table: str, cli: Cli) -> None:
    """After kills at random moments the next run ends with each user's newest rating."""
    rows = some_ratings(3_000, 600, 3)
    path = ratings(cli.folder / "ratings.csv", rows, note="x" * (6 * BLOCK_BYTES // 3_000))
    url = feast(dynamodb_url, table, RATINGS)
    asyncio.run(create_tables(url))
    assert kill_again_and_again(cli, 6, 2, path, "--dataset", "movielens", "--to", f"{url}&rate=600") > 1
    outcome = cli.run_with(path, "--dataset", "movielens", "--to", url)
    assert items(dynamodb_url, table) == newest_of(rows)
    counts = outcome.counts("feast")
    assert counts["written"] + counts["merged"] == 3_000


def test_other_features_are_another_load(dynamodb_url: str, table: str, cli: Cli) -> None:
    """A file that was loaded goes in once more, since the items are others; with the same features it does not."""
    path = ratings(cli.folder / "ratings.csv", [(1, 7, 4.5, 100)])
    arguments = (path, "--dataset", "movielens", "--to")
    url = feast(dynamodb_url, table, RATINGS)
    asyncio.run(create_tables(url))
    outcomes = [cli.run_with(*arguments, one) for one in (url, url, f"{url},device")]
    assert [outcome.report["sources"][0]["rows_now"] for outcome in outcomes] == [1, 0, 1]
    (found,) = items(dynamodb_url, table).values()
    assert found["device"] == b"\x12\x07unknown"


# --- what is refused ------------------------------------------------------------------------------


def test_what_does_not_fit_is_a_dead_letter(dynamodb_url: str, table: str, cli: Cli) -> None:
    """A number too large for its type, of which the next newest row is written; and an item over 400 KB."""
    schema = {
        "name": "notes",
        "schema": {
            "fields": [
                {"name": "user", "type": "integer", "x-role": "owner"},
                {"name": "item", "type": "integer", "x-role": "item"},
                {"name": "at", "type": "integer", "x-role": "time", "x-unit": "s"},
                {"name": "note", "type": "string", "x-keep": True},
            ]
        },
    }
    cli.file("notes.json", json.dumps(schema))
    lines = [f"1,{2**31},200,short", "1,7,100,older", f"2,1,100,{'n' * 410_000}", f"3,1,100,{'n' * 390_000}"]
    cli.file("notes.csv", "\n".join(["user,item,at,note", *lines]) + "\n")
    url = feast(dynamodb_url, table, "entity=user_id:INT64&features=video_id:INT32,note")
    asyncio.run(create_tables(url))
    cli.load("notes.csv", "--dataset", "notes.json", "--to", url)
    assert [(letter["line"], letter["code"]) for letter in cli.dead_letters] == [
        (2, "out_of_range"),
        (4, "item_too_large"),
    ]
    found = items(dynamodb_url, table)
    assert found.keys() == {id_of(1), id_of(3)}
    assert found[id_of(1)]["note"] == b"\x12\x05older"


def test_a_table_that_is_missing_is_made_by_check(dynamodb_url: str, table: str, cli: Cli) -> None:
    """As Feast would make it; a table of interactions is none of Feast's."""
    path = ratings(cli.folder / "ratings.csv", [(1, 7, 4.5, 100)])
    url = feast(dynamodb_url, table, RATINGS)
    arguments = (path, "--dataset", "movielens", "--to", url)
    outcome = cli.here("run", *arguments)
    assert outcome.code == 78 and f"There is no DynamoDB table {table}" in outcome.message
    assert cli.here("check", *arguments, "--create").code == 0
    with dynamodb_client(dynamodb_url) as client:
        assert client.describe_table(TableName=table)["Table"]["KeySchema"] == [
            {"AttributeName": "entity_id", "KeyType": "HASH"}
        ]
    other = f"{table}_other"
    asyncio.run(create_tables(f"dynamodb://{other}?endpoint={dynamodb_url}&checkpoint_table={table}_checkpoints"))
    outcome = cli.here("run", *arguments[:-1], url.replace(f"//{table}?", f"//{other}?"))
    assert outcome.code == 78 and "has other keys than entity_id" in outcome.message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("feast+dynamodb:///?entity=user_id:INT64&features=n", "names the table, which is project.view"),
        ("feast+dynamodb://a.b?features=n", "'entity' of feast\\+dynamodb:// is wrong: Field required"),
        ("feast+dynamodb://a.b?entity=user_id:INT64&features=n&consumers=2", "'consumers' of feast\\+dynamodb://"),
        ("feast+dynamodb://a.b?entity=user_id:INT64&features=n&project=a", "has no option 'project'"),
        ("feast+dynamodb://a?entity=user_id:INT64&features=n", "cannot be a DynamoDB table"),
    ],
)
def test_a_wrong_url_is_said_in_a_sentence(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sink_at(url)
