"""What a schema file keeps beside texts and numbers, ids that are stored as they stand, and times in two columns."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats.opening import open_reader, rows_of
from tests.datasets.test_schema_file import ITEM, OWNER, TIME, described, records
from tests.formats.specification import Bytes
from tests.helpers import (
    Cli,
    create_tables,
    dynamodb_at,
    dynamodb_items,
    mongodb_documents,
    redis_sets,
    sqlite_rows,
)

AT = "1583366400000"
DAY = {"name": "day", "type": "date", "format": "%Y%m%d", "x-role": "time"}
CLOCK = {"name": "hourmin", "type": "integer", "x-role": "clock"}


def test_a_clock_that_is_a_number(tmp_path: Path) -> None:
    """Hours and minutes, as in KuaiRand's hourmin, beside the day."""
    rows = b"user,item,day,hourmin\nu,i,20220408,905\nu,i,20220408,0\nu,i,20220408,2359\n"
    found = [
        row["timestamp"][:16]
        for row in records(described(tmp_path, OWNER, ITEM, DAY | {"x-zone": "Asia/Shanghai"}, CLOCK), rows)
    ]
    assert found == ["2022-04-08T01:05", "2022-04-07T16:00", "2022-04-08T15:59"]


# --- fields of its own ------------------------------------------------------------------------------

KEPT = [
    {"name": "seen", "type": "boolean", "x-keep": True},
    {"name": "liked", "type": "boolean", "trueValues": ["Y"], "falseValues": ["N"], "x-keep": True, "x-default": "N"},
    {"name": "price", "type": "number", "x-keep": True, "x-exact": True},
    {"name": "genres", "type": "list", "delimiter": "|", "x-keep": True, "x-default": "[]"},
    {"name": "born", "type": "date", "format": "%d/%m/%Y", "x-keep": True, "x-default": "1/1/1990"},
    {"name": "bought", "type": "datetime", "x-keep": True},
]
KEPT_HEADER = "seen;liked;price;genres;born;bought"
KEPT_ROW = "true;Y;19.90;Comedy|Café;5/3/1980;2020-03-05T01:00:00+01:00"
KEPT_VALUES: dict[str, Any] = {
    **{"seen": "true", "liked": "true", "price": "19.90", "genres": '["Comedy", "Café"]'},
    **{"born": "1980-03-05T00:00:00.000000Z", "bought": "2020-03-05T00:00:00.000000Z"},
}


def test_truths_decimals_lists_dates_and_times_are_kept(tmp_path: Path) -> None:
    """In one form each; what is missing is its default, and without one the row is refused."""
    dataset = described(tmp_path, OWNER, ITEM, TIME, *KEPT)
    data = f"user;item;at;{KEPT_HEADER}\nu;i;{AT};{KEPT_ROW}\nu;i;{AT};0;;1e-3;;;{AT}\n"
    first, second = records(dataset, data.encode())
    assert {name: first[name] for name in KEPT_VALUES} == KEPT_VALUES
    assert {name: second[name] for name in KEPT_VALUES} == {
        **{"seen": "false", "liked": "false", "price": "0.001", "genres": "[]"},
        **{"born": "1990-01-01T00:00:00.000000Z", "bought": "2020-03-05T00:00:00.000000Z"},
    }
    rows = rows_of(dataset, f"user;item;at;{KEPT_HEADER}")
    refused = rows.row(f"u;i;{AT};;Y;1;a;1/1/2000;{AT}".encode())
    assert isinstance(refused, RowError)
    assert refused.code == "missing_value"


def test_json_has_its_own_truths_and_numbers(tmp_path: Path) -> None:
    """`true` and 19.90 are read as the texts that they are."""
    dataset = described(tmp_path, OWNER, ITEM, TIME, KEPT[0], KEPT[2], format="jsonl")
    line = f'{{"user":"u","item":"i","at":{AT},"seen":true,"price":19.90}}'
    (row,) = records(dataset, line.encode())
    assert (row["seen"], row["price"]) == ("true", "19.90")


# --- ids as they are --------------------------------------------------------------------------------

RAW_OWNER, RAW_ITEM = OWNER | {"x-stored": "raw"}, ITEM | {"x-stored": "raw"}


def test_ids_are_stored_as_they_stand(tmp_path: Path) -> None:
    """Texts without the blanks around them, whole numbers in decimal."""
    dataset = described(tmp_path, RAW_OWNER, RAW_ITEM | {"type": "integer"}, TIME)
    (row,) = records(dataset, f'user,item,at\n é"1 ,007,{AT}\n'.encode())
    assert (row["user_id"], row["video_id"], row["session_id"]) == ('é"1', "7", 'session_é"1_2020-03-05')


HARD_IDS = [
    "a",
    "U/1+=",
    "jürgen@example.org",
    'say "hi"',
    "back\\slash",
    "日本",
    "x" * 512,
    "'; DROP TABLE x;--",
    "$set",
]


def test_every_sink_keeps_what_a_schema_keeps(
    cli: Cli, redis_db_url: str, mongodb_db_url: str, dynamodb_url: str, table: str
) -> None:
    """Ids that each store would escape in its own way, and all kinds of fields; `verify` finds each record again."""
    fields = [RAW_OWNER, RAW_ITEM, TIME, *KEPT]
    schema = {"name": "own", "dialect": {"delimiter": "\t", "header": False, "quoteChar": ""}}
    cli.file("own.yaml", yaml.safe_dump(schema | {"schema": {"fields": fields}}).encode())
    rest = "\t".join((AT, *KEPT_ROW.split(";")))
    rows = [f"{user}\t{item}\t{rest}" for user in ("u", *HARD_IDS) for item in HARD_IDS]
    rows.append(f"a#b\ti\t{rest}\n")
    cli.file("rows.tsv", "\n".join(rows).encode())
    dynamodb = dynamodb_at(dynamodb_url, table)
    asyncio.run(create_tables(dynamodb))
    sinks = ["sqlite:///rows.db", redis_db_url, mongodb_db_url, dynamodb]
    arguments = [argument for sink in sinks for argument in ("--to", sink)]
    outcome = cli.here("run", "rows.tsv", "--dataset", "own.yaml", *arguments, "--json")
    assert outcome.code == 0, outcome.stderr
    wanted = sorted(tuple(row.split("\t")[:2]) for row in rows[:-1])

    def ids(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
        assert all({name: row[name] for name in KEPT_VALUES} == KEPT_VALUES for row in found)
        return sorted((row["user_id"], row["video_id"]) for row in found)

    assert ids(list(sqlite_rows(cli.folder / "rows.db").values())) == wanted
    assert ids(mongodb_documents(mongodb_db_url, "interactions")) == wanted
    items = dynamodb_items(dynamodb_url, table).values()
    assert ids([{key: value["S"] for key, value in item.items()} for item in items]) == wanted
    sets = redis_sets(redis_db_url)
    members = [
        {"user_id": key[len("recent:{") : -1], **json.loads(one)} for key, found in sets.items() for one in found
    ]
    assert ids(members) == wanted
    found = cli.here("verify", "rows.tsv", "--dataset", "own.yaml", *arguments, "--json")
    assert found.code == 0, found.stdout
    assert {one["compared"] for one in found.report["sinks"].values()} == {len(wanted)}
    shown = cli.run("preview", "rows.tsv", "--dataset", "own.yaml", *arguments, "-n", "100")
    assert (shown.code, "refused: line" in shown.stdout) == (0, True)


# --- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([OWNER, ITEM, TIME, {"name": "x", "x-keep": True, "x-stored": "raw"}], "x-stored is for an owner or an item"),
        ([RAW_OWNER | {"x-prefix": "u"}, ITEM, TIME], "stored raw has no x-prefix"),
        ([OWNER, ITEM, TIME, {"name": "x", "type": "integer", "x-role": "clock"}], "a clock needs a date"),
        *(
            ([OWNER, ITEM, TIME, field | {"x-default": "maybe"}], "x-default of ")
            for field in (*(KEPT[at] for at in (0, 2, 4, 5)), {"name": "n", "type": "integer", "x-keep": True})
        ),
    ],
)
def test_what_cannot_be_kept_is_said(tmp_path: Path, fields: list[dict[str, Any]], says: str) -> None:
    """In one sentence, with its place."""
    with pytest.raises(ConfigurationError) as refused:
        described(tmp_path, *fields)
    assert says in str(refused.value)


def test_an_own_kind_is_read_again_by_its_reader(tmp_path: Path) -> None:
    """What is refused has its code, whichever way it is read."""
    dataset = described(tmp_path, RAW_OWNER, ITEM, TIME, *KEPT)
    data = f"user;item;at;{KEPT_HEADER}\nu;i;{AT};{KEPT_ROW.replace('true', 'yes')}\n{{u;i;{AT};{KEPT_ROW}\n"
    reader = open_reader(Bytes(data.encode()), dataset)
    block = reader.next()
    assert [reject.code for reject in reader.chunk(block).rejects] == ["bad_value", "bad_id"]
