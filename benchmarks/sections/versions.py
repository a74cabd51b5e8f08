"""This version beside the one before, in one run: into each store, at start-up, and its peak memory."""

from dataclasses import replace
from typing import Final

from benchmarks.bench import Bench, ingest_service
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import ROOT, Subject
from benchmarks.stores import Store

EARLIER: Final = ROOT / ".cache" / "servers" / "earlier-0.1.0" / "bin" / "ingest-service"
NOISE: Final = 0.93  # of what two runs of one program differ by here


def figures(bench: Bench) -> list[Figure]:
    if not EARLIER.exists():
        bench.skip("version 0.1.0 is not in .cache/servers: scripts/get-servers earlier")
        return []
    stores = {"redis": bench.redis, "dynamodb": bench.dynamodb, "sqlite": bench.sqlite, "mongodb": bench.mongodb}
    return [_starting(bench), *(_loading(bench, name, store) for name, store in stores.items())]


def _loading(bench: Bench, name: str, store: Store) -> Figure:
    ours = bench.ours(bench.file(), store)
    side, other = bench.compare(ours, _earlier(ours))
    targets = (
        at_least("ratio", side.speed_beside(other), NOISE),
        at_least("rows per CPU s, ratio", side.cpu_thrift_beside(other), NOISE),
        at_most("server CPU s per 1 M rows", side.server_cpu_s_per_million, other.server_cpu_s_per_million / NOISE),
        at_most("peak MB", side.peak_mb, other.peak_mb * 1.05),
    )
    return Figure(f"versions: {name}", side, other, targets)


def _starting(bench: Bench) -> Figure:
    ours = Subject("--help", [*ingest_service(), "--help"], 1)
    side, other = bench.compare(ours, _earlier(ours))
    return Figure(
        "versions: start", side, other, (at_least("CPU, ratio", side.cpu_thrift_beside(other), NOISE),), by_row=False
    )


def _earlier(ours: Subject) -> Subject:
    """The same command of the earlier version."""
    arguments = ours.command[len(ingest_service()) :]
    return replace(ours, name=f"{ours.name}, 0.1.0", command=[str(EARLIER), *arguments])
