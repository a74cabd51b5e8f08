"""Embeddings beside the bare runs of the model over the same batches; each with the start of the process in it."""

import sys

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.generate_movielens import MOVIES
from benchmarks.measure import Subject
from benchmarks.sections.movielens import model


def figures(bench: Bench) -> list[Figure]:
    folder, where = bench.movielens(bench.rows), model()
    ours, bare = (
        Subject(name, [sys.executable, "-m", "benchmarks.peers.embed", str(folder), str(where), mode], MOVIES)
        for name, mode in (("tokens, model, pooling", "ours"), ("the model's runs alone", "bare"))
    )
    side, other = bench.compare(ours, bare)
    return [Figure("embeddings", side, other, (at_least("ratio", side.speed_beside(other), 0.95),))]
