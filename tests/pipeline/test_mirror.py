"""A state folder that is mirrored: what a worker kept is there for others, though nothing of its disk is."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ingest_service.pipeline.mirror import Mirror
from tests.buckets import Moto
from tests.helpers import Cli, sqlite_rows, write_changing
from tests.helpers import dead_letters as letters_in

RATINGS = ("ratings.csv", "--dataset", "movielens")


@pytest.fixture(params=["file", "s3"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a place that two machines share."""
    if request.param == "file":
        yield (tmp_path / "shared").as_uri()
        return
    moto: Moto = request.getfixturevalue("moto")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in moto.environment.items():
            patch.setenv(name, value)
        moto.make_bucket("mirrors")
        yield f"s3://mirrors/{tmp_path.name}"


@dataclass
class Machine:
    """A state folder of its own; the store is the same for all."""

    cli: Cli
    name: str
    mirror: str = ""

    @property
    def options(self) -> list[str]:
        mirror = [f"--state-mirror={self.mirror}"] if self.mirror else []
        return ["--to=sqlite:///both.db", f"--state-dir=state/{self.name}", "--json", *mirror]

    @property
    def letters(self) -> list[tuple[int, int, str, str]]:
        found = letters_in(self.cli.folder / "state" / self.name)
        return [(letter["line"], letter["offset"], letter["raw"], letter["code"]) for letter in found]

    def is_lost(self) -> None:
        shutil.rmtree(self.cli.folder / "state" / self.name)


def one_run_of(cli: Cli, *source: str) -> tuple[object, object]:
    """What a single run leaves: rows and dead letters."""
    machine = Machine(cli, "one")
    assert cli.run("run", *source, *machine.options[1:], "--to=sqlite:///one.db").code == 0
    return sqlite_rows(cli.folder / "one.db"), machine.letters


def work_until_killed(machine: Machine) -> None:
    """In the fourth shard."""
    killed = machine.cli.run("work", *RATINGS, "--shard-mb=1", *machine.options, INGEST_TEST_FAULT_POINT="settled:4")
    assert killed.code == -signal.SIGKILL
    assert machine.letters


def test_what_a_lost_machine_kept_is_there(cli: Cli, mirror: str) -> None:
    """Its dead letters, and the keys by which the later row wins, serve who ends the load: as one run leaves it."""
    write_changing(cli.folder / "ratings.csv", 20_000)
    expected = one_run_of(cli, *RATINGS)
    first, second = Machine(cli, "first", mirror), Machine(cli, "second", mirror)
    work_until_killed(first)
    first.is_lost()
    ended = cli.run("work", *RATINGS, *second.options)
    assert ended.code == 0, ended.stderr
    assert (sqlite_rows(cli.folder / "both.db"), second.letters) == expected
    third = Machine(cli, "third", mirror)
    assert cli.run("run", *RATINGS, *third.options).code == 0
    assert third.letters == second.letters
    stream = next((cli.folder / "state" / "third").iterdir())
    assert Mirror(mirror, cli.folder / "state" / "third").folders_in(stream) == []


@pytest.mark.parametrize("left", [0, 1])
def test_without_a_mirror_it_is_said_what_is_lost(cli: Cli, left: int) -> None:
    """Also where others of the same shard are there."""
    write_changing(cli.folder / "ratings.csv", 20_000)
    first, second = Machine(cli, "first"), Machine(cli, "second")
    work_until_killed(first)
    (cli.folder / "state/first").rename(cli.folder / "state/second")
    for path in (cli.folder / "state").rglob("dead-letters.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:left]))
    ended = cli.run("work", *RATINGS, *second.options)
    assert ended.code == 74 and "workers must share --state-dir, or have a --state-mirror" in ended.stderr


@pytest.mark.fault(80)
def test_a_worker_killed_between_mirror_and_folder(cli: Cli, tmp_path: Path) -> None:
    """The letter is in the mirror alone; the row comes again, and its letter is there once."""
    write_changing(cli.folder / "ratings.csv", 20_000)
    expected = one_run_of(cli, *RATINGS)
    machine = Machine(cli, "first", (tmp_path / "shared").as_uri())
    for place in ("mirrored:1", "mirrored:2"):
        killed = cli.run("work", *RATINGS, "--shard-mb=1", *machine.options, INGEST_TEST_FAULT_POINT=place)
        assert killed.code == -signal.SIGKILL
    assert cli.run("work", *RATINGS, *machine.options).code == 0
    assert (sqlite_rows(cli.folder / "both.db"), machine.letters) == expected


def test_what_was_replayed_does_not_come_back(cli: Cli, mirror: str) -> None:
    """A letter that landed on one machine is not brought to another; nor do verify and later runs miss it there."""
    path = cli.file("pairs.csv", "userID,videoID,timestamp\n1,2,1600000000000\nx,3,1600000000000\ny,4,1600000000000\n")
    first, second = Machine(cli, "first", mirror), Machine(cli, "second", mirror)
    assert cli.run("run", path, *first.options).code == 0
    file = next((cli.folder / "state/first").rglob("dead-letters.jsonl"))
    file.write_text(file.read_text().replace("x,3", "9,3"))
    environment = {"INGEST_STATE_MIRROR": mirror, "INGEST_STATE_DIR": "state/first"}
    replayed = cli.run("replay", file, "--to=sqlite:///both.db", "--json", **environment)
    assert replayed.code == 0 and replayed.report["landed"] == 1, replayed.stderr
    environment["INGEST_STATE_DIR"] = "state/second"
    assert cli.run("verify", path, "--to=sqlite:///both.db", **environment).code == 0
    assert [raw for _, _, raw, _ in second.letters] == ["y,4,1600000000000"]
    with path.open("a") as more:
        more.write("z,5,1600000000000\n")
    assert cli.run("run", path, *second.options).code == 0
    assert [raw for _, _, raw, _ in second.letters] == ["y,4,1600000000000", "z,5,1600000000000"]


def test_a_new_start_sets_aside_what_was_there(cli: Cli, mirror: str) -> None:
    """Its letters are not those of the new start, and stay under another name."""
    path = cli.file("pairs.csv", "userID,videoID,timestamp\nx,3,1600000000000\n")
    first, second = Machine(cli, "first", mirror), Machine(cli, "second", mirror)
    options = [*first.options, "--max-rejects=100%"]
    assert cli.run("run", path, *options).code == 0
    path.write_text("userID,videoID,timestamp\n1,3,1600000000000\n")
    for _ in range(2):
        assert cli.run("run", path, *second.options, "--restart").code == 0
    assert second.letters == []
    stream = next((cli.folder / "state" / "second").iterdir())
    pieces = Mirror(mirror, cli.folder / "state" / "second").pieces(stream / "dead-letters.1.jsonl")
    assert len(list(pieces)) == 1


def test_a_row_that_went_on_takes_its_letter_back(cli: Cli, mirror: str) -> None:
    """The last row had no end and was refused; once it is whole, whoever loads it brings no letter of it."""
    path = cli.file("pairs.csv", "userID,videoID,timestamp\nx,3,1600000000000\n1,2,1600000000000\n5,6,")
    first, second = Machine(cli, "first", mirror), Machine(cli, "second", mirror)
    assert cli.run("run", path, *first.options).code == 0
    assert len(first.letters) == 2
    with path.open("a") as more:
        more.write("1600000000000\n")
    third = Machine(cli, "third", mirror)
    for machine in (second, third):
        assert cli.run("run", path, *machine.options).code == 0
        assert [raw for _, _, raw, _ in machine.letters] == ["x,3,1600000000000"]


def test_a_mirror_that_cannot_be_had_stops_the_load(cli: Cli) -> None:
    """No row is sent, and the sentence names the place."""
    write_changing(cli.folder / "ratings.csv", 2_000)
    outcome = cli.run("run", *RATINGS, *Machine(cli, "first", "file:///proc/nowhere").options)
    assert outcome.code in (74, 78) and "/proc/nowhere" in outcome.stderr
    assert "rows_written" not in outcome.stderr
