"""Ratings into MongoDB beside a plain `insert_many` loop, and beside mongoimport where it is on the path."""

import shutil
import sys

from benchmarks.bench import Bench, holds
from benchmarks.figures import Figure, at_least
from benchmarks.measure import Subject


def figures(bench: Bench) -> list[Figure]:
    folder, store = bench.movielens(bench.rows), bench.mongodb
    ours = Subject(
        name="movielens ratings",
        command=bench.movielens_step(folder, "ratings", "--restart", "--json"),
        rows=bench.rows,
        before=store.clear,
        after=holds(store, bench.rows),
    )
    script = [sys.executable, "-m", "benchmarks.peers.mongodb_script", str(folder / "ratings.csv"), "--to", store.url]
    peers = [Subject("csv + insert_many of 1,000", script, bench.rows, None, store.clear, holds(store, bench.rows))]
    if mongoimport := shutil.which("mongoimport"):
        words = ["--uri", store.url, "-c", "interactions", "--type", "csv", "--headerline", str(folder / "ratings.csv")]
        peers.append(Subject("mongoimport", [mongoimport, *words], bench.rows, None, store.clear))
    else:
        bench.skip("mongodb: mongoimport is not on the path")
    lines = []
    for peer in peers:
        side, other = bench.compare(ours, peer)
        lines.append(Figure("mongodb", side, other, (at_least("ratio", side.speed_beside(other), 1.0),)))
    return lines
