"""A last line without an end that goes on later: what half a row became is taken back, and the whole row is loaded."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_service.errors import SourceChanged
from ingest_service.pipeline import checkpoint, dead_letter
from tests.helpers import HEADER, Cli, Outcome, create_tables, dynamodb_at

# The half row `7,8,158336` is a row as well, and there is one of its key before it.
ROWS = b"7,8,158336\n7,9,1583366400000\n8,9,1583366401000\n7,8,1583366402000\n8,9,bad\n"
HALVES = [f"{HEADER}\n".encode() + ROWS[:length] for length in range(len(ROWS) - 40, len(ROWS))]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    found = Cli(tmp_path)
    yield found
    found.close()


def as_if_loaded_at_once(cli: Cli, data: bytes, *options: str) -> tuple[object, object]:
    """The rows and the dead letters of one run over the whole."""
    (cli.folder / "once").mkdir()
    once = Cli(cli.folder / "once")
    once.load(once.file("pairs.csv", data), *options)
    return once.rows, places(once)


def places(cli: Cli) -> list[tuple[object, ...]]:
    return sorted((one["offset"], one["line"], one["raw"], one["code"]) for one in cli.dead_letters)


def assert_verified(cli: Cli, *arguments: str | Path) -> None:
    outcome = cli.here("verify", *arguments)
    assert outcome.code == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("half", HALVES[::3] + HALVES[-4:], ids=lambda half: repr(half[-12:]))
@pytest.mark.fault(57)
def test_half_a_row_is_taken_back(cli: Cli, half: bytes) -> None:
    """Wherever a file was cut, valid or not: after the next run all is as if it had been whole, letters too."""
    whole = f"{HEADER}\n".encode() + ROWS
    path = cli.file("pairs.csv", half)
    cli.load(path)
    assert_verified(cli, path)
    path.write_bytes(whole)
    outcome = cli.load(path)
    assert outcome.counts("sqlite")["read"] == 5
    assert outcome.report["sources"][0]["complete"]
    assert (cli.rows, places(cli)) == as_if_loaded_at_once(cli, whole)
    assert_verified(cli, path)
    assert cli.load(path).report["sources"][0]["rows_now"] == 0


TAGS = ["a", '"b,c"', '"d\ne"', '"f""\n\n1,2,g,5"']
ENDS = ["158336", "1583366400", "1583366401", "bad", "1583366402,"]
ANY = ("--max-rejects", "100%")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.fault(57)
def test_a_file_that_grows_by_pieces_is_loaded_as_a_whole(cli: Cli, seed: int) -> None:
    """As a writer's buffers come to the disk: a run after each piece, line breaks within quotes included."""
    some = random.Random(seed)
    lines = [",".join((some.choice("123"), some.choice("12"), some.choice(TAGS), some.choice(ENDS))) for _ in range(14)]
    whole = ("userId,movieId,tag,timestamp\n" + "\n".join(lines) + some.choice(["", "\n"])).encode()
    path = cli.file("pairs.csv", whole[:29])
    end = 29
    while end < len(whole):
        end += some.randrange(1, 60)
        path.write_bytes(whole[:end])
        cli.load(path, "--dataset", "movielens-tags", *ANY)
        assert_verified(cli, path, "--dataset", "movielens-tags")
    assert (cli.rows, places(cli)) == as_if_loaded_at_once(cli, whole, "--dataset", "movielens-tags", *ANY)


BACKWARDS = "timestamp,item,user\n100,1,7\n200,2,7\n300,3,7\n400,4,7"  # of user 77, as it turns out
FULL = BACKWARDS + "7\n500,5,7\n"


@pytest.fixture(params=["sqlite", "redis", "dynamodb", "mongodb", "postgresql"])
async def sink(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite:///interactions.db"
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_db_url')}?recent_limit=3"
    if request.param == "mongodb":
        return str(request.getfixturevalue("mongodb_db_url"))
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_schema_url"))
    url = dynamodb_at(request.getfixturevalue("dynamodb_url"), request.getfixturevalue("table"))
    await create_tables(url)
    return url


@pytest.mark.parametrize("place", ["sink", "file:checkpoints"])
@pytest.mark.fault(57)
async def test_in_every_sink(cli: Cli, sink: str, place: str) -> None:
    """Also what the half row had pushed out of a user's newest is there again."""
    path = cli.file("pairs.csv", BACKWARDS)
    arguments = (path, "--to", sink, "--checkpoint", place)
    cli.run_with(*arguments)
    path.write_text(FULL.replace("500,5,7\n", ""))
    before_it_is_loaded = cli.run("verify", *arguments)
    assert (before_it_is_loaded.code, "load it again first" in before_it_is_loaded.message) == (78, True)
    cli.run_with(*arguments)
    outcome = cli.run("verify", *arguments)
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    path.write_text(FULL)
    cli.run_with(*arguments)
    outcome = cli.run("verify", *arguments)
    assert outcome.code == 0, outcome.stdout + outcome.stderr


@pytest.mark.fault(57)
def test_sinks_that_saw_different_ends(cli: Cli) -> None:
    """Each falls back to where its own last row began."""
    both = ("--to", "sqlite:///interactions.db", "--to", "sqlite:///b.db?name=b")
    path = cli.file("pairs.csv", f"{HEADER}\n7,8,158336")
    cli.load(path, *both[:2])
    path.write_bytes(f"{HEADER}\n7,8,1583366\n7,8,15833".encode())
    cli.load(path, *both[2:])
    path.write_bytes(f"{HEADER}\n7,8,1583366\n7,8,1583367\n".encode())
    cli.load(path, *both)
    assert_verified(cli, path, *both)


@pytest.mark.fault(57)
def test_a_crash_while_it_is_taken_back(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the checkpoint has fallen back, all of it is done again."""
    whole = f"{HEADER}\n".encode() + ROWS
    path = cli.file("pairs.csv", whole[: whole.index(b"6402000")])
    cli.load(path)
    path.write_bytes(whole)

    def crash(*_: object, **__: object) -> None:
        raise SourceChanged("as if it were killed.")

    for target, name in ((dead_letter.Letters, "remove"), (checkpoint.Lease, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, crash)
            assert cli.here("run", path).code == 78
    cli.load(path)
    assert (cli.rows, places(cli)) == as_if_loaded_at_once(cli, whole)
    assert_verified(cli, path)


def refused(outcome: Outcome) -> None:
    assert (outcome.code, "--restart" in outcome.message) == (78, True), outcome.stderr


@pytest.mark.fault(57)
def test_what_nobody_can_take_back_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half row that was edited and replayed, one that version 0.1 has loaded, into a sink that is ahead too: 78."""
    path = cli.file("pairs.csv", f"{HEADER}\n1,2,1583366400000\n7,8")
    cli.load(path)
    (letters,) = cli.folder.glob(".ingest/*/dead-letters.jsonl")
    letter = json.loads(letters.read_text())
    letters.write_text(json.dumps({**letter, "raw": "7,8,1583366400000"}) + "\n")
    assert cli.here("replay", letters).code == 0
    rows = cli.rows
    path.write_bytes(f"{HEADER}\n1,2,1583366400000\n7,8,9\n".encode())
    refused(cli.here("run", path))
    assert cli.rows == rows

    behind = ("--to", "sqlite:///interactions.db", "--to", "sqlite:///b.db?name=b")
    for number, sinks in enumerate((behind[:2], behind)):
        other = cli.file(f"other-{number}.csv", f"{HEADER}\n6,7,8\n7,8,9")
        cli.load(other, *behind, "--limit", "1")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "encode", _without_unended)
            cli.load(other, *behind[:2])
        other.write_bytes(f"{HEADER}\n6,7,8\n7,8,99\n".encode())
        refused(cli.here("run", other, *sinks))


_encode = checkpoint.encode


def _without_unended(found: checkpoint.Checkpoint) -> str:
    """As version 0.1 wrote it."""
    return _encode(replace(found, watermark=replace(found.watermark, unended=None)))
