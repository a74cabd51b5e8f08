"""A file fifty times as long, beside the short one: does a row cost more the longer the file?

MongoDB is not among them: the server that stands in for it takes ten thousand rows a second.

A table with a random key has ever more pages to touch for the same rows, so SQLite is also measured at ten times as
many, and asked for one user's rows all the while.
"""

import random
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, at_least, at_most
from benchmarks.measure import Side
from benchmarks.stores import Store

TIMES = 50


def figures(bench: Bench) -> list[Figure]:
    return [
        _figure(bench, "null DynamoDB", bench.dynamodb, TIMES, 0.95),
        _figure(bench, "Redis", bench.redis, TIMES, 0.95),
        _figure(bench, "PostgreSQL", bench.postgresql, TIMES, 0.7),
        *(_sqlite(bench, times) for times in (10, TIMES)),
    ]


def _figure(bench: Bench, name: str, store: Store, times: int, ratio: float, *also: Target) -> Figure:
    bench.say(f"measuring growth: {name}, {times * bench.rows:,} rows")
    long, short = (_side(bench, name, store, rows) for rows in (times * bench.rows, bench.rows))
    store.clear()
    return Figure("growth", long, short, (at_least("ratio", long.speed_beside(short), ratio), *also))


def _sqlite(bench: Bench, times: int) -> Figure:
    ended, waits_ms = threading.Event(), list[float]()
    reading = threading.Thread(target=_read, args=(Path(bench.sqlite.url.removeprefix("sqlite:///")), ended, waits_ms))
    reading.start()
    figure = _figure(bench, "SQLite", bench.sqlite, times, 0.7 if times == 10 else 0.5)
    ended.set()
    reading.join()
    waits_ms.sort()
    p99_ms = waits_ms[99 * len(waits_ms) // 100]
    return replace(figure, targets=(*figure.targets, at_most("p99 ms of a reader", p99_ms, 50)))


def _read(path: Path, ended: threading.Event, waits_ms: list[float]) -> None:
    """Ask for the newest rows of some user, a hundred times a second."""
    select = (
        "SELECT * FROM interactions WHERE user_id = (SELECT user_id FROM interactions WHERE user_id >= ? LIMIT 1) "
        "ORDER BY event_key DESC LIMIT 100"
    )
    rng = random.Random(1)
    while not ended.wait(0.1):
        if not path.exists():
            continue
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            try:
                for _ in range(10):
                    began = time.perf_counter()
                    database.execute(select, (str(UUID(int=rng.getrandbits(128))),)).fetchall()
                    waits_ms.append(1e3 * (time.perf_counter() - began))
            except sqlite3.Error:  # it is just being made, or cleared
                continue


def _side(bench: Bench, name: str, store: Store, rows: int) -> Side:
    subject = bench.ours(bench.file(rows=rows), store, name=f"{name}, {rows:,} rows", rows=rows)
    return Side(subject.name, rows, subject.command, [subject.run()])
