"""One source divided among processes, beside one process: what the division costs, on a server that stores nothing."""

import shutil
from dataclasses import replace

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most

N_WORKERS = (2, 4)


def figures(bench: Bench) -> list[Figure]:
    """Checkpoints are files: the server keeps none."""
    folder = bench.work / "checkpoints"
    plain = bench.ours(bench.file(), bench.dynamodb, name="one process")

    def clear() -> None:
        plain.before()
        shutil.rmtree(folder, ignore_errors=True)

    one = replace(plain, command=[*plain.command, "--checkpoint", f"file:{folder}"], before=clear)
    teams = [replace(one, name=f"{n} workers", command=[*one.command, "--workers", str(n)]) for n in N_WORKERS]
    alone, *sides = bench.compare(one, *teams)
    lines = []
    for n, side in zip(N_WORKERS, sides, strict=True):
        targets = [at_most("ratio of client CPU a row", 1 / side.cpu_thrift_beside(alone), 1.1)]
        if n == 2:
            targets.append(at_least("ratio", side.speed_beside(alone), 1.3))
        lines.append(Figure("workers", side, alone, tuple(targets)))
    return lines
