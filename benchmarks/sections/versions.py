"""This version beside the one before, in one run: into each store, at start-up, and its peak memory.

Both are installed in environments of their own with the same releases of what they share: what else stands beside a
program costs it time, too (redis-py imports OpenTelemetry where it is there).
"""

import subprocess
from dataclasses import replace
from pathlib import Path
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
    this = _installed(bench)
    stores = {"redis": bench.redis, "dynamodb": bench.dynamodb, "sqlite": bench.sqlite, "mongodb": bench.mongodb}
    return [_starting(bench, this), *(_loading(bench, this, name, store) for name, store in stores.items())]


def _installed(bench: Bench) -> Path:
    """The command of this version."""
    home, uv = bench.work / "this", str(ROOT / ".tools" / "bin" / "uv")
    python, wanted = str(home / "bin" / "python"), bench.work / "versions.txt"

    def done(*command: str) -> str:
        return subprocess.run([uv, *command], check=True, capture_output=True, text=True).stdout

    bench.say("installing this version beside 0.1.0")
    done("venv", "--python", str(EARLIER.with_name("python")), str(home))
    shared = done("pip", "freeze", "--python", str(EARLIER.with_name("python"))).splitlines()
    wanted.write_text("\n".join(line for line in shared if not line.startswith("ingest")) + "\nmsgspec\npyyaml\n")
    done("pip", "install", "--compile-bytecode", "--python", python, "-r", str(wanted))
    done("pip", "install", "--compile-bytecode", "--python", python, "--no-deps", str(ROOT))
    return home / "bin" / "ingest-service"


def _loading(bench: Bench, this: Path, name: str, store: Store) -> Figure:
    ours = bench.ours(bench.file(), store)
    side, other = bench.compare(_by(this, ours, "0.2.0"), _by(EARLIER, ours, "0.1.0"))
    targets = (
        at_least("ratio", side.speed_beside(other), NOISE),
        at_least("rows per CPU s, ratio", side.cpu_thrift_beside(other), NOISE),
        at_most("server CPU s per 1 M rows", side.server_cpu_s_per_million, other.server_cpu_s_per_million / NOISE),
        at_most("peak MB", side.peak_mb, other.peak_mb * 1.05),
    )
    return Figure(f"versions: {name}", side, other, targets)


def _starting(bench: Bench, this: Path) -> Figure:
    ours = Subject("--help", [*ingest_service(), "--help"], 1)
    side, other = bench.compare(_by(this, ours, "0.2.0"), _by(EARLIER, ours, "0.1.0"))
    return Figure(
        "versions: start", side, other, (at_least("CPU, ratio", side.cpu_thrift_beside(other), NOISE),), by_row=False
    )


def _by(program: Path, ours: Subject, version: str) -> Subject:
    """The same command by another program."""
    arguments = ours.command[len(ingest_service()) :]
    return replace(ours, name=f"{ours.name} {version}", command=[str(program), *arguments])
