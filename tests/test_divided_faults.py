"""What may happen to a load that workers share: the same rows, counts and dead letters in the end, none of it twice."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers import COMMAND, Cli, Outcome, write_changing, write_pairs

WORKERS = ("--workers", "2", "--shard-mb", "1")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight MiB, and as many shards."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv", 20_000, blocks=1).path


class Changing:
    """Ratings of which each key has two, in shards far apart, and what one run of them left in SQLite."""

    def __init__(self, folder: Path) -> None:
        self.path = write_changing(folder / "ratings.csv", 20_000)
        cli = Cli(folder)
        self.counts = settled(cli.run_with(self.path, "--dataset", "movielens"))
        self.rows = cli.rows
        self.letters = letters_of(cli)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Changing:
    return Changing(tmp_path_factory.mktemp("changing"))


def settled(outcome: Outcome) -> tuple[int, ...]:
    """The counts that do not hang on where chunks end."""
    counts = outcome.counts("sqlite")
    return counts["read"], counts["accepted"], counts["rejected"], counts["dead"], counts["written"] + counts["merged"]


def letters_of(cli: Cli) -> list[tuple[int, int, str, str]]:
    return [(letter["line"], letter["offset"], letter["raw"], letter["code"]) for letter in cli.dead_letters]


def assert_as_one_run(cli: Cli, changing: Changing, outcome: Outcome) -> None:
    """And nothing is left of the shards."""
    assert settled(outcome) == changing.counts
    assert cli.rows == changing.rows
    assert letters_of(cli) == changing.letters
    assert not list((cli.folder / ".ingest").rglob("shards-*"))


def test_no_descriptor_is_closed_twice(cli: Cli, pairs: Path) -> None:
    """By the second time it may be that of a database which another thread has opened."""
    traced = ["strace", "-f", "-qq", "-Z", "-e", "trace=close", "-o", "trace"]
    if subprocess.run([*traced, "true"], cwd=cli.folder, capture_output=True, check=False).returncode:
        pytest.skip("NO TOOL: strace is not there, or may not trace")
    done = subprocess.run([*traced, *COMMAND, "run", pairs, *WORKERS], cwd=cli.folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "EBADF" not in (cli.folder / "trace").read_text()


# --- kill -9 ----------------------------------------------------------------------------------------


@pytest.mark.fault(80)
@pytest.mark.parametrize("place", ["keys-written:2", "lease-taken:2", "shards-repeated:1", "shards-letters:1"])
def test_kills_where_shards_begin_and_end(cli: Cli, changing: Changing, place: str) -> None:
    """Who comes to the place dies there, one after the other; a plain run ends it all the same."""
    journal = cli.folder / "journal"
    command = ("run", changing.path, "--dataset", "movielens")
    killed = cli.run(*command, *WORKERS, INGEST_TEST_FAULT_POINT=place, INGEST_TEST_JOURNAL=str(journal))
    assert killed.code == -signal.SIGKILL, killed.stderr
    names = [line.split()[1] for line in journal.read_text().splitlines()]
    assert names.count("killed") == 3  # both workers, and the driver, which goes on without them
    assert_as_one_run(cli, changing, cli.run_with(*command[1:]))


@pytest.mark.fault(80)
def test_what_shards_had_goes_with_the_next_load(cli: Cli, changing: Changing) -> None:
    """Also where who brought them together was killed just after; their dead letters are not there twice."""
    command = (changing.path, "--dataset", "movielens")
    # The lease is taken to divide it, for each of six shards, to bring them together, and to load what is left.
    killed = cli.run("work", *command, "--shard-mb", "1", INGEST_TEST_FAULT_POINT="lease-taken:9")
    assert killed.code == -signal.SIGKILL
    assert len(list((cli.folder / ".ingest").rglob("shards-*"))) == 1
    assert cli.rows == changing.rows
    assert_as_one_run(cli, changing, cli.run_with(*command))
