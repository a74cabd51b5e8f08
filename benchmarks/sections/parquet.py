"""A folder of Parquet files beside pyarrow's own writer, and beside DuckDB with ready-made rows."""

import sys

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.measure import Subject
from benchmarks.sections.sqlite import ready_made

_PEER_ROWS = 200_000  # a script takes half a minute for a million


def figures(bench: Bench) -> list[Figure]:
    store = bench.parquet
    folder = store.url.removeprefix("parquet:///")
    script = [sys.executable, "-m", "benchmarks.peers.duckdb_parquet_script", str(ready_made(bench)), folder]
    side, other, duckdb = bench.compare(
        bench.ours(bench.file(), store),
        bench.peer("csv + pyarrow", "parquet_script", store, rows=_PEER_ROWS),
        Subject("DuckDB, ready-made rows", script, bench.rows, before=store.clear),
    )
    return [
        Figure(
            "parquet",
            side,
            other,
            (at_least("ratio", side.speed_beside(other), 4), at_least("rows/s", side.rows_per_s, 400_000)),
        ),
        Figure("parquet", side, duckdb),
    ]
