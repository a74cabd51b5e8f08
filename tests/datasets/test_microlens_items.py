"""What MicroLens says of its videos: titles, likes and views, in every sink, and titles beside interactions."""

import asyncio
import json
from uuid import uuid5

import pytest

from ingest_service import InteractionStore, ingest
from ingest_service.datasets import dataset_named
from ingest_service.rows.interaction import NAMESPACE
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, Cli, create_tables, dynamodb_at

VIDEO = uuid5(NAMESPACE, "video_2")
PAIRS = f"{HEADER}\n1,2,{FIRST_MS}\n1,3,{FIRST_MS + 1}\n1,4,{FIRST_MS + 2}\n5,2,{FIRST_MS}\n"
TITLES = 'item,title\r\n2,"Cats, dogs 🐈 and more"\r\n3,\r\n9,Nobody saw it\r\n'
COUNTS = "2\t10\t2000\n3\t0\t3\n"


def test_every_sink_has_all_three_and_verify_finds_nothing(
    cli: Cli, redis_db_url: str, dynamodb_url: str, table: str, mongodb_db_url: str
) -> None:
    """Pairs, titles and counts in one place: each is found whole again, loaded twice too; `show` puts titles beside."""
    urls = [redis_db_url, dynamodb_at(dynamodb_url, table), mongodb_db_url, "sqlite:///here.db"]
    asyncio.run(create_tables(urls[1]))
    to = [f"--to={url}" for url in urls]
    files = {
        "microlens": cli.file("pairs.csv", PAIRS),
        "microlens-titles": cli.file("titles.csv", TITLES),
        "microlens-likes-and-views": cli.file("likes_and_views.txt", COUNTS),
    }
    for _ in range(2):
        for name, file in files.items():
            cli.load(file, *to, f"--dataset={name}", "--restart")
    for name, file in files.items():
        verified = cli.here("verify", file, *to, f"--dataset={name}", "--json")
        assert verified.code == 0, verified.stdout
    shown = cli.here("show", "1", *to, "--titles", "--json")
    for line in shown.stdout.splitlines():
        rows = json.loads(line)["interactions"]
        assert [row.get("title") for row in rows] == [None, "", "Cats, dogs 🐈 and more"]
    counts = cli.here("show", "2", *to, "--dataset=microlens-likes-and-views", "--json")
    found = [json.loads(line) for line in counts.stdout.splitlines()]
    assert [one["sink"] for one in found] == ["redis", "dynamodb", "mongodb", "sqlite"]
    for one in found:
        (row,) = one["interactions"]
        assert (row["video_id"], row["likes"], row["views"]) == (str(VIDEO), 10, 2000)


async def test_the_api_puts_titles_beside(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`titles=True`, for `recent` and `history`; a video without a title has none."""
    monkeypatch.chdir(cli.folder)
    to = ["sqlite:///here.db"]
    await ingest(cli.file("pairs.csv", PAIRS), to=to)
    await ingest(cli.file("titles.csv", TITLES), to=to, dataset="microlens-titles")
    store = InteractionStore(to)
    wanted = [{"title": "Cats, dogs 🐈 and more"}, {"title": ""}, {}]
    assert [one.model_extra for one in await store.history(user=1, titles=True)] == wanted
    assert [one.model_extra for one in await store.recent(user=1, titles=True)] == wanted[::-1]
    assert [one.model_extra for one in await store.recent(user=1)] == [{}] * 3


def test_files_without_a_header_are_read(cli: Cli) -> None:
    """The 100k's titles, some of them empty; what is no id or no number is refused by itself."""
    titles = cli.load(cli.file("title_en.csv", "2,A\r\n3,\r\nx,B\r\n"), "--dataset=microlens-titles-noheader")
    assert titles.counts("sqlite")["written"] == 2
    counts = cli.load(cli.file("counts.txt", "2\t1\t2\n3\tmany\t4\n"), "--dataset=microlens-likes-and-views")
    assert (counts.counts("sqlite")["written"], counts.counts("sqlite")["rejected"]) == (1, 1)


@pytest.mark.parametrize("name", ["microlens-titles", "microlens-titles-noheader", "microlens-likes-and-views"])
def test_columns_are_those_of_the_specification(name: str) -> None:
    """Ids, type and time of a record are as `interaction` has them."""
    dataset = dataset_named(name)
    values = {"item": 2, "title": "x", "likes": 1, "views": 2}
    columns = dataset.records({one.role: one.kind.gathered([values[one.role]]) for one in dataset.columns})
    assert dataset.interaction is not None
    row = columns.frame().to_dicts()[0]
    assert dataset.interaction(values) == dataset.interaction(values).model_validate(
        {field: row[field] for field in ("user_id", "video_id", "event_type", "timestamp", "device", "session_id")}
    )
    assert row["user_id"] == dataset.stored_id("2") == str(uuid5(VIDEO, row["event_type"]))
