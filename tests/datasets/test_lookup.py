"""Fields looked up by item in a small file."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from ingest_service.datasets import dataset_after, dataset_named, lookup
from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError
from tests.datasets.test_schema_file import ITEM, OWNER, RATING, TIME, described, records
from tests.datasets.test_transforms import told
from tests.helpers import Cli

TITLE = {"derive": "title", "lookup": "titles.csv", "take": "title", "otherwise": "?"}
LIKES = {"derive": "likes", "lookup": "titles.csv", "take": "likes", "kind": "integer", "otherwise": 0}
INT_ITEM = {**ITEM, "type": "integer"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dataset_with(here: Path, item: dict[str, Any], *steps: dict[str, Any]) -> Dataset:
    return described(here, OWNER, item, TIME, **{"x-transform": list(steps)})


@pytest.mark.parametrize("item", [ITEM, INT_ITEM], ids=["texts", "integers"])
def test_each_record_has_what_the_file_says_of_its_item(here: Path, item: dict[str, Any]) -> None:
    """Or what is said of all others; an expression may go on from it."""
    titles = {n * 7: (f'He said "{n}", ü', n * 3) for n in range(500)}
    lines = [f'{item},"{title.replace(chr(34), 2 * chr(34))}",{likes}' for item, (title, likes) in titles.items()]
    (here / "titles.csv").write_text("\n".join(["item,title,likes", *lines]) + "\n")
    twice = {"derive": "twice", "as": "likes * 2", "otherwise": 0}
    dataset = dataset_with(here, item, TITLE, LIKES, twice)
    data = "user,item,at\n" + "".join(f"u,{n % 4000},{1583366400000 + n}\n" for n in range(6000))
    found = records(dataset, data.encode())
    for n, row in enumerate(found):
        title, likes = titles.get(n % 4000, ("?", 0))
        assert (row["title"], row["likes"], row["twice"]) == (title, likes, 2 * likes)


@pytest.mark.parametrize(
    ("step", "text", "reason"),
    [
        (TITLE, None, "titles.csv cannot be read: No such file"),
        (TITLE, b"item,name\n1,a\n", "has no column 'title'"),
        (TITLE, b"id,title\n1,a\n", "has no column 'item'"),
        (TITLE, b"item,title\n1,a\n2,b\n01,c\n", "an item twice"),
        (TITLE, b"item,title\n1,a\nx,b\n", "in line 3 of titles.csv item is not a"),
        (TITLE, b"item,title\n1,\xff\n", "titles.csv is not UTF-8"),
        (TITLE, b'item,title\n1,"a\n', "is no CSV"),
        (TITLE, b"item,title\n" + b"1" * 99, "longer than 0 MiB"),
        (LIKES, b"item,likes\n1,many\n", "in line 2 of titles.csv likes"),
        (LIKES, b"item,likes\n1\n", "in line 2 of titles.csv likes"),
        ({**LIKES, "otherwise": "none"}, b"item,likes\n1,2\n", "for likes otherwise"),
        ({**TITLE, "derive": "user_id"}, b"item,title\n1,a\n", "a field of every record"),
        (
            {key: value for key, value in TITLE.items() if key != "otherwise"},
            b"item,title\n",
            "otherwise: Field required",
        ),
    ],
)
def test_a_file_that_cannot_be_looked_up_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, step: dict[str, Any], text: bytes | None, reason: str
) -> None:
    if "longer" in reason:
        monkeypatch.setattr(lookup, "MAX_BYTES", 50)
    if text is not None:
        (here / "titles.csv").write_bytes(text)
    with pytest.raises(ConfigurationError, match=reason) as refused:
        dataset_with(here, INT_ITEM, step)
    assert "many" not in str(refused.value)


def test_records_without_a_user_s_item_have_nothing_looked_up(here: Path) -> None:
    (here / "titles.csv").write_text("item,title\n1,One\n")
    links = dataset_named("movielens-links")
    with pytest.raises(ConfigurationError, match="title is looked up by the item of a user's record"):
        dataset_after(links, [TITLE], ())
    with pytest.raises(ConfigurationError, match="title is looked up by the item of a user's record"):
        described(here, ITEM, RATING, **{"x-about": "items", "x-transform": [TITLE]})


def test_a_run_with_another_file_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each command; with the file of before, a killed run and a replay go on."""
    cli.file("titles.csv", "item,title,likes\n1,One,5\n")
    cli.file("ingest.toml", "".join(f"[[transform]]\n{_toml(step)}\n" for step in (TITLE, LIKES)))
    path = cli.file("pairs.csv", "user,item,timestamp\n5,1,1583366400000\n5,2,1583366400000\n5,bad,1583366400000\n")
    assert told(cli.load(path, "--limit", "1"))["written"] == 1
    cli.file("titles.csv", "item,title,likes\n1,Two,5\n")
    for command in ("run", "verify"):
        outcome = cli.here(command, path)
        assert outcome.code == 78
        assert "the steps" in outcome.stderr
    cli.file("titles.csv", "item,title,likes\n1,One,5\n")
    cli.load(path)
    assert cli.here("verify", path).code == 0
    (letters,) = cli.folder.rglob("dead-letters.jsonl")
    letters.write_text(re.sub("5,bad,1583366400000", "6,1,1583366400000", letters.read_text()))
    assert cli.here("replay", letters).code == 0
    found = sorted((row["title"], int(row["likes"])) for row in cli.rows.values())
    assert found == [("?", 0), ("One", 5), ("One", 5)]
    assert "One" in cli.here("preview", path).stdout


def _toml(step: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {value!r}" for name, value in step.items())


def test_films_have_their_titles(ml_latest_small: Path, cli: Cli) -> None:
    """Real ratings, by the ids and the file of MovieLens."""
    films = ml_latest_small / "movies.csv"
    step = {"derive": "film", "lookup": str(films), "item": "movieId", "take": "title", "otherwise": "?"}
    cli.file("ingest.toml", f"[[transform]]\n{_toml(step)}\n")
    head = (ml_latest_small / "ratings.csv").read_text().splitlines(keepends=True)[:3000]
    cli.load(cli.file("ratings.csv", "".join(head)), "--dataset", "movielens")
    with films.open(newline="", encoding="utf-8") as file:
        titles = {row["movieId"]: row["title"] for row in csv.DictReader(file)}
    expected = sorted(titles[line.split(",")[1]] for line in head[1:])
    assert sorted(row["film"] for row in cli.rows.values()) == expected
