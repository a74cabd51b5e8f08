"""Which records are for training, validation and test: as a computation over the whole file has it."""

import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ingest_service.analysis.split import LeaveOneOut, Ratios, rule_of
from ingest_service.errors import ConfigurationError
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, Cli

Row = tuple[int, int, int]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    found = Cli(tmp_path)
    yield found
    found.close()


def some_rows(n: int, seed: int = 1) -> list[Row]:
    """Users with one record and with many, times that are the same, keys that come again."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for _ in range(n):
        if rows and rng.random() < 0.1:
            rows.append(rng.choice(rows))
        else:
            user = int(rng.paretovariate(0.5)) % 5_000
            rows.append((user, rng.randrange(300), FIRST_MS + 1_000 * rng.randrange(200)))
    return rows


def written(cli: Cli, rows: Sequence[Row], n_files: int = 1) -> list[Path]:
    each = -(-len(rows) // n_files)
    files = []
    for number in range(n_files):
        part = rows[number * each : (number + 1) * each]
        lines = "".join(f"{user},{item},{at}\n" for user, item, at in part)
        files.append(cli.file(f"pairs-{number}.csv", f"{HEADER}\n{lines}"))
    return files


def by_polars(rows: Sequence[Row], by: str) -> dict[Row, str]:
    """Over all rows at once, by the words of RecBole's code."""
    frame = pl.DataFrame(rows, schema=["u", "i", "t"], orient="row").with_row_index()
    frame = frame.unique(["u", "i", "t"], keep="last").sort("t", "index")
    parts: dict[Row, str] = {}
    for _, group in frame.group_by("u", maintain_order=True):
        mine = group.select("u", "i", "t").rows()
        if by == "leave-one-out":
            legal = min(2, len(mine) - 1)
            counts = [len(mine) - legal, legal - 1 if legal else 0, min(legal, 1)]
        else:
            ratios = [float(one) for one in by.split(",")]
            counts = [int(ratio / sum(ratios) * len(mine)) for ratio in ratios]
            counts[0] = len(mine) - sum(counts[1:])
            for i in range(1, 3):
                if counts[0] <= 1:
                    break
                if 0 < ratios[-i] / sum(ratios) * len(mine) < 1:
                    counts[-i] += 1
                    counts[0] -= 1
        names = [name for name, n in zip(("train", "valid", "test"), counts, strict=True) for _ in range(n)]
        parts |= dict(zip(mine, names, strict=True))
    return parts


def in_sqlite(path: Path, field: str = "split") -> list[tuple[str, str, str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        query = f'SELECT user_id, "timestamp", video_id, "{field}" FROM interactions'
        return sorted(connection.execute(query).fetchall())


def expected_in_sqlite(cli: Cli, rows: Sequence[Row], by: str) -> list[tuple[str, str, str, str]]:
    """By the ids of records, with the part of each."""
    from ingest_service.sinks.testing.rows import interaction, key_of

    found = []
    for (user, item, at), part in by_polars(rows, by).items():
        user_id, event_key = key_of(interaction(user, item, at))
        time, _, video = event_key.partition("#")
        found.append((user_id, time, video, part))
    return sorted(found)


@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("by", ["leave-one-out", "0.8,0.1,0.1", "7,2,1", "0.5,0,0.5"])
def test_parts_are_those_of_the_whole(cli: Cli, by: str, n_files: int) -> None:
    """Exactly, ties and repeated keys included, over one file or several."""
    rows = some_rows(6_000)
    outcome = cli.here("split", *written(cli, rows, n_files), "--to", "sqlite:///rows.db", "--by", by, "--json")
    assert outcome.code == 0, outcome.stderr
    found = in_sqlite(cli.folder / "rows.db")
    assert found == expected_in_sqlite(cli, rows, by)
    assert {part for *_, part in found} == ({"train", "test"} if ",0," in by else {"train", "valid", "test"})


@pytest.mark.parametrize("rule", [LeaveOneOut(), Ratios("", (0.8, 0.1, 0.1)), Ratios("", (0.4, 0.3, 0.3))])
@pytest.mark.parametrize("total", [1, 2, 3, 4, 9, 10, 11, 100])
def test_every_record_has_a_part_and_training_has_one(rule: LeaveOneOut | Ratios, total: int) -> None:
    """Parts follow each other in time."""
    parts = rule.parts(np.arange(total), np.full(total, total)).tolist()
    assert parts == sorted(parts)
    assert Counter(parts)[0] >= 1


@pytest.mark.fault(1)
def test_a_split_that_was_killed_goes_on(cli: Cli) -> None:
    """As it would have been: the parts are those of the whole."""
    rows = some_rows(40_000)
    (file,) = written(cli, rows)
    command = ("split", file, "--to", "sqlite:///rows.db")
    killed = cli.run(*command, INGEST_TEST_FAULT_POINT="settled:1")
    assert killed.code == -signal.SIGKILL
    assert cli.run(*command).code == 0
    assert in_sqlite(cli.folder / "rows.db") == expected_in_sqlite(cli, rows, "leave-one-out")


def test_what_would_change_parts_that_are_stored_is_refused(cli: Cli) -> None:
    """A file that has grown, another rule or field; a restart splits anew."""
    rows = some_rows(500)
    (file,) = written(cli, rows)
    to = ("--to", "sqlite:///rows.db")
    assert cli.here("split", file, *to).code == 0
    assert cli.here("split", file, *to).code == 0
    for options in (("--by", "0.8,0.1,0.1"), ("--field", "fold")):
        assert cli.here("split", file, *to, *options).code == ConfigurationError.exit_code
    assert cli.here("run", file, *to).code == ConfigurationError.exit_code
    more = some_rows(50, seed=2)
    with file.open("a") as opened:
        opened.writelines(f"{user},{item},{at}\n" for user, item, at in more)
    outcome = cli.here("split", file, *to)
    assert (outcome.code, "--restart" in outcome.stderr) == (ConfigurationError.exit_code, True)
    assert cli.here("split", file, *to, "--restart").code == 0
    assert in_sqlite(cli.folder / "rows.db") == expected_in_sqlite(cli, rows + more, "leave-one-out")


def test_mistakes_are_said(cli: Cli) -> None:
    """A rule that is none, a field that is there, standard input, a data set about items."""
    (file,) = written(cli, some_rows(10))
    titles = cli.file("titles.csv", "item,title\n1,Cats\n")
    for arguments, says in (
        ((file, "--by", "0.8,0.2"), "three ratios"),
        ((file, "--by", "0,0.5,0.5"), "three ratios"),
        ((file, "--field", "device"), "a field 'device' already"),
        (("-",), "second time"),
        ((titles, "--dataset", "microlens-titles"), "not split by users"),
    ):
        outcome = cli.here("split", *arguments, "--to", "sqlite:///rows.db")
        assert (outcome.code, says in outcome.stderr) == (2, True), outcome.stderr


def test_a_file_without_rows_is_split_into_nothing(cli: Cli) -> None:
    """There is a header alone."""
    assert cli.here("split", *written(cli, []), "--to", "sqlite:///rows.db").code == 0
    assert rule_of("leave-one-out").name == "leave-one-out"
