"""What it costs to start at all, beside the import of polars alone."""

import sys

from benchmarks.bench import Bench, ingest_service
from benchmarks.figures import Figure, at_most
from benchmarks.measure import Subject

ROWS = 10


def figures(bench: Bench) -> list[Figure]:
    file = bench.file(rows=ROWS)
    bare = Subject('python -c "import polars"', [sys.executable, "-c", "import polars"], ROWS)
    help_, run, polars = bench.compare(
        Subject("--help", [*ingest_service(), "--help"], ROWS),
        bench.ours(file, bench.sqlite, name=f"run of {ROWS} rows into SQLite", rows=ROWS),
        bare,
    )
    what = f"CPU s (theirs {polars.cpu_s:.2f})"
    return [
        Figure("startup", side, polars, (at_most(what, side.cpu_s, bound),), by_row=False)
        for side, bound in ((help_, 0.25), (run, 0.8))
    ]
