"""A file fifty times as long, beside the short one: does a row cost more the longer the file?"""

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.measure import Side
from benchmarks.stores import Store

TIMES = 50


def figures(bench: Bench) -> list[Figure]:
    return [_figure(bench, "null DynamoDB", bench.dynamodb), _figure(bench, "Redis", bench.redis)]


def _figure(bench: Bench, name: str, store: Store) -> Figure:
    bench.say(f"measuring growth: {name}")
    long, short = (_side(bench, name, store, rows) for rows in (TIMES * bench.rows, bench.rows))
    store.clear()
    return Figure("growth", long, short, (at_least("ratio", long.speed_beside(short), 0.95),))


def _side(bench: Bench, name: str, store: Store, rows: int) -> Side:
    subject = bench.ours(bench.file(rows=rows), store, name=f"{name}, {rows:,} rows", rows=rows)
    return Side(subject.name, rows, subject.command, [subject.run()])
