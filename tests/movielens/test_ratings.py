"""Ratings: each row of the file is one document, or one dead letter, whatever happens on the way."""

import csv
import io
import signal
import struct
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from ingest_service.config import load_settings
from ingest_service.errors import ConfigurationError, LocalIOError, SourceChanged, SourceNotFound
from ingest_service.movielens.places import movie_object_id, write_movie_ids
from ingest_service.movielens.steps.movies import movies
from ingest_service.movielens.steps.ratings import ratings
from tests.helpers import Cli, dead_letters, finish, mongodb_documents
from tests.movielens.conftest import World, pack, ratings_text
from tests.servers import Secantus, ServerMissingError


def documents(world: World, url: str = "") -> list[dict[str, Any]]:
    return mongodb_documents(url or world.fields["mongodb_uri"], "interactions")


def expected(text: str, known: set[int]) -> tuple[list[dict[str, Any]], list[str]]:
    """The documents of a file, by Python's csv module, in the order of their `_id`s; and the rows that become none."""
    found, unknown = [], []
    for row in csv.DictReader(io.StringIO(text)):
        user, movie, seconds = int(row["userId"]), int(row["movieId"]), int(row["timestamp"])
        if movie not in known:
            unknown.append(",".join(row.values()))
            continue
        found.append(
            {
                "_id": rating_id(user, movie, seconds),
                "user_id": user,
                "movie_id": movie_object_id(movie),
                "type": "rate",
                "rating": float(row["rating"]),
                "timestamp": datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None),
            }
        )
    return sorted(found, key=lambda one: one["_id"]), unknown


def rating_id(user: int, movie: int, seconds: int) -> ObjectId:
    return ObjectId(struct.pack(">III", user, movie, seconds))


def text_of(archive: Path) -> str:
    with zipfile.ZipFile(archive) as file:
        name = next(name for name in file.namelist() if name.endswith("ratings.csv"))
        return file.read(name).decode()


async def test_each_row_is_a_document_or_a_dead_letter(world: World) -> None:
    """With the movie's `_id`, a rating in stars, and a time; a movie that is unknown costs only its own rows."""
    await movies(world.settings())
    report = await ratings(world.settings())
    wanted, unknown = expected(text_of(world.archive), set(range(1, 8)))
    assert documents(world) == wanted
    letters = dead_letters(world.folder / "state")
    assert [letter["raw"] for letter in letters] == unknown
    assert {letter["code"] for letter in letters} == {"unknown_movie"}
    counts = report.total("movielens")
    assert (counts.read, counts.accepted, counts.written, counts.dead) == (900, 900, 600, 300)
    assert report.streams[0].complete


async def test_ids_that_four_bytes_do_not_hold(world: World) -> None:
    """Users, movies and times that no release has are documents all the same, each of its own."""
    numbers = [(2**32, 1, 5), (1, 2**32, 5), (1, 1, 2**32 + 5), (-1, 1, 5), (1, -1, 5), (1, 1, 5), (2**63 - 1, 1, 5)]
    write_movie_ids(world.settings(), {movie for _, movie, _ in numbers})
    rows = [f"{user},{movie},4.0,{seconds}" for user, movie, seconds in numbers]
    rows.append("1,1,4.0,1970-01-01T00:00:05.500")
    world.write(ratings="userId,movieId,rating,timestamp\n" + "\n".join(rows) + "\n")
    assert (await ratings(world.settings())).total("movielens").written == 8
    found = documents(world)
    assert sorted(one["user_id"] for one in found) == sorted([1, *(user for user, _, _ in numbers)])
    assert rating_id(1, 1, 5) in [one["_id"] for one in found]
    await ratings(world.settings(), restart=True)
    assert documents(world) == found


async def test_a_second_run_writes_nothing(world: World) -> None:
    """The checkpoint says that all is there; with `restart` all is written again, and nothing is there twice."""
    await movies(world.settings())
    await ratings(world.settings())
    before = documents(world)
    again = await ratings(world.settings())
    assert again.streams[0].rows_now == 0
    anew = await ratings(world.settings(), restart=True)
    assert anew.streams[0].rows_now == 900
    assert documents(world) == before


async def test_bad_rows_are_kept_aside(world: World) -> None:
    """A rating that is none, and a time that is none, are dead letters of their own codes."""
    write_movie_ids(world.settings(), [1])
    rows = ["1,1,4.0,1500000000", "2,1,5.5,1500000000", "3,1,0.0,1500000000", "4,1,4.25,1500000000", "5,1,3,1500000000"]
    rows += [
        "6,1,5,yesterday",
        "7,1,,1500000000",
        '8,"1","4.5",1500000000',
        "9,1, 0.5 ,1500000000",
        "10,1,4.50,1500000000",
    ]
    world.write(ratings="userId,movieId,rating,timestamp\n" + "\n".join(rows) + "\n")
    await ratings(world.settings())
    assert [(one["user_id"], one["rating"]) for one in sorted(documents(world), key=lambda one: one["user_id"])] == [
        (1, 4.0),
        (5, 3.0),
        (8, 4.5),
        (9, 0.5),
        (10, 4.5),
    ]
    codes = [letter["code"] for letter in dead_letters(world.folder / "state")]
    assert codes == ["bad_rating", "bad_rating", "bad_rating", "bad_timestamp", "bad_rating"]


async def test_a_missing_map_names_the_command(world: World) -> None:
    """Without a movie id map nothing is loaded; a damaged one is no reason for dead letters either."""
    with pytest.raises(SourceNotFound, match="ingest-service movielens movies"):
        await ratings(world.settings())
    for content in ("{", "[]", '{"1": "x"}', '{"x": "011fcb5d1b1fcee66562c86d"}'):
        (world.folder / "movie_id_map.json").write_text(content)
        with pytest.raises(LocalIOError, match="ingest-service movielens movies"):
            await ratings(world.settings())
    assert documents(world) == []


async def test_the_map_may_be_an_object(world: World) -> None:
    """`movie_id_map` is a path or a URL, written and read alike."""
    url = (world.folder / "elsewhere" / "map.json").as_uri()
    await movies(world.settings(movie_id_map=url))
    report = await ratings(world.settings(movie_id_map=url))
    assert report.total("movielens").written == 600


async def test_indexes_are_made_on_request(world: World) -> None:
    """Those that readers need: by user and time, by movie, and by time for the popular ones."""
    await movies(world.settings())
    await ratings(world.settings(), create_indexes=True)
    import pymongo

    with pymongo.MongoClient[dict[str, Any]](world.fields["mongodb_uri"]) as client:
        found = client.get_default_database()["interactions"].index_information()
    assert {tuple(name for name, _ in one["key"]) for one in found.values()} == {
        ("_id",),
        ("user_id", "timestamp"),
        ("movie_id", "timestamp"),
        ("timestamp", "rating", "movie_id"),
    }


async def test_another_archive_under_the_same_name_is_refused(world: World) -> None:
    """The checkpoint is about another file then; `restart` loads the new one."""
    await movies(world.settings())
    await ratings(world.settings())
    world.write(ratings=ratings_text(300).replace("1500001000", "1600001000"))
    with pytest.raises(SourceChanged, match="--restart"):
        await ratings(world.settings())
    await ratings(world.settings(), restart=True)


@pytest.mark.parametrize("refused", ["by the sink", "by the parser"])
def test_dead_letters_are_tried_again(world: World, cli: Cli, refused: str) -> None:
    """Once the map has the movie, or the row was mended, `replay` of the file puts the rating where it belongs."""
    write_movie_ids(world.settings(), [1])
    row = "1,2,4.0,1500000000" if refused == "by the sink" else "1,1,4.7,1500000000"
    world.write(ratings=f"userId,movieId,rating,timestamp\n{row}\n2,1,3.0,1500000000\n")
    assert cli.run("movielens", "ratings", **world.environment).code == 0
    (letters,) = (world.folder / "state").rglob("dead-letters.jsonl")
    elsewhere = ("--to", "sqlite:///elsewhere.db") if refused == "by the sink" else ()  # which is named in the letter
    before = cli.run("replay", letters, "--json", *elsewhere, **world.environment).report
    assert (before["letters"], before["landed"]) == (1, 0)
    write_movie_ids(world.settings(), [1, 2])
    letters.write_text(letters.read_text().replace("4.7", "4.5"))
    assert cli.run("replay", letters, "--json", *elsewhere, **world.environment).report["landed"] == 1
    assert sorted(one["rating"] for one in documents(world)) == [3.0, 4.0 if refused == "by the sink" else 4.5]
    assert letters.read_text() == ""


def test_mongodb_must_be_named() -> None:
    """Without MONGODB_URI the setting is named; without a database in it, it is `movielens`."""
    with pytest.raises(ConfigurationError, match="MONGODB_URI"):
        load_settings().mongodb_address()
    for uri, address in (
        ("mongodb://h", "mongodb://h/movielens"),
        ("mongodb://h:1/?tls=true", "mongodb://h:1/movielens?tls=true"),
        ("mongodb://u:p@h/x?w=1", "mongodb://u:p@h/x?w=1"),
    ):
        assert load_settings({"mongodb_uri": uri}).mongodb_address() == address


async def test_the_real_ratings(world: World, ml_latest_small: Path) -> None:
    """Every row of ml-latest-small, against the rows as Python's csv module reads them."""
    text = (ml_latest_small / "ratings.csv").read_text()
    pack(world.folder / "ml-latest-small.zip", {name: (ml_latest_small / name).read_text() for name in ("movies.csv",)})
    rows = text.splitlines()
    some = "\n".join([rows[0], *rows[1:20_000], *rows[-100:]])  # its last line has no end
    pack(world.archive, {"movies.csv": (ml_latest_small / "movies.csv").read_text(), "ratings.csv": some})
    with (ml_latest_small / "movies.csv").open(newline="") as file:
        known = {int(row["movieId"]) for row in csv.DictReader(file)}
    write_movie_ids(world.settings(), known)
    await ratings(world.settings())
    wanted, unknown = expected(some, known)
    assert documents(world) == wanted
    assert [letter["raw"] for letter in dead_letters(world.folder / "state")] == unknown


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on(world: World, cli: Cli, how: signal.Signals) -> None:
    """After the end of the process in the middle, the same command leaves what one run does; dead letters once."""
    world.write(ratings=ratings_text(5_000))
    write_movie_ids(world.settings(), range(1, 8))
    process = cli.start("movielens", "ratings", **world.environment)  # type: ignore[arg-type]
    while not documents(world):
        time.sleep(0.01)
    process.send_signal(how)
    assert finish(process).code in ((0, 75) if how == signal.SIGTERM else (-how,))  # it drains what it has begun
    outcome = cli.run("movielens", "ratings", "--json", **world.environment)
    assert outcome.code == 0, outcome.stderr
    assert outcome.counts("movielens") == {
        "read": 15_000,
        "accepted": 15_000,
        "rejected": 0,
        "written": 10_000,
        "merged": 0,
        "dead": 5_000,
    }
    wanted, unknown = expected(text_of(world.archive), set(range(1, 8)))
    assert documents(world) == wanted
    assert [letter["raw"] for letter in dead_letters(world.folder / "state")] == unknown


def test_a_killed_server_is_waited_for(world: World, cli: Cli, tmp_path: Path) -> None:
    """MongoDB may die in the middle: the command goes on when it is back, in the same process."""
    (tmp_path / "db").mkdir()
    try:
        server = Secantus(tmp_path / "db")
    except ServerMissingError as error:
        pytest.skip(f"NO SERVER: {error}")
    world.write(ratings=ratings_text(5_000))
    write_movie_ids(world.settings(), range(1, 8))
    with server:
        url = f"{server.url}/test?directConnection=true"
        process = cli.start("movielens", "ratings", "--json", **world.environment | {"MONGODB_URI": url})  # type: ignore[arg-type]
        while not documents(world, url):
            time.sleep(0.01)
        server.kill()
        server.start()
        outcome = finish(process)
        assert outcome.code == 0, outcome.stderr
        assert documents(world, url) == expected(text_of(world.archive), set(range(1, 8)))[0]
