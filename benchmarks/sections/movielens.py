"""Peak memory of `movielens all` on an archive five times as long, beside one of the length of ml-latest-small."""

import os
import shutil
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.measure import ROOT, Side, Subject

TIMES = 5
SMALL_ROWS = 100_836  # of ml-latest-small


def model() -> Path:
    """HF_MODEL_NAME, where it is a folder, or the model beside the checkout."""
    for folder in (Path(os.environ.get("HF_MODEL_NAME", "")), ROOT.parent / "shared/models/all-MiniLM-L6-v2"):
        if (folder / "modules.json").is_file():
            return folder
    raise FileNotFoundError("no model: set HF_MODEL_NAME to a model's folder")


def figures(bench: Bench) -> list[Figure]:
    small = min(SMALL_ROWS, bench.rows)
    short, long = (_side(bench, rows) for rows in (small, TIMES * bench.rows))
    return [Figure("movielens", long, short, (at_most("ratio of peaks", long.peak_mb / short.peak_mb, 1.3),))]


def _side(bench: Bench, rows: int) -> Side:
    bench.say(f"measuring memory: movielens all, {rows:,} ratings")
    folder = bench.movielens(rows)
    settings = [f"HF_MODEL_NAME={model()}", f"REDIS_URL={bench.redis.url}"]

    def before() -> None:
        bench.mongodb.clear()
        shutil.rmtree(bench.work / "state", ignore_errors=True)

    command = [
        "env",
        *settings,
        *bench.movielens_step(folder, "all", "--as-of", "2020-09-01", "--json"),
    ]
    subject = Subject(f"movielens all, {rows:,} ratings", command, rows, before=before, sample_every_s=0.05)
    return Side(subject.name, rows, subject.command, [subject.run()])
