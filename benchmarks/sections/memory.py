"""Peak memory: of a file ten times as long, and of an endless one into a sink of 1,000 rows a second."""

import shlex
import sys

from benchmarks.bench import Bench, ingest_service
from benchmarks.figures import Figure, at_most
from benchmarks.measure import Side, Subject
from benchmarks.stores import Store

TIMES = 10
SLOW_ROWS_PER_S = 1_000
SLOW_S = 40
ENDLESS_ROWS = 100_000_000  # read from a pipe as they are made
BOUND_MB = 350
_RATIOS = {"SQLite": 1.6}  # what waits to be stored together reaches its measure after some million rows


def figures(bench: Bench) -> list[Figure]:
    stores = {"null DynamoDB": bench.dynamodb, "Redis": bench.redis, "SQLite": bench.sqlite}
    return [figure for name, store in stores.items() for figure in _figures(bench, name, store)]


def _figures(bench: Bench, name: str, store: Store) -> list[Figure]:
    """One run each, as the peak hardly varies."""
    bench.say(f"measuring memory: {name}")
    short, long = (_side(_subject(bench, name, store, rows)) for rows in (bench.rows, TIMES * bench.rows))
    slow = _side(_slow(bench, name, store))
    store.clear()
    targets = (
        at_most("ratio of peaks", long.peak_mb / short.peak_mb, _RATIOS.get(name, 1.2)),
        at_most("peak MB", long.peak_mb, BOUND_MB),
    )
    return [
        Figure("memory", long, short, targets),
        Figure("memory", slow, short, (at_most("peak MB", slow.peak_mb, BOUND_MB),)),
    ]


def _subject(bench: Bench, name: str, store: Store, rows: int) -> Subject:
    file = bench.file(rows=rows)
    name = f"{name}, {rows:,} rows"
    return bench.ours(file, store, name=name, rows=rows, sample_every_s=0.05)


def _slow(bench: Bench, name: str, store: Store) -> Subject:
    """Stopped after a while, which ends with 75; the reader is far ahead of the sink by then, if anything lets it."""
    generate = [sys.executable, "-m", "benchmarks.generate", "-", "--rows", str(ENDLESS_ROWS)]
    url = f"{store.url}{'&' if '?' in store.url else '?'}rate={SLOW_ROWS_PER_S}"
    run = [*ingest_service(), "run", "-", "--to", url, "--state-dir", str(bench.work / "state")]
    stopped = ["timeout", "--signal=TERM", "--preserve-status", str(SLOW_S), *run]
    return Subject(
        name=f"{name}, {SLOW_ROWS_PER_S:,} rows/s of {ENDLESS_ROWS:,}",
        command=["bash", "-c", f"{shlex.join(generate)} | {shlex.join(stopped)}; test $? = 75"],
        rows=SLOW_ROWS_PER_S * SLOW_S,
        before=store.clear,
    )


def _side(subject: Subject) -> Side:
    return Side(subject.name, subject.rows, subject.command, [subject.run()])
