"""PostgreSQL beside `psql` with ready-made bytes, beside scripts, and a second load of the file."""

import subprocess
from dataclasses import replace

from benchmarks.bench import Bench, holds
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import CommandFailedError, Subject
from benchmarks.peers.environment import peer_python

_PEER_ROWS = 200_000  # a script takes a minute for a million
_SIZE = "SELECT pg_total_relation_size('interactions')"


def figures(bench: Bench) -> list[Figure]:
    ours = bench.ours(bench.file(), bench.postgresql)
    first, psql, again = bench.compare(ours, _psql(bench, ours), _again(bench, ours))
    targets = (
        at_least("ratio", first.speed_beside(psql), 0.7),
        at_most("client CPU s/1M", first.cpu_s_per_million, 2.0),
    )
    found = [
        Figure("postgres", first, psql, targets),
        Figure("postgres", again, first, (at_least("ratio", again.speed_beside(first), 0.6),)),
    ]
    side, *others = bench.compare(ours, *_scripts(bench))
    found += [Figure("postgres", side, one, (at_least("ratio", side.speed_beside(one), 4),)) for one in others]
    return found


def _says(bench: Bench, statement: str) -> str:
    command = ["psql", bench.postgresql.url, "-XqtAc", statement]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _psql(bench: Bench, ours: Subject) -> Subject:
    """The very rows, as bytes, in the order in which ours come to lie in the table: the limit."""
    ready = bench.work / "ready.bin"
    ours.run()
    _says(bench, f"\\copy interactions TO '{ready}' (FORMAT binary)")
    copy = f"\\copy interactions FROM '{ready}' (FORMAT binary)"
    store = bench.postgresql
    command = ["psql", store.url, "-Xqc", copy]
    return Subject("psql, ready-made bytes", command, bench.rows, store.pid, store.clear, holds(store, bench.rows))


def _again(bench: Bench, ours: Subject) -> Subject:
    """After a first load the second one, into the same table, which must not grow by it."""
    size = 0

    def load_first() -> None:
        nonlocal size
        ours.run()
        size = int(_says(bench, _SIZE))

    def look() -> None:
        ours.after()
        if int(_says(bench, _SIZE)) > 1.02 * size:
            raise CommandFailedError("the table grew by rows that it had")

    return replace(ours, name="the same file again", before=load_first, after=look)


def _scripts(bench: Bench) -> list[Subject]:
    ways = {"executemany, ON CONFLICT": "executemany", "psycopg write_row, staged": "write_row"}
    store = bench.postgresql
    scripts = [bench.peer(name, "postgres_script", store, "--way", way, rows=_PEER_ROWS) for name, way in ways.items()]
    if (python := peer_python()) is None:
        bench.skip("postgres: asyncpg and ADBC are not there")
        return scripts
    others = {"asyncpg copy_records_to_table, staged": "asyncpg", "ADBC adbc_ingest, staged": "adbc"}
    return scripts + [
        bench.peer(name, "postgres_script", store, "--way", way, rows=_PEER_ROWS, python=python)
        for name, way in others.items()
    ]
