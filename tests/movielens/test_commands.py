"""The commands `movielens …`, as a user calls them."""

import json
import shutil
from pathlib import Path

import pymongo
import pytest
import redis

from ingest_service.movielens.places import POPULAR_KEY
from tests.helpers import Cli, mongodb_documents
from tests.movielens.conftest import World

NOTHING = {"MONGODB_URI": "", "REDIS_URL": "", "GCS_BUCKET_NAME": ""}


def test_all_runs_the_steps_in_order(world: World, cli: Cli) -> None:
    """From an archive that is only published to a list in Redis; again, it finds everything done."""
    world.archive.unlink()
    outcome = cli.run("movielens", "all", "--as-of", "latest", "--create-indexes", "--json", **world.environment)
    assert outcome.code == 0, outcome.stderr
    report = outcome.report
    assert list(report) == ["download", "movies", "ratings", "popular"]
    assert not report["download"]["was_there"]
    assert (report["movies"]["stored"], report["ratings"]["sources"][0]["rows_now"]) == (7, 900)
    with redis.Redis.from_url(world.fields["redis_url"]) as client:
        assert json.loads(client.get(POPULAR_KEY)) == report["popular"]["movies"]
    events = [event["step"] for event in outcome.events if event["event"] == "report" and "step" in event]
    assert events == ["download", "movies", "popular"]
    again = cli.run("movielens", "all", "--as-of", "latest", "--json", **world.environment).report
    assert again["download"]["was_there"]
    assert (again["movies"]["unchanged"], again["ratings"]["sources"][0]["rows_now"]) == (7, 0)
    assert again["popular"] == report["popular"]


def test_results_are_told_in_words(world: World, cli: Cli) -> None:
    """One sentence a step on stdout."""
    said = cli.run("movielens", "all", "--as-of", "2017-07-20T12:00", **world.environment)
    assert said.code == 0, said.stderr
    assert "is there already" in said.stdout
    assert "7 movies: 7 embedded and stored, 0 unchanged" in said.stdout
    assert "popular movies as of 2017-07-20 12:00:00 UTC" in said.stdout
    kept = cli.run("movielens", "popular", **world.environment)
    assert (kept.code, "the list in Redis stays" in kept.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (["download"], NOTHING, 78, "GCS_BUCKET_NAME"),
        (["movies"], {"MONGODB_URI": ""}, 78, "MONGODB_URI"),
        (["movies"], {"HF_MODEL_NAME": "/nowhere"}, 78, "HF_MODEL_NAME"),
        (["movies"], {"HF_DEVICE": "tpu"}, 78, "HF_DEVICE"),
        (["movies"], {"EMBEDDING_BATCH_SIZE": "0"}, 78, "EMBEDDING_BATCH_SIZE"),
        (["movies"], {"MOVIELENS_ZIP_FILENAME": "none.zip"}, 66, "ingest-service movielens download"),
        (["ratings"], {"INGEST_MOVIE_ID_MAP": "none.json"}, 66, "ingest-service movielens movies"),
        (["movies"], {"HF_MODEL_NAME": "nobody/nothing", "HF_HUB_OFFLINE": "1", "HF_HOME": "none"}, 78, "from the hub"),
        (["popular"], {"REDIS_URL": ""}, 78, "REDIS_URL"),
        (["popular", "--as-of", "yesterday"], {}, 2, "--as-of"),
        (["popular"], {"MONGODB_URI": "mongodb://127.0.0.1:1/x?retry_budget_s=0.2"}, 69, "did not recover"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list | dict) else None,
)
def test_mistakes_are_named(
    world: World, cli: Cli, arguments: list[str], environment: dict[str, str], code: int, message: str
) -> None:
    """One sentence with what to do, and the exit code for it."""
    outcome = cli.run("movielens", *arguments, **world.environment | environment)
    assert outcome.code == code, outcome.stderr
    assert message in outcome.message


def test_a_model_may_come_from_the_hub(world: World, cli: Cli, tiny_model: Path) -> None:
    """By its name there; what the hub's own cache holds is not fetched again."""
    cached = world.folder / "hub-home" / "hub" / "models--somebody--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_model, cached / "snapshots" / ("0" * 40))
    hub = {"HF_MODEL_NAME": "somebody/tiny", "HF_HUB_OFFLINE": "1", "HF_HOME": str(world.folder / "hub-home")}
    outcome = cli.run("movielens", "movies", "--json", **world.environment | hub)
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["stored"] == 7
    (one, *_) = mongodb_documents(world.fields["mongodb_uri"], "movies")
    assert one["embedding_model"] == "somebody/tiny"


def test_settings_may_stand_in_a_dotenv_file(world: World, cli: Cli) -> None:
    """The plain names, in a `.env` of the folder."""
    cli.file(".env", "".join(f"{name}={value}\n" for name, value in world.environment.items()))
    assert cli.run("movielens", "movies").code == 0


def test_check_looks_at_what_movielens_needs(world: World, cli: Cli) -> None:
    """`movielens check` has the indexes of ratings among its findings, and `--create` makes them."""
    bad = cli.run("movielens", "check", **world.environment)
    assert bad.code == 69
    assert "index" in bad.stdout
    assert cli.run("movielens", "check", "--create", **world.environment).code == 0
    assert cli.run("movielens", "check", **world.environment).code == 0
    with pymongo.MongoClient[dict[str, object]](world.fields["mongodb_uri"]) as client:
        assert len(client.get_default_database()["interactions"].index_information()) == 4


def test_check_leaves_alone_what_is_not_about_to_be_used(world: World, cli: Cli) -> None:
    """A MicroLens user with MONGODB_URI set is asked for no index of MovieLens's, nor are any made."""
    checked = cli.run("check", "--create", "--to", "mongodb", "--to", "sqlite:///x.db", **world.environment)
    assert checked.code == 0, checked.stderr
    assert "index" not in checked.stdout
    with pymongo.MongoClient[dict[str, object]](world.fields["mongodb_uri"]) as client:
        assert set(client.get_default_database()["interactions"].index_information()) <= {"_id_"}


def test_secrets_stay_out(world: World, cli: Cli) -> None:
    """Neither a password of a store nor a title shows in what is printed or logged."""
    world.write([(1, "canary title", "Drama")])
    uri = world.fields["mongodb_uri"].replace("mongodb://", "mongodb://me:canary@") + "&authSource=admin"
    for environment in ({"MONGODB_URI": uri}, {"REDIS_URL": "redis://:canary@127.0.0.1:1/0?retry_budget_s=0.2"}, {}):
        outcome = cli.run("movielens", "all", "--as-of", "latest", **world.environment | environment)
        assert "canary" not in outcome.stdout + outcome.stderr
