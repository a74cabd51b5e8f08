"""Beside Ray Data and Spark, which do the same by scripts; and what Ray takes for itself while its tasks load.

RAY_PYTHON names an interpreter that has Ray and this package, SPARK_PYTHON one that has Spark (and Java is there):
`python -m venv V && V/bin/pip install 'ray[data]' pandas boto3 -e .`, and
`python -m venv V && V/bin/pip install pyspark redis boto3`
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import ROOT, CommandFailedError, Run, Side

WORKERS: Final = 2
PEERS: Final = (
    ("Ray Data, map_batches", "RAY_PYTHON", "ray_data_script"),
    ("Spark, foreachPartition", "SPARK_PYTHON", "spark_script"),
)
REDIS_ROWS, DYNAMODB_ROWS = 300_000, 100_000  # so that Ray's start is the lesser part of its time


def figures(bench: Bench) -> list[Figure]:
    lines = []
    for name, variable, module in PEERS:
        if python := os.environ.get(variable, ""):
            lines += _beside(bench, name, module, Path(python))
        else:
            bench.skip(f"{variable} names no interpreter")
    python = os.environ.get("RAY_PYTHON", "")
    return [*lines, _engine(bench, python)] if python else lines


def _beside(bench: Bench, name: str, module: str, python: Path) -> list[Figure]:
    lines = []
    folder = bench.work / "checkpoints"  # a server that stores nothing keeps none
    for store, rows in ((bench.redis, REDIS_ROWS), (bench.dynamodb, DYNAMODB_ROWS)):
        ours = bench.ours(bench.file(), store, name=f"{WORKERS} workers")

        def clear(before: Callable[[], object] = ours.before) -> None:
            before()
            shutil.rmtree(folder, ignore_errors=True)

        options = ["--workers", str(WORKERS), "--checkpoint", f"file:{folder}"]
        ours = replace(ours, command=[*ours.command, *options], before=clear)
        theirs = bench.peer(name, module, store, rows=rows, python=python)
        side, other = bench.compare(ours, theirs)
        thrift = at_least("ratio of rows per client CPU s", side.cpu_thrift_beside(other), 15)
        lines.append(Figure("engines", side, other, (at_least("ratio", side.speed_beside(other), 15), thrift)))
    return lines


def _engine(bench: Bench, python: str) -> Figure:
    """Ray's own part of a load by its tasks."""
    command = [python, "-m", "benchmarks.ray_overhead", str(bench.file()), "--to", bench.dynamodb.url]
    bench.say("measuring what Ray takes for itself")
    done = subprocess.run([*command, "--workers", str(WORKERS)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailedError(done.stderr[-2000:])
    told = json.loads(done.stdout)
    run = Run(told["tasks_s"], told["ray_cpu_s"] + told["work_cpu_s"], 0)
    side = Side(f"tasks of Ray, started in {told['start_s']:.1f} s", bench.rows, command, [run])
    waited = at_most("time outside the tasks, of all", 1 - told["work_s"] / told["tasks_s"], 0.02)
    share = at_most("Ray's CPU, of all", told["ray_cpu_s"] / run.cpu_s, 0.02)
    return Figure("engines", side, side, (waited, share))
