"""Movies are stored with their embeddings once, and again only when they have changed."""

import json
import os
import re
import signal
import subprocess
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import ObjectId
from bson.binary import Binary

from ingest_service.errors import ConfigurationError, LocalIOError, SourceNotFound
from ingest_service.movielens.places import movie_object_id
from ingest_service.movielens.steps.movies import Movie, movies
from tests.helpers import COMMAND, Cli, dead_letters, finish, mongodb_documents
from tests.movielens.conftest import MOVIES, World
from tests.movielens.model import make_model


def stored(world: World) -> dict[int, dict[str, Any]]:
    return {one["movie_id"]: one for one in mongodb_documents(world.fields["mongodb_uri"], "movies")}


async def test_documents_are_as_the_page_says(world: World) -> None:
    """Each movie by its deterministic `_id`, with title, year, genres, and a vector of unit length."""
    before = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    report = await movies(world.settings())
    assert (report.read, report.stored, report.unchanged, report.refused, report.merged) == (7, 7, 0, 0, 0)
    found = stored(world)
    assert set(found) == set(range(1, 8))
    fields = {"_id", "movie_id", "title", "year", "genres", "embedding", "embedding_model", "updated_at"}
    for movie_id, title, genres in MOVIES:
        one = found[movie_id]
        assert set(one) == fields
        assert one["_id"] == movie_object_id(movie_id)
        assert one["title"] == title.strip()
        assert one["genres"] == ([] if genres == "(no genres listed)" else genres.split("|"))
        assert np.isclose(np.linalg.norm(one["embedding"]), 1, atol=1e-5)
        assert one["embedding_model"] == world.fields["hf_model_name"]
        assert one["updated_at"] >= before
    assert [found[i]["year"] for i in range(1, 8)] == [1995, 1998, 2002, 1995, None, 1975, 1995]
    assert movie_object_id(1) == ObjectId("011fcb5d1b1fcee66562c86d")  # stored data depends on it


async def test_the_map_leads_from_movies_to_documents(world: World) -> None:
    """movieId to `_id` as hex, for each movie that is stored."""
    report = await movies(world.settings())
    content = json.loads((world.folder / "movie_id_map.json").read_text())
    assert content == {str(movie_id): str(one["_id"]) for movie_id, one in stored(world).items()}
    assert report.movie_id_map == (world.folder / "movie_id_map.json").as_uri()


async def test_a_second_run_changes_nothing(world: World) -> None:
    """The very same documents, and the same map."""
    await movies(world.settings())
    before, map_before = stored(world), (world.folder / "movie_id_map.json").read_bytes()
    report = await movies(world.settings())
    assert (report.stored, report.unchanged) == (0, 7)
    assert stored(world) == before
    assert (world.folder / "movie_id_map.json").read_bytes() == map_before


async def test_only_what_changed_is_embedded_again(world: World) -> None:
    """A title, or genres, of one movie; the others keep their documents as they are."""
    await movies(world.settings())
    before = stored(world)
    changed = [
        *MOVIES[:2],
        (3, "Another Title (2002)", "Drama"),
        *MOVIES[3:5],
        (6, MOVIES[5][1], "Comedy"),
        *MOVIES[6:],
    ]
    world.write([*changed, (8, "New (2020)", "Drama")])
    report = await movies(world.settings())
    assert (report.stored, report.unchanged) == (3, 5)
    after = stored(world)
    assert after[3]["title"] == "Another Title (2002)"
    assert after[3]["embedding"] != before[3]["embedding"]
    assert after[6]["genres"] == ["Comedy"]
    assert {i: one for i, one in after.items() if i not in (3, 6, 8)} == {
        i: one for i, one in before.items() if i not in (3, 6)
    }


@pytest.mark.parametrize("change", ["name", "size", "format"])
async def test_another_model_embeds_all_again(world: World, tmp_path: Path, change: str) -> None:
    """By another name, with vectors of another size under the same name, or in another form: none of the old stay."""
    settings = world.settings(hf_model_name=str(make_model(tmp_path / "model")))
    await movies(settings)
    if change == "name":
        settings = world.settings(hf_model_name=str(make_model(tmp_path / "other", seed=2)))
    elif change == "size":
        (tmp_path / "model").rename(tmp_path / "old")
        make_model(tmp_path / "model", dimensions=12)
    else:
        settings = settings.model_copy(update={"embedding_format": "vector"})
    report = await movies(settings)
    assert (report.stored, report.unchanged) == (7, 0)
    after = stored(world)
    assert {one["embedding_model"] for one in after.values()} == {settings.hf_model_name}
    vectors = [one["embedding"] for one in after.values()]
    if change == "format":
        assert all(isinstance(one, Binary) and one.subtype == 9 for one in vectors)
        vectors = [one.as_vector().data for one in vectors]
    assert {len(one) for one in vectors} == {12 if change == "size" else 8}
    assert (await movies(settings)).unchanged == 7


async def test_bad_rows_are_kept_aside(world: World) -> None:
    """A movie without a number becomes a dead letter, once; of a number that comes twice the later row counts."""
    world.write([*MOVIES, (1, "Later (1999)", "Drama")])
    with zipfile.ZipFile(world.folder / "ml-test.zip") as old:
        text = old.read("ml-test/movies.csv") + b"x,No Number (2000),Drama\r\n8,One field more,Drama,x\r\n"
    with zipfile.ZipFile(world.archive, "w") as new:
        new.writestr("ml-test/movies.csv", text)
    for _ in range(2):
        report = await movies(world.settings())
        assert (report.read, report.refused, report.merged) == (10, 2, 1)
        assert report.read == report.refused + report.merged + report.unchanged + report.stored
    assert [letter["code"] for letter in dead_letters(world.folder / "state")] == ["bad_id", "wrong_arity"]
    assert stored(world)[1]["title"] == "Later (1999)"
    assert set(json.loads((world.folder / "movie_id_map.json").read_text())) == {str(i) for i in range(1, 8)}


async def test_what_the_collection_refuses_is_kept_aside(world: World, mongodb_db_url: str) -> None:
    """A document that a unique index refuses is a dead letter, and not in the map."""
    import pymongo

    with pymongo.MongoClient[dict[str, Any]](mongodb_db_url) as client:
        client.get_default_database()["movies"].create_index("title", unique=True)
    report = await movies(world.settings())
    assert (report.refused, report.stored) == (1, 6)
    assert [letter["code"] for letter in dead_letters(world.folder / "state")] == ["duplicate_key"]
    assert len(json.loads((world.folder / "movie_id_map.json").read_text())) == 6


@pytest.mark.parametrize("damage", ["no archive", "no member", "outside", "encrypted", "bomb", "cut"])
async def test_a_wrong_archive_is_explained(world: World, damage: str) -> None:
    """Each ends with a sentence and stores nothing; with a right archive the same step then ends well."""
    data = world.archive.read_bytes()
    error: type[Exception] = LocalIOError
    match damage:
        case "no archive":
            world.archive.unlink()
            error = SourceNotFound
        case "no member":
            with zipfile.ZipFile(world.archive, "w") as file:
                file.writestr("ml-test/other.csv", "x")
            error = SourceNotFound
        case "outside":
            with zipfile.ZipFile(world.archive, "w") as file:
                file.writestr("../movies.csv", "movieId,title,genres\n")
        case "encrypted":
            world.archive.write_bytes(_flagged(data, b"ml-test/movies.csv"))
        case "bomb":
            with zipfile.ZipFile(world.archive, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("ml-test/movies.csv", b"movieId,title,genres\n" + b"1" * (200 << 20))
        case "cut":
            world.archive.write_bytes(data[:-200])
    with pytest.raises(error):
        await movies(world.settings())
    assert stored(world) == {}
    world.archive.write_bytes(data)
    assert (await movies(world.settings())).stored == 7


def _flagged(data: bytes, name: bytes) -> bytes:
    """The same archive, with the member marked as encrypted (APPNOTE 4.3)."""
    changed = bytearray(data)
    for magic, flags, name_at in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
        for match in re.finditer(magic, data):
            if data[match.start() + name_at :].startswith(name):
                changed[match.start() + flags] |= 1
    return bytes(changed)


async def test_a_wrong_model_stops_before_anything(world: World, tmp_path: Path) -> None:
    """Nothing is stored, and no map is written."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="no folder of a sentence-transformers model"):
        await movies(world.settings(hf_model_name=str(tmp_path / "empty")))
    assert stored(world) == {}
    assert not (world.folder / "movie_id_map.json").exists()


def test_a_full_disk_at_the_map_keeps_the_old_one(world: World) -> None:
    """The map is as it was, and the same step writes the new one once there is room."""
    path = world.folder / "movie_id_map.json"
    path.write_text("{}")
    world.write([(i, f"Movie {i}", "Drama") for i in range(200)])
    for limit_kib, code, known in ((1, 74, 0), (1000, 0, 200)):
        script = f'ulimit -f {limit_kib}; exec "$@"'
        done = subprocess.run(
            ["bash", "-c", script, "bash", *COMMAND, "movielens", "movies"],
            env={**os.environ, **world.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert len(json.loads(path.read_text())) == known
        assert not list(world.folder.glob(".*.part"))
    assert len(stored(world)) == 200


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on(world: World, cli: Cli, how: signal.Signals) -> None:
    """What was embedded before the end of the process is not embedded again, and the rest is."""
    many = [(i, f"Movie {i} ({1950 + i % 70})", "Drama|Comedy") for i in range(1, 6_001)]
    world.write(many)
    process = cli.start("movielens", "movies", **world.environment)  # type: ignore[arg-type]
    while not stored(world):
        time.sleep(0.01)
    process.send_signal(how)
    assert finish(process).code == (75 if how == signal.SIGTERM else -how)
    some = len(stored(world))
    assert 0 < some < 6_000
    report = cli.run("movielens", "movies", "--json", **world.environment).report
    assert (report["read"], report["unchanged"] + report["stored"]) == (6_000, 6_000)
    assert report["unchanged"] >= some
    found = stored(world)
    assert {i: (one["title"], one["genres"]) for i, one in found.items()} == {
        i: (title, ["Drama", "Comedy"]) for i, title, _ in many
    }


async def test_the_real_movies(world: World, ml_latest_small: Path) -> None:
    """Every movie of ml-latest-small is read as Python's csv module reads it."""
    import csv

    with (ml_latest_small / "movies.csv").open(newline="", encoding="utf-8") as file:
        rows = [(int(row["movieId"]), row["title"], row["genres"]) for row in csv.DictReader(file)]
    with zipfile.ZipFile(world.archive, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(ml_latest_small / "movies.csv", "ml-latest-small/movies.csv")
    report = await movies(world.settings())
    assert (report.read, report.stored) == (len(rows), len(rows))
    found = stored(world)
    for movie_id, title, genres in rows:
        assert found[movie_id]["title"] == title.strip()
        assert found[movie_id]["genres"] == ([] if genres.startswith("(no") else genres.split("|"))


@pytest.mark.parametrize(
    ("title", "year"),
    [
        ("Toy Story (1995)", 1995),
        ("Fawlty Towers (1975-1979)", 1975),
        ("Big Bang Theory, The (2007-)", 2007),
        ("Babylon 5", None),
        ("2001 (A Space Odyssey)", None),
        ("Death Note: Desu nôto (2006\u20132007)", 2006),
        ("1984 (Nineteen Eighty-Four) (1984)", 1984),
    ],
)
def test_the_year_ends_the_title(title: str, year: int | None) -> None:
    """As MovieLens writes it, a span of years included."""
    assert Movie(1, title, ()).year == year


def test_the_text_is_title_and_genres() -> None:
    """What is embedded, as the reference embeddings have it."""
    assert Movie(1, "Heat (1995)", ("Action", "Crime")).text == "Heat (1995) Action Crime"
    assert Movie(1, "Heat (1995)", ()).text == "Heat (1995)"
