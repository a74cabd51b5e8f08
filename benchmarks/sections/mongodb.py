"""Ratings into MongoDB beside a plain `insert_many` loop, and beside mongoimport where it is on the path.

The server is the one that takes documents fastest, since the client is what is compared.
"""

import shutil
import sys

from benchmarks.bench import Bench, holds
from benchmarks.figures import Figure, Target, at_least
from benchmarks.measure import Side, Subject


def figures(bench: Bench) -> list[Figure]:
    folder, store = bench.movielens(bench.rows), bench.mongodb

    def subject(name: str, command: list[str]) -> Subject:
        return Subject(name, command, bench.rows, store.pid, store.clear, holds(store, bench.rows))

    file = str(folder / "ratings.csv")
    ours = subject("movielens ratings", bench.movielens_step(folder, "ratings", "--restart", "--json"))
    script = [sys.executable, "-m", "benchmarks.peers.mongodb_script", file, "--to", store.url]
    peers = [subject("csv + insert_many of 1,000", script)]
    if mongoimport := shutil.which("mongoimport"):
        words = ["--quiet", "--uri", store.url, "-c", "interactions", "--type", "csv", "--headerline", file]
        peers.append(subject("mongoimport", [mongoimport, *words]))
    else:
        bench.skip("mongodb: mongoimport is not on the path")
    side, *others = bench.compare(ours, *peers)
    return [Figure("mongodb", side, other, _targets(side, other)) for other in others]


def _targets(side: Side, other: Side) -> tuple[Target, ...]:
    thrift = side.cpu_thrift_beside(other)
    return at_least("ratio", side.speed_beside(other), 1.0), at_least("rows per client CPU s, ratio", thrift, 1.0)
