"""What version 0.1.0 has stored, this one goes on from, compares and replays: rows, checkpoints and dead letters.

That version is made from the history, and installed into an environment of its own.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import (
    Cli,
    Pairs,
    dynamodb_at,
    dynamodb_items,
    expected_sets,
    mongodb_documents,
    plain,
    redis_sets,
    sqlite_rows,
    wait_for_event,
    write_pairs,
)

SINKS = ("sqlite", "redis", "dynamodb", "mongodb")
PLACES = ("sink", "file:checkpoints")


@dataclass(frozen=True)
class Clean:
    """A file, and what one run of this version leaves of it."""

    pairs: Pairs
    rows: dict[tuple[str, str], dict[str, str]]


@dataclass(frozen=True)
class Place:
    """Where a test's rows go, and what is there in the form of `Clean.rows` (or of sets, for Redis)."""

    url: str
    name: str
    stored: Callable[[], Any]

    def expected(self, rows: dict[tuple[str, str], dict[str, str]]) -> Any:
        return expected_sets(rows) if self.name == "redis" else rows


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """Long enough for a kill in its middle."""
    return _clean(tmp_path_factory.mktemp("clean"), 6_000, blocks=12)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    return _clean(tmp_path_factory.mktemp("short"), 1_200, blocks=3)


def _clean(folder: Path, rows: int, blocks: int) -> Clean:
    pairs = write_pairs(folder / "pairs.csv", rows, blocks=blocks)
    Cli(folder).run_with(pairs.path, "--to", "sqlite:///clean.db")
    return Clean(pairs, sqlite_rows(folder / "clean.db"))


@pytest.fixture(params=SINKS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    name: str = request.param
    if name == "sqlite":
        path = tmp_path / "rows.db"
        return Place(f"sqlite:///{path}", name, lambda: sqlite_rows(path))
    if name == "redis":
        url = request.getfixturevalue("redis_db_url")
        return Place(url, name, lambda: redis_sets(url))
    if name == "dynamodb":
        endpoint, table = request.getfixturevalue("dynamodb_url"), request.getfixturevalue("table")
        return Place(dynamodb_at(endpoint, table), name, lambda: plain(dynamodb_items(endpoint, table)))
    url = request.getfixturevalue("mongodb_db_url")
    return Place(url, name, lambda: _rows_of_documents(mongodb_documents(url, "interactions")))


def _rows_of_documents(documents: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
    """Documents in the form of SQLite's rows."""
    rows = {}
    for document in documents:
        user_id, _, event_key = document.pop("_id").partition("#")
        rows[user_id, event_key] = {**document, "user_id": user_id, "event_key": event_key}
    return rows


def _slowly(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}rate=1000"


@pytest.mark.parametrize("checkpoint", PLACES)
def test_a_load_that_the_earlier_version_began_is_ended_by_this_one(
    clean: Clean, place: Place, earlier: Path, cli: Cli, checkpoint: str
) -> None:
    """Killed in the middle there, it goes on here from its checkpoint, to the same rows and letters as one run."""
    old = Cli(cli.folder, [str(earlier)])
    kept = ("--checkpoint", checkpoint)
    assert old.run("check", "--create", "--to", place.url).code == 0
    process = old.start("run", clean.pairs.path, "--to", _slowly(place.url), *kept)
    settled: list[int] = []

    def is_kept(event: dict[str, Any]) -> bool:
        """Events come once a second, as checkpoints do: by the second one the watermark of the first is stored."""
        if event["event"] == "progress" and event["rows_read"] and event["sinks"][place.name]["rows_written"]:
            settled.append(event["sinks"][place.name]["watermark"])
        return len(settled) > 2

    wait_for_event(process, is_kept)
    process.kill()
    process.communicate()
    begun = place.stored()
    ended = cli.run_with(clean.pairs.path, "--to", place.url, *kept)
    assert begun
    assert 0 < ended.report["sources"][0]["rows_now"] < clean.pairs.rows
    assert ended.counts(place.name)["read"] == clean.pairs.rows
    assert place.stored() == place.expected(clean.rows)
    assert [(letter["line"], letter["offset"], letter["raw"].encode()) for letter in cli.dead_letters] == (
        clean.pairs.bad
    )
    verified = cli.run("verify", clean.pairs.path, "--to", place.url, *kept)
    assert verified.code == 0, verified.stdout


@pytest.mark.long
@pytest.mark.parametrize("checkpoint", PLACES)
def test_what_the_earlier_version_has_loaded_is_known(
    short: Clean, place: Place, earlier: Path, cli: Cli, checkpoint: str
) -> None:
    """Nothing is written again, verify finds no difference, and its dead letters land when they are mended."""
    old = Cli(cli.folder, [str(earlier)])
    kept = ("--checkpoint", checkpoint)
    assert old.run("check", "--create", "--to", place.url).code == 0
    loaded = old.run_with(short.pairs.path, "--to", place.url, *kept)
    assert place.stored() == place.expected(short.rows)
    again = cli.run_with(short.pairs.path, "--to", place.url, *kept)
    assert again.report["sources"][0]["rows_now"] == 0
    assert again.counts(place.name) == loaded.counts(place.name)
    assert cli.run("verify", short.pairs.path, "--to", place.url, *kept).code == 0

    (path,) = (cli.folder / ".ingest").rglob("dead-letters.jsonl")
    letters = [json.loads(line) for line in path.read_text().splitlines()]
    mended = [{**letter, "raw": f"77,{88 + number},1583366400000,"} for number, letter in enumerate(letters)]
    path.write_text("".join(json.dumps(letter) + "\n" for letter in mended))
    replayed = cli.run("replay", path, "--to", place.url, *kept, "--json")
    assert replayed.code == 0, replayed.stderr
    assert json.loads(replayed.stdout) == {"letters": len(letters), "landed": len(letters), "left": 0, "other": 0}
    assert cli.run("verify", short.pairs.path, "--to", place.url, *kept).code == 0
