"""Parquet: a folder that holds each row of a source once, whatever became of the run that wrote it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow
import pyarrow.dataset
import pyarrow.parquet as parquet
import pytest

from ingest_service.errors import ConfigurationError, LeaseHeld, RowsGone
from ingest_service.sinks.parquet.folder import Folder
from ingest_service.sinks.parquet.sink import ParquetSink
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interactions
from tests.helpers import HEADER, Cli, parquet_rows

ROWS = 300_000  # that many fill several files at the least memory
LEAST = ("--memory", "182")
NEWEST = """
    SELECT * FROM read_parquet('{folder}/**/*.parquet', union_by_name = true)
    QUALIFY row_number() OVER (PARTITION BY user_id, "timestamp", video_id ORDER BY _source DESC, _offset DESC) = 1
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    found = Cli(tmp_path)
    yield found
    found.close()


def pairs_text(rows: int, *, every_ms: int) -> str:
    return "".join(f"{number % 997},{number},{FIRST_MS + number * every_ms}\n" for number in range(rows))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is loaded as several files, in two months each."""
    path = tmp_path_factory.mktemp("long") / "pairs.csv"
    path.write_text(f"{HEADER}\n{pairs_text(ROWS, every_ms=20_000)}")
    return path


def content(folder: Path) -> pyarrow.Table:
    """All that any reader of the folder sees, in the order of the source."""
    tables = [parquet.read_table(path, partitioning=None) for path in sorted(folder.glob("**/*.parquet"))]
    return pyarrow.concat_tables(tables).sort_by([("_source", "ascending"), ("_offset", "ascending")])


def named_in_manifests(folder: Path) -> set[Path]:
    there = Folder(folder)
    there.open()
    return set(there.listed())


@pytest.fixture(scope="module")
def clean(long: Path) -> pyarrow.Table:
    cli = Cli(long.parent)
    cli.load(long, "--to", "parquet:///clean", *LEAST)
    assert len(list((long.parent / "clean").glob("**/*.parquet"))) > 4
    return content(long.parent / "clean")


PLACES = ["parquet-written:4", "parquet-renamed:3", "parquet-listed:2", "settled:2"]
SLOWLY = ["parquet-renamed:5", "settled:3", "checkpoint-swapped:3"]  # there are checkpoints by then


@pytest.mark.parametrize("place", [*PLACES, *SLOWLY])
@pytest.mark.fault(1, 2)
def test_a_load_that_was_killed_leaves_each_row_once(cli: Cli, long: Path, clean: pyarrow.Table, place: str) -> None:
    """Killed there, and then again while it resumes: the folder has the rows of one clean run, with any reader."""
    command = ("run", long, *LEAST, "--to", "parquet:///lake" + ("?rate=100000" if place in SLOWLY else ""))
    for again in (place, "parquet-begun:1", "parquet-renamed:1"):
        assert cli.run(*command, INGEST_TEST_FAULT_POINT=again).code == -signal.SIGKILL
    outcome = cli.load(long, "--to", "parquet:///lake", *LEAST)
    assert outcome.counts("parquet")["written"] == ROWS
    assert content(cli.folder / "lake").equals(clean)
    assert named_in_manifests(cli.folder / "lake") == set((cli.folder / "lake").glob("**/*.parquet"))


def test_a_watermark_within_a_file_cuts_it(tmp_path: Path) -> None:
    """The rows beyond go, those before stay, and doing it again changes nothing."""
    folder = Folder(tmp_path / "lake")
    folder.open()
    folder.begin("s", 0)
    sink = ParquetSink(f"parquet:///{tmp_path}/lake?partition=none")
    chunk = chunk_of(interactions(100))
    from ingest_service.sinks.parquet.folder import Piece
    from ingest_service.sinks.parquet.tables import Rows, shape_of

    rows = Rows.of(chunk, replayed=False)
    end = int(chunk.offsets[-1]) + 1
    folder.add([Piece("", [rows])], (0, end), shape_of(rows.columns.schema), sink.options.partition.value)
    middle = int(chunk.offsets[40])
    for _ in range(2):
        folder.begin("s", middle)
        assert content(tmp_path / "lake")["_offset"].to_pylist() == chunk.offsets[:40].tolist()
        assert [path.name for path in (tmp_path / "lake").glob("*.parquet")] == [f"s-{0:015d}-{middle:015d}.parquet"]


@pytest.mark.fault(26)
async def test_a_runner_that_slept_adds_nothing(tmp_path: Path) -> None:
    """Once another has begun, what the first one still writes is refused, and no file of it is there."""
    first, second = (ParquetSink(f"parquet:///{tmp_path}/lake") for _ in range(2))
    for sink in (first, second):
        await sink.open()
        await sink.begin("s", 0)
    with pytest.raises(LeaseHeld):
        await first.store(chunk_of(interactions(10)))
    await second.store(chunk_of(interactions(10)))
    assert len(parquet_rows(tmp_path / "lake")) == 10


@pytest.mark.parametrize("harm", ["remove", "cut"])
@pytest.mark.fault(9)
def test_a_file_that_is_gone_is_noticed(cli: Cli, harm: str) -> None:
    """By the next run, which loads nothing beside it, and by `verify`; `--restart` loads all of it."""
    path = cli.file("pairs.csv", f"{HEADER}\n{pairs_text(1_000, every_ms=60_000)}")
    cli.load(path, "--to", "parquet:///lake")
    victim = next((cli.folder / "lake").glob("**/*.parquet"))
    if harm == "remove":
        victim.unlink()
        outcome = cli.here("verify", path, "--to", "parquet:///lake", "--json")
        assert outcome.code != 0 and outcome.report["sinks"]["parquet"]["missing"] == 1_000
    else:
        table = parquet.read_table(victim, partitioning=None)
        parquet.write_table(table.slice(1), victim)
        assert cli.here("verify", path, "--to", "parquet:///lake").code != 0
    with path.open("a") as file:
        file.write(f"1,2,{FIRST_MS}\n")
    outcome = cli.here("run", path, "--to", "parquet:///lake")
    assert outcome.code == RowsGone.exit_code
    assert "--restart" in outcome.stderr
    assert len(cli.load(path, "--to", "parquet:///lake", "--restart").report["sources"]) == 1
    assert len(parquet_rows(cli.folder / "lake")) == 1_001


@pytest.mark.fault(57)
def test_half_a_row_is_taken_back(cli: Cli) -> None:
    """A last line that went on is there once, as what it became."""
    path = cli.file("pairs.csv", f"{HEADER}\n7,8,1583366400000\n7,9,158336640")
    cli.load(path, "--to", "parquet:///lake")
    assert len(parquet_rows(cli.folder / "lake")) == 2
    path.write_bytes(path.read_bytes() + b"1000\n7,10,1583366402000\n")
    cli.load(path, "--to", "parquet:///lake")
    times = [row["timestamp"].timestamp() for row in parquet_rows(cli.folder / "lake")]
    assert sorted(times) == [1583366400, 1583366401, 1583366402]


def test_replayed_rows_are_there_once_and_win(cli: Cli) -> None:
    """Also when the replay is repeated after a crash; a restart loads the source alone."""
    path = cli.file("pairs.csv", f"{HEADER}\n7,8,1583366400000\n7,9,bad\n")
    cli.load(path, "--to", "parquet:///lake")
    letters = next((cli.folder / ".ingest").rglob("dead-letters.jsonl"))
    letters.write_text(letters.read_text().replace("7,9,bad", "7,9,1583366401000"))
    before = letters.read_bytes()
    for _ in range(2):
        letters.write_bytes(before)
        assert cli.here("replay", letters, "--to", "parquet:///lake").code == 0
        assert sorted(row["_offset"] >= 1 << 62 for row in parquet_rows(cli.folder / "lake")) == [False, True]
    cli.load(path, "--to", "parquet:///lake")
    assert len(parquet_rows(cli.folder / "lake")) == 2
    cli.load(path, "--to", "parquet:///lake", "--restart")
    assert len(parquet_rows(cli.folder / "lake")) == 1


@pytest.mark.parametrize(
    "second", ["8,8,1583366500000\n8,9,1583366501000\n8,10,1583366502000\n", "9,9,1583366600000\n"]
)
def test_another_file_by_the_same_name_takes_nothing_away(cli: Cli, second: str) -> None:
    """Rows of the file that was there before stay, as in every sink; those of the same file are replaced."""
    path = cli.file("pairs.csv", f"{HEADER}\n7,8,1583366400000\n7,9,1583366401000\n")
    cli.load(path, "--to", "parquet:///lake")
    path.write_text(f"{HEADER}\n{second}")
    for _ in range(2):
        cli.load(path, "--to", "parquet:///lake", "--restart")
        assert len(parquet_rows(cli.folder / "lake")) == 2 + second.count("\n")
    assert cli.load(path, "--to", "parquet:///lake").report["sources"][0]["rows_now"] == 0
    with path.open("a") as file:
        file.write("8,11,1583366503000\n")
    cli.load(path, "--to", "parquet:///lake", "--restart")
    assert len(parquet_rows(cli.folder / "lake")) == 3 + second.count("\n")


def test_each_standard_input_is_a_source_of_its_own(cli: Cli) -> None:
    """It cannot be read again, so nothing of an earlier one is taken away."""
    for row in ("7,8,1583366400000", "7,9,1583366401000", "7,9,1583366402000"):
        outcome = cli.run("run", "-", "--to", "parquet:///lake", stdin=f"{HEADER}\n{row}\n")
        assert outcome.code == 0, outcome.stderr
    rows = parquet_rows(cli.folder / "lake")
    assert (len(rows), len({row["_source"] for row in rows})) == (3, 3)


def test_equal_keys_are_told_apart_by_where_they_stood(cli: Cli) -> None:
    """Of two chunks; the documented query has the later row, as SQLite does."""
    fields = "name: own\nschema:\n  fields:\n"
    for name, kind, role in (("u", "integer", "owner"), ("i", "integer", "item"), ("t", "integer", "time")):
        fields += f"    - {{name: {name}, type: {kind}, x-role: {role}}}\n"
    fields += "    - {name: stars, type: integer, x-keep: true}\n    - {name: note, type: string}\n"
    schema = cli.file("own.yaml", fields)
    note = "n" * 2_000
    rows = [f"{number % 50},1,1583366400,{number},{note}\n" for number in range(3_000)]
    path = cli.file("own.csv", "u,i,t,stars,note\n" + "".join(rows))
    cli.load(path, "--dataset", schema, "--to", "parquet:///lake", "--to", "sqlite:///rows.db", *LEAST)
    query = f"SELECT stars FROM ({NEWEST.format(folder=cli.folder / 'lake')})"
    assert sorted(duckdb.connect().execute(query).fetchall()) == [(stars,) for stars in range(2_950, 3_000)]
    assert cli.here("verify", path, "--dataset", schema, "--to", "parquet:///lake").code == 0


def test_every_reader_finds_the_same(cli: Cli, long: Path, clean: pyarrow.Table) -> None:
    """polars, DuckDB and Arrow read the folder by its partitions, with times as times and ids as texts."""
    folder = long.parent / "clean"
    by_polars = pl.scan_parquet(f"{folder}/**/*.parquet", hive_partitioning=True).collect()
    by_arrow = pyarrow.dataset.dataset(folder, partitioning="hive", exclude_invalid_files=True).to_table()
    query = f"SELECT month, count(*) n FROM read_parquet('{folder}/**/*.parquet', hive_partitioning=true) GROUP BY 1"
    by_duckdb = dict(duckdb.connect().execute(query).fetchall())
    assert len(by_polars) == by_arrow.num_rows == sum(by_duckdb.values()) == ROWS
    months = by_polars.group_by(pl.col("timestamp").dt.strftime("%Y-%m")).len().rows()
    assert dict(months) == by_duckdb == dict(by_polars.group_by("month").len().rows())
    assert by_polars.schema["timestamp"] == pl.Datetime("us", "UTC")
    assert by_polars.schema["user_id"] == pl.String
    ordered = by_polars.sort("_offset").drop("month")
    assert ordered.equals(pl.DataFrame(pl.from_arrow(clean)))


REFUSED: list[tuple[str, str]] = [
    ("parquet:///lake?partition=day", "is divided by month"),
    ("parquet:///foreign", "not of this program"),
    ("parquet:///pairs.csv", "cannot be used"),
    ("parquet:///", "three slashes and a path"),
    ("parquet:///lake?partition=hour", "partition"),
]


@pytest.mark.parametrize(("url", "said"), REFUSED)
def test_what_would_not_fit_is_refused(cli: Cli, url: str, said: str) -> None:
    """In one sentence, before a row is written."""
    path = cli.file("pairs.csv", f"{HEADER}\n7,8,1583366400000\n")
    cli.load(path, "--to", "parquet:///lake")
    (cli.folder / "foreign").mkdir()
    parquet.write_table(pyarrow.table({"a": [1]}), cli.folder / "foreign" / "a.parquet")
    outcome = cli.here("run", path, "--to", url)
    assert outcome.code == ConfigurationError.exit_code, outcome.stderr
    assert said in outcome.stderr


def test_records_of_another_shape_are_refused(cli: Cli) -> None:
    """Readers of a folder expect one table."""
    cli.load(cli.file("pairs.csv", f"{HEADER}\n7,8,1583366400000\n"), "--to", "parquet:///lake")
    ratings = cli.file("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1583366400\n")
    outcome = cli.here("run", ratings, "--dataset", "movielens", "--to", "parquet:///lake")
    assert (outcome.code, "rating" in outcome.stderr) == (ConfigurationError.exit_code, True)
    assert len(parquet_rows(cli.folder / "lake")) == 1


def test_many_small_files_are_warned_of(cli: Cli) -> None:
    """A source in no order of time has some rows of every day in each file's span."""
    path = cli.file("pairs.csv", f"{HEADER}\n{pairs_text(1_000, every_ms=86_400_000)}")
    outcome = cli.load(path, "--to", "parquet:///lake?partition=day")
    (warning,) = outcome.report["sources"][0]["sinks"]["parquet"]["warnings"]
    assert "?partition=month" in warning
    assert cli.load(path, "--to", "parquet:///other").report["sources"][0]["sinks"]["parquet"]["warnings"] == []


@pytest.mark.fault(19)
def test_a_full_disk_ends_the_run_and_leaves_whole_files(cli: Cli) -> None:
    """Exit 74; with room again the next run leaves what a clean one does."""
    cli.file("pairs.csv", f"{HEADER}\n{pairs_text(50_000, every_ms=60_000)}")
    script = """
        mkdir lake && mount -t tmpfs -o size=256k tmpfs lake
        "$0" -m ingest_service run pairs.csv --to parquet:///lake; echo "first $?"
        find lake -name '*.parquet' | wc -l
        mount -o remount,size=64m lake
        "$0" -m ingest_service run pairs.csv --to parquet:///lake >/dev/null 2>&1; echo "then $?"
        cp -r lake kept
    """
    import subprocess
    import sys

    command = ["unshare", "--mount", "bash", "-c", script, sys.executable]
    done = subprocess.run(command, cwd=cli.folder, capture_output=True, text=True, check=False)
    assert "first 74\n0\nthen 0" in done.stdout, done.stdout + done.stderr
    assert "make room" in done.stderr
    assert len(parquet_rows(cli.folder / "kept")) == 50_000


async def test_interactions_are_read_back(tmp_path: Path) -> None:
    """A user's newest and those of a time, over all files."""
    sink = ParquetSink(f"parquet:///{tmp_path}/lake")
    await sink.open()
    rows = interactions(300)
    for first in (0, 100, 200):
        await sink.store(chunk_of(rows[first : first + 100]))
    user = rows[0].user_id
    mine = sorted((row for row in rows if row.user_id == user), key=lambda row: row.timestamp)
    assert await sink.history(user, None, None) == mine
    assert await sink.history(user, mine[1].timestamp, mine[3].timestamp) == mine[1:3]
    assert await sink.recent(user, 2) == mine[:-3:-1]
