"""SQLite beside `executemany`, both with the same number of rows: a bigger B-tree costs more a row."""

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least


def figures(bench: Bench) -> list[Figure]:
    side, other = bench.compare(
        bench.ours(bench.file(), bench.sqlite),
        bench.peer("csv + executemany", "sqlite_script", bench.sqlite, rows=bench.rows),
    )
    targets = (
        at_least("ratio", side.speed_beside(other), 4),
        at_least("rows/s", side.rows_per_s, 250_000),
    )
    return [Figure("sqlite", side, other, targets)]
