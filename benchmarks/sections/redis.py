"""Redis beside the scripts, and beside the limit: redis-cli fed the very same commands ready-made."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, holds
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import ROOT, Subject
from ingest_service.formats.memory import MEMORY_MB

SCRIPTS: Final = (  # name, module, rows, what our multiple of its rows/s should be
    ("csv + redis-py pipeline of 1,000", "redis_script", 100_000, (8, 10)),
    ("csv + redis.asyncio, 8 consumers", "redis_async_script", 50_000, ()),
)


def figures(bench: Bench) -> list[Figure]:
    ours = bench.ours(bench.file(), bench.redis)
    lines = []
    for name, module, rows, bounds in SCRIPTS:
        side, other = bench.compare(ours, bench.peer(name, module, bench.redis, rows=rows))
        speed = side.speed_beside(other)
        lines.append(Figure("redis", side, other, tuple(at_least("ratio", speed, bound) for bound in bounds)))
    redpanda = bench.redpanda_connect("redpanda_redis.yaml", bench.redis, rows=bench.rows, REDIS=bench.redis.url)
    if redpanda is not None:
        side, other = bench.compare(ours, redpanda)
        lines.append(Figure("redis", side, other, (at_least("ratio", side.speed_beside(other), 3),)))
    side, other = bench.compare(ours, ready_made(bench))
    return [
        *lines,
        Figure(
            "redis",
            side,
            other,
            (
                at_least("ratio", side.speed_beside(other), 0.92),
                at_most("client CPU s per 1 M rows", side.cpu_s_per_million, 1.6),
                at_most("server CPU s per 1 M rows", side.server_cpu_s_per_million, other.server_cpu_s_per_million),
            ),
        ),
    ]


def by_memory(bench: Bench) -> list[Figure]:
    """More memory means longer blocks, of which a user's rows go in fewer commands."""
    ours = bench.ours(bench.file(), bench.redis)
    some = [
        replace(ours, name=f"--memory {megabytes}", command=[*ours.command, "--memory", str(megabytes)])
        for megabytes in (182, MEMORY_MB, 700, 1_400)
    ]
    sides = bench.compare(*some)
    usual = sides[1]
    return [Figure("groups", side, usual) for side in sides if side is not usual]


def cluster(bench: Bench) -> list[Figure]:
    """Three masters beside one: what the client pays for a row tells how many masters it can feed."""
    one, three = (
        bench.ours(bench.file(), store, name=name)
        for name, store in (("one server", bench.redis), ("three masters", bench.redis_cluster))
    )
    alone, shared = bench.compare(one, three)
    thrift = at_least("ratio of rows per client CPU s", shared.cpu_thrift_beside(alone), 0.8)
    return [Figure("cluster", shared, alone, (thrift,))]


def ready_made(bench: Bench) -> Subject:
    commands = bench.work / "commands.resp"
    write_commands(bench.file(), commands)
    return Subject(
        name="redis-cli --pipe, ready-made",
        command=["redis-cli", "-p", str(bench.redis.port), "--pipe"],
        rows=bench.rows,
        server_pid=bench.redis.pid,
        before=bench.redis.clear,
        after=holds(bench.redis, bench.rows),
        stdin=commands,
    )


def write_commands(file: Path, commands: Path) -> None:
    """The one place that knows how to have the commands of ingest_service for a file."""
    maker = [sys.executable, "-m", "benchmarks.peers.redis_pipe", str(file), "--to", str(commands)]
    subprocess.run(maker, cwd=ROOT, check=True)
