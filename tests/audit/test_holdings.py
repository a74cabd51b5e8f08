"""What sinks hold of a user, by his id in the files: `show`, `recent` and `history`."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID, uuid5

import pytest

from ingest_service import InteractionStore, MicroLensPairsReader, ingest
from ingest_service.datasets import dataset_named
from ingest_service.datasets.presets import preset_names
from ingest_service.errors import UsageError
from ingest_service.rows.interaction import NAMESPACE
from ingest_service.sinks.testing.rows import FIRST_MS, interaction
from tests.helpers import HEADER, UNREACHABLE, Cli, create_tables, dynamodb_at

RATINGS = "userId,movieId,rating,timestamp\n7,1,4.0,978300760\n7,2,2.5,978300761\n8,1,5.0,978300762\n"
SCHEMA = """
name: notes
dialect: {{delimiter: ",", header: true}}
x-namespace: 7a1f7a66-97cf-4bd2-8d3b-0b2b5ab9b8d0
schema:
  fields:
    - {{name: user, {kind}, x-role: owner, x-prefix: "reader:"}}
    - {{name: item, type: string, x-role: item}}
    - {{name: at, type: integer, x-role: time, x-unit: ms}}
"""


NAMES = ("redis", "dynamodb", "mongodb", "postgresql", "sqlite")


@pytest.fixture
def everywhere(
    cli: Cli, redis_db_url: str, dynamodb_url: str, table: str, mongodb_db_url: str, postgresql_schema_url: str
) -> Callable[..., list[str]]:
    """The options that name all kinds of sinks, set up; and a file loaded into them."""
    urls = [redis_db_url, dynamodb_at(dynamodb_url, table), mongodb_db_url, postgresql_schema_url, "sqlite:///here.db"]
    asyncio.run(create_tables(urls[1]))
    to = [f"--to={url}" for url in urls]

    def loaded(name: str, content: str, *options: str) -> list[str]:
        cli.load(cli.file(name, content), *to, *options)
        return to

    return loaded


def test_each_sink_says_what_it_holds(cli: Cli, everywhere: Callable[..., list[str]]) -> None:
    """By a raw id: newest first, with the data set's own fields, whichever sink; a UUID is the same user."""
    to = everywhere("ratings.csv", RATINGS, "--dataset=movielens")
    user = str(uuid5(NAMESPACE, "movielens_user_7"))
    shown = cli.here("show", "7", *to, "--dataset=movielens", "--json")
    assert shown.code == 0
    found = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(one["sink"], one["user_id"], one["count"]) for one in found] == [(name, user, 2) for name in NAMES]
    for one in found:
        assert [row["rating"] for row in one["interactions"]] == [2.5, 4.0]
        assert one["interactions"][0] == {
            "timestamp": "2000-12-31T22:12:41.000000Z",
            "user_id": user,
            "video_id": str(uuid5(NAMESPACE, "movielens_movie_2")),
            "event_type": "rate",
            "device": "unknown",
            "session_id": "session_7_2000-12-31",
            "rating": 2.5,
        }
    for same in (user, user.upper()):
        assert cli.here("show", same, *to, "--json").stdout == shown.stdout


def test_the_table_says_who_and_how_many(cli: Cli, everywhere: Callable[..., list[str]]) -> None:
    """One a sink, of at most `--limit` rows; a user of whom there is nothing is said plainly, and is no error."""
    rows = "".join(f"1,{i},{FIRST_MS + i}\n" for i in range(30))
    to = everywhere("pairs.csv", f"{HEADER}\n{rows}")
    user = interaction(1, 1).user_id
    shown = cli.here("show", "1", *to, "--limit=2")
    lines = shown.stdout.splitlines()
    assert len(lines) == 5 * 4
    for name, table in zip(NAMES, zip(*[iter(lines)] * 4, strict=True), strict=True):
        assert table[0] == f"{name} has 30 interactions of user 1 ({user}), the newest 2 of them:"
        assert table[1].split() == ["timestamp", "video_id", "event_type", "device", "session_id"]
        assert table[2].split()[:2] == ["2020-03-05T00:00:00.029000Z", str(interaction(1, 29).video_id)]
    nobody = cli.here("show", "2", *to)
    assert nobody.code == 0
    assert nobody.stdout.splitlines() == [
        f"{name} has nothing of user 2 ({interaction(2, 1).user_id})." for name in NAMES
    ]


def test_what_cannot_be_shown_is_an_error(cli: Cli) -> None:
    """An id that the data set cannot have is wrong usage; a sink that is down is one that is down."""
    wrong = cli.here("show", "anna")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert wrong.message == "No user of the data set microlens has such an id: user is not an integer within 64 bits."
    down = cli.here("show", "1", f"--to=redis://{UNREACHABLE}/0?retry_budget_s=0.1")
    assert down.code == 69


@pytest.mark.parametrize(
    ("kind", "raw", "stored"),
    [
        ("type: string", "anna", str(uuid5(UUID("7a1f7a66-97cf-4bd2-8d3b-0b2b5ab9b8d0"), "reader:anna"))),
        ("type: string", "0" * 32, str(uuid5(UUID("7a1f7a66-97cf-4bd2-8d3b-0b2b5ab9b8d0"), "reader:" + "0" * 32))),
        ("type: integer", "007", str(uuid5(UUID("7a1f7a66-97cf-4bd2-8d3b-0b2b5ab9b8d0"), "reader:7"))),
        ("type: string, format: uuid", "B161A34F-ccbb-5abe-972d-b9330e28244f", "b161a34f-ccbb-5abe-972d-b9330e28244f"),
    ],
)
def test_a_schema_file_says_how_ids_are_stored(cli: Cli, kind: str, raw: str, stored: str) -> None:
    """Its prefix and namespace, and whether an id is a number, a text or a UUID."""
    schema = cli.file("notes.yaml", SCHEMA.format(kind=kind))
    cli.load(cli.file("notes.csv", f"user,item,at\n{raw},a,{FIRST_MS}\n"), "--dataset", schema)
    shown = cli.here("show", raw, "--dataset", schema, "--json")
    found = json.loads(shown.stdout)
    assert (found["user_id"], found["count"]) == (stored, 1)


async def test_the_api_takes_raw_ids(cli: Cli, monkeypatch: pytest.MonkeyPatch, redis_db_url: str) -> None:
    """`user=42`, its text or its UUID; a record has the data set's own fields beside."""
    monkeypatch.chdir(cli.folder)
    path = cli.file("pairs.csv", f"{HEADER}\n42,1,{FIRST_MS}\n42,2,{FIRST_MS + 1}\n")
    to = [redis_db_url, "sqlite:///here.db"]
    await ingest(path, to=to)
    await ingest(cli.file("ratings.csv", RATINGS), to=to, dataset="movielens")
    first, second = MicroLensPairsReader(path).read()
    async with InteractionStore(to) as store:
        for user in (42, "42", " 42", first.user_id, str(first.user_id)):
            assert await store.recent(user=user) == [second, first]
            assert await store.history(user=user, since=second.timestamp) == [second]
        rated = await store.history(user=7, dataset="movielens")
        assert [one.model_extra for one in rated] == [{"rating": 4.0}, {"rating": 2.5}]
        assert await store.recent(user=7) == []
        for wrong in ({}, {"user_id": first.user_id, "user": 42}):
            with pytest.raises(TypeError, match="one user"):
                await store.recent(**wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            await store.history(user="anna")


@pytest.mark.parametrize("name", ["microlens", "movielens", "movielens-tags", "movielens-links"])
def test_a_raw_id_is_stored_as_rows_have_it(name: str) -> None:
    """The first column of each data set has the owners: its id is that of the specification."""
    dataset = dataset_named(name)
    assert dataset.interaction is not None
    values = {column.role: column.kind.gathered([]) for column in dataset.columns}
    row = {role: 5 if role in ("user", "item", "timestamp", "rating") else "x" for role in values}
    assert dataset.stored_id("5") == str(dataset.interaction(row).user_id)


def test_ids_that_are_stored_as_they_stand_are_not_shown(cli: Cli, everywhere: Callable[..., list[str]]) -> None:
    """It is said before a store is asked, and by each that has such a record of a user; nothing of it is quoted."""
    raw = SCHEMA.format(kind="type: string, format: uuid").replace(', x-prefix: "reader:"', "")
    cli.file("raw.yaml", raw.replace("x-role: item", "x-role: item, x-stored: raw"))
    user = str(interaction(1, 1).user_id)
    to = everywhere("notes.csv", f"user,item,at\n{user},film-1,{FIRST_MS}\n", "--dataset=raw.yaml")
    shown = cli.here("show", user, *to, "--dataset=raw.yaml")
    assert (shown.code, "x-stored: raw" in shown.message) == (2, True)
    for one in to:
        shown = cli.here("show", user, one)
        assert (shown.code, "x-stored: raw" in shown.message, "film-1" in shown.stderr) == (78, True, False)


@pytest.mark.parametrize("name", sorted(preset_names()))
def test_presets_know_their_users(name: str) -> None:
    """Whatever columns a data set has beside its owners', an id alone is enough."""
    stored = dataset_named(name).stored_id("5")
    assert str(UUID(stored)) == stored
