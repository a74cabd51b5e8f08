"""SQLite beside `executemany`, both with the same number of rows: a bigger B-tree costs more a row.

And beside the imports of sqlite3 and DuckDB of ready-made rows, which have nothing to parse and cannot be repeated.
"""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench, holds
from benchmarks.figures import Figure, at_least
from benchmarks.measure import Subject
from benchmarks.peers.environment import peer_python
from benchmarks.peers.rows import records
from benchmarks.peers.sqlite_script import COLUMNS, CREATE


def figures(bench: Bench) -> list[Figure]:
    side, other = bench.compare(
        bench.ours(bench.file(), bench.sqlite),
        bench.peer("csv + executemany", "sqlite_script", bench.sqlite, rows=bench.rows),
    )
    targets = (
        at_least("ratio", side.speed_beside(other), 4),
        at_least("rows/s", side.rows_per_s, 250_000),
    )
    return [Figure("sqlite", side, other, targets), *_beside_import(bench), *_beside_duckdb(bench)]


def ready_made(bench: Bench) -> Path:
    path = bench.work / "ready-made.csv"
    if not path.exists():
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerows([row[name] for name in COLUMNS] for row in records(bench.file(), bench.rows))
    return path


def _beside_duckdb(bench: Bench) -> Iterator[Figure]:
    if (python := peer_python()) is None:
        bench.skip("sqlite: DuckDB is not there")
        return
    path = bench.work / "peer.duckdb"
    script = [str(python), "-m", "benchmarks.peers.duckdb_script", str(ready_made(bench)), str(path)]
    subject = Subject("DuckDB read_csv with a key", script, bench.rows, before=lambda: path.unlink(missing_ok=True))
    side, other = bench.compare(bench.ours(bench.file(), bench.sqlite), subject)
    yield Figure("sqlite", side, other, (at_least("ratio", side.speed_beside(other), 1),))


def _beside_import(bench: Bench) -> Iterator[Figure]:
    if (binary := shutil.which("sqlite3")) is None:
        bench.skip("there is no sqlite3 on the path")
        return
    ready = ready_made(bench)
    path = Path(bench.sqlite.url.removeprefix("sqlite:///"))
    subject = Subject(
        name="sqlite3 .import of ready-made rows",
        command=[binary, str(path), CREATE, f".import --csv {ready} interactions"],
        rows=bench.rows,
        before=bench.sqlite.clear,
        after=holds(bench.sqlite, bench.rows),
    )
    side, other = bench.compare(bench.ours(bench.file(), bench.sqlite), subject)
    yield Figure("sqlite", side, other, (at_least("ratio", side.speed_beside(other), 1),))
