"""Checkpoints of several places in one store of them: each place has its own, and what version 0.1 wrote is found."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest

from ingest_service.pipeline.checkpoint import _checksum
from ingest_service.sinks.checkpoints import EPOCH, Place
from ingest_service.sinks.file_checkpoints import FileCheckpoints
from ingest_service.sinks.testing.rows import FIRST_MS
from ingest_service.sinks.urls import sink_at
from tests.helpers import HEADER, Cli, create_tables, dynamodb_at, dynamodb_client, opened
from tests.servers import ServerMissingError, find_redis

ROWS = 100


@dataclass(frozen=True)
class Pair:
    """Two places that keep their checkpoints together: in `folder`, or in the store of both."""

    urls: tuple[str, str]
    folder: Path | None = None

    def arguments(self, number: int) -> list[str]:
        kept = ["--checkpoint", f"file:{self.folder}"] if self.folder else []
        return ["--to", self.urls[number], *kept]


@pytest.fixture(params=["dynamodb", "mongodb", "sqlite files", "redis files", "dynamodb files", "mongodb files"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    kind, _, files = request.param.partition(" ")
    folder = tmp_path / "checkpoints" if files else None
    if kind == "sqlite":
        yield Pair((f"sqlite:///{tmp_path / 'a.db'}", f"sqlite:///{tmp_path / 'b.db'}"), folder)
    elif kind == "mongodb":
        url = request.getfixturevalue("mongodb_db_url")
        yield Pair((f"{url}&collection=a", f"{url}&collection=b"), folder)
    elif kind == "dynamodb":
        endpoint, table = request.getfixturevalue("dynamodb_url"), request.getfixturevalue("table")
        urls = (
            dynamodb_at(endpoint, table),
            dynamodb_at(endpoint, f"{table}_b", checkpoint_table=f"{table}_checkpoints"),
        )
        for url in urls:
            asyncio.run(create_tables(url))
        yield Pair(urls, folder)
    else:
        (tmp_path / "redis").mkdir()
        try:
            server = find_redis(tmp_path / "redis")
        except ServerMissingError as error:
            pytest.skip(f"NO SERVER: {error}")
        with server:
            yield Pair((f"{server.url[:-2]}/0", f"{server.url[:-2]}/1"), folder)


@pytest.fixture
def pairs(cli: Cli) -> Path:
    rows = "".join(f"{1 + i % 5},{100 + i},{FIRST_MS + i}\n" for i in range(ROWS))
    return cli.file("pairs.csv", f"{HEADER}\n{rows}")


def rows_now(cli: Cli, *arguments: str | Path) -> int:
    number: int = cli.load(*arguments).report["sources"][0]["rows_now"]
    return number


def streams(cli: Cli, *arguments: str) -> list[tuple[int, bool]]:
    """What `status` shows: the rows of each stream, and whether it is complete."""
    lines = map(json.loads, cli.here("status", *arguments, "--json").stdout.splitlines())
    return [(one["read"], one["complete"]) for one in lines]


def settled(cli: Cli, pairs: Path, pair: Pair, number: int) -> None:
    """The place has all rows by every reader of checkpoints."""
    assert streams(cli, *pair.arguments(number)) == [(ROWS, True)]
    verified = cli.here("verify", pairs, *pair.arguments(number))
    assert verified.code == 0, verified.stdout + verified.stderr
    assert rows_now(cli, pairs, *pair.arguments(number)) == 0


@pytest.mark.fault(52)
def test_two_places_are_loaded_from_one_file(cli: Cli, pairs: Path, pair: Pair) -> None:
    """The second one gets all rows, neither loses its checkpoint by the other, and each is shown by itself."""
    assert rows_now(cli, pairs, *pair.arguments(0)) == ROWS
    assert cli.here("verify", pairs, *pair.arguments(1)).code == 78  # not loaded yet, though the other one is
    assert rows_now(cli, pairs, *pair.arguments(1)) == ROWS
    for number in (0, 1):
        settled(cli, pairs, pair, number)


@pytest.mark.fault(52)
def test_what_version_0_1_kept_is_of_the_place_that_it_is_about(cli: Cli, pairs: Path, pair: Pair) -> None:
    """Its place goes on with it, whichever is loaded first; the other place has nothing to do with it."""
    assert rows_now(cli, pairs, *pair.arguments(0)) == ROWS
    asyncio.run(_as_version_0_1(pair))
    assert rows_now(cli, pairs, *pair.arguments(1)) == ROWS
    for number in (0, 1):
        settled(cli, pairs, pair, number)


async def _as_version_0_1(pair: Pair) -> None:
    """The first place's checkpoint in the form and under the name that version 0.1 used, and not otherwise."""
    async with opened(pair.urls[0]) as sink:
        store = FileCheckpoints(pair.folder, sink.name) if pair.folder else sink.checkpoints
        (key,) = set(await store.streams()) - {EPOCH}
        text = await store.read(key)
        assert text is not None
        content: dict[str, Any] = json.loads(text)
        assert content.pop("place")
        del content["checksum"]
        stream = content["stream"]
        assert key.startswith(f"{stream}@")
        assert await store.swap(stream, None, json.dumps({**content, "checksum": _checksum(content)}))
        if pair.folder:
            (pair.folder / f"{key}.{sink.name}.json").unlink()
        elif sink.scheme == "mongodb":
            with pymongo.MongoClient[dict[str, Any]](pair.urls[0].partition("?")[0], directConnection=True) as client:
                checkpoints = client.get_default_database()["ingest_checkpoints"]
                assert checkpoints.delete_one({"_id": f"{sink.name}:{key}"}).deleted_count == 1
        else:
            with dynamodb_client(sink.options.endpoint) as client:  # type: ignore[attr-defined]
                client.delete_item(
                    TableName=sink.options.checkpoint_table,  # type: ignore[attr-defined]
                    Key={"stream": {"S": key}, "sink": {"S": sink.name}},
                )
        assert await store.streams() in ([stream], sorted([EPOCH, stream]))


@pytest.mark.fault(52)
def test_a_damaged_checkpoint_of_version_0_1_is_told_of(cli: Cli, pairs: Path, pair: Pair) -> None:
    """Whose it is cannot be known, so nobody begins in silence beside it; --restart gets past it."""
    assert rows_now(cli, pairs, *pair.arguments(0)) == ROWS
    asyncio.run(_as_version_0_1(pair))
    asyncio.run(_damage(pair))
    for number in (0, 1):
        outcome = cli.here("run", pairs, *pair.arguments(number))
        assert (outcome.code, "is damaged" in outcome.message) == (78, True)
    assert rows_now(cli, pairs, *pair.arguments(0), "--restart") == ROWS
    assert rows_now(cli, pairs, *pair.arguments(1)) == ROWS
    for number in (0, 1):
        settled(cli, pairs, pair, number)


async def _damage(pair: Pair) -> None:
    async with opened(pair.urls[0]) as sink:
        store = FileCheckpoints(pair.folder, sink.name) if pair.folder else sink.checkpoints
        (key,) = set(await store.streams()) - {EPOCH}
        assert await store.swap(key, await store.read(key), "damaged")


def test_a_file_that_moved_is_the_same_place_and_a_copy_is_another(cli: Cli, pairs: Path) -> None:
    """By what lies in the database; a copy may lack what its original got since, so it is loaded by itself."""
    kept = ("--checkpoint", "file:checkpoints")
    assert rows_now(cli, pairs, "--to", "sqlite:///a.db", *kept) == ROWS
    (cli.folder / "a.db").rename(cli.folder / "b.db")
    assert streams(cli, "--to", "sqlite:///b.db", *kept) == [(ROWS, True)]
    assert rows_now(cli, pairs, "--to", "sqlite:///b.db", *kept) == 0
    shutil.copy(cli.folder / "b.db", cli.folder / "c.db")
    assert rows_now(cli, pairs, "--to", "sqlite:///c.db", *kept) == ROWS
    assert rows_now(cli, pairs, "--to", "sqlite:///b.db", *kept) == 0


@pytest.mark.fault(9)
def test_rows_that_are_gone_are_still_no_other_place(cli: Cli, pairs: Path) -> None:
    """A new file by the old name is the same place without its rows."""
    kept = ("--checkpoint", "file:checkpoints")
    assert rows_now(cli, pairs, "--to", "sqlite:///a.db", *kept) == ROWS
    (cli.folder / "a.db").unlink()
    outcome = cli.here("run", pairs, "--to", "sqlite:///a.db", *kept)
    assert (outcome.code, "rows are gone" in outcome.message) == (78, True)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret@host:7000/3",
        "mongodb://user:secret@a:1,b:2/db?collection=c",
        "dynamodb://table?endpoint=http://host:8000",
        "sqlite:///a.db",
    ],
)
def test_a_place_holds_no_secrets(url: str) -> None:
    """It is written into checkpoints."""
    place = sink_at(url).place
    assert place.name or place.server
    assert "secret" not in f"{place.name}{place.server}"


@pytest.mark.parametrize("named_by", ["URL", "AWS_REGION", "AWS_DEFAULT_REGION", "profile"])
async def test_a_region_is_part_of_the_place_whoever_names_it(
    dynamodb_url: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    """In a folder of checkpoints a table of another region is another place."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", dynamodb_url)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    if named_by == "profile":
        (tmp_path / "config").write_text("[profile p]\nregion = eu-west-3\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "p")
    elif named_by != "URL":
        monkeypatch.setenv(named_by, "eu-west-3")
    url = f"dynamodb://{table}?checkpoint_table={table}_checkpoints"
    url += "&region=eu-west-3" if named_by == "URL" else ""
    await create_tables(url)
    async with opened(url) as sink:
        assert sink.place == Place(table, "eu-west-3")
