"""Peak memory of a file ten times as long, into each sink; one run each, as the peak hardly varies."""

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.measure import Side, Subject
from benchmarks.stores import Store

TIMES = 10


def figures(bench: Bench) -> list[Figure]:
    stores = {"null DynamoDB": bench.dynamodb, "Redis": bench.redis, "SQLite": bench.sqlite}
    return [_figure(bench, name, store) for name, store in stores.items()]


def _figure(bench: Bench, name: str, store: Store) -> Figure:
    bench.say(f"measuring memory: {name}")
    short, long = (_side(_subject(bench, name, store, rows)) for rows in (bench.rows, TIMES * bench.rows))
    targets = (
        at_most("ratio of peaks", long.peak_mb / short.peak_mb, 1.2),
        at_most("peak MB", long.peak_mb, 350),
    )
    store.clear()
    return Figure("memory", long, short, targets)


def _subject(bench: Bench, name: str, store: Store, rows: int) -> Subject:
    file = bench.file(rows=rows)
    name = f"{name}, {rows:,} rows"
    return bench.ours(file, store, name=name, rows=rows, sample_every_s=0.05)


def _side(subject: Subject) -> Side:
    return Side(subject.name, subject.rows, subject.command, [subject.run()])
