"""One source divided among processes, beside one process: what the division costs, on a server that stores nothing."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import Side

N_WORKERS = (2, 4)
REPEATED: Final = 0.01  # of the ratings, whose key is that of an earlier one anywhere


def figures(bench: Bench) -> list[Figure]:
    alone, *sides = _alone_and_divided(bench, bench.file(), "one process")
    lines = []
    for n, side in zip(N_WORKERS, sides, strict=True):
        targets = [at_most("ratio of client CPU a row", 1 / side.cpu_thrift_beside(alone), 1.1)]
        if n == 2:
            targets.append(at_least("ratio", side.speed_beside(alone), 1.3))
        lines.append(Figure("workers", side, alone, tuple(targets)))
    return [*lines, _repeating(bench)]


def _repeating(bench: Bench) -> Figure:
    """Where a later row has to win: keys are noted, and rows whose key is in two shards are written again."""
    name = f"one process, {REPEATED:.0%} of the keys again"
    with ProcessPoolExecutor(1, get_context("spawn")) as other:  # a peak of ours would count as that of each command
        file = other.submit(_ratings, bench.work, bench.rows).result()
    alone, side, *_ = _alone_and_divided(bench, file, name, "--dataset", "movielens")
    target = at_most("ratio of client CPU a row", 1 / side.cpu_thrift_beside(alone), 1.1)
    return Figure("workers", side, alone, (target, at_least("ratio", side.speed_beside(alone), 1)))


def _alone_and_divided(bench: Bench, file: Path, name: str, *options: str) -> list[Side]:
    """Checkpoints are files: the server keeps none."""
    folder = bench.work / "checkpoints"
    plain = bench.ours(file, bench.dynamodb, name=name)

    def clear() -> None:
        plain.before()
        shutil.rmtree(folder, ignore_errors=True)

    command = [*plain.command, "--checkpoint", f"file:{folder}", *options]
    one = replace(plain, command=command, before=clear, after=plain.after if not options else lambda: None)
    teams = [replace(one, name=f"{n} workers", command=[*one.command, "--workers", str(n)]) for n in N_WORKERS]
    return bench.compare(one, *teams)


def _ratings(folder: Path, n: int) -> Path:
    """In order of time but for those that are there again, with another rating."""
    rng = np.random.default_rng(5)
    user, movie, at = rng.integers(1, 50_001, n), rng.integers(1, 60_001, n), 1_600_000_000 + np.arange(n)
    again = np.flatnonzero(rng.random(n) < REPEATED)
    earlier = (rng.random(len(again)) * again).astype(np.int64)
    for column in (user, movie, at):
        column[again] = column[earlier]
    rating = rng.integers(1, 11, n) / 2
    path = folder / f"ratings-{n}.csv"
    with path.open("w") as file:
        file.write("userId,movieId,rating,timestamp\n")
        file.writelines(f"{u},{m},{r},{t}\n" for u, m, r, t in zip(user, movie, rating, at, strict=True))
    return path
