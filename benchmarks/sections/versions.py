"""This version beside an earlier one, in one run: into each store, at start-up, and its peak memory.

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

INSTALLED: Final = ROOT / ".cache" / "servers"
NOISE: Final = 0.93  # of what two runs of one program differ by here


def figures(bench: Bench) -> list[Figure]:
    """Beside version 0.1.0."""
    return _beside(bench, "versions", INSTALLED / "earlier-0.1.0", "scripts/get-servers earlier")


def since_release(bench: Bench) -> list[Figure]:
    """Beside the last release that is tagged."""
    tag = ["git", "-C", str(ROOT), "describe", "--tags", "--abbrev=0", "--match", "v*"]
    found = subprocess.run(tag, capture_output=True, text=True, check=False).stdout.strip()
    return _beside(bench, "quick", INSTALLED / f"released-{found}", "scripts/get-servers released")


def _beside(bench: Bench, section: str, home: Path, command: str) -> list[Figure]:
    earlier = home / "bin" / "ingest-service"
    if not earlier.exists():
        bench.skip(f"{home.name} is not in .cache/servers: {command}")
        return []
    this = _installed(bench, earlier)
    stores = {"redis": bench.redis, "dynamodb": bench.dynamodb, "sqlite": bench.sqlite, "mongodb": bench.mongodb}
    loads = [_loading(bench, section, this, earlier, name, store) for name, store in stores.items()]
    return [_starting(bench, section, this, earlier), *loads]


def _installed(bench: Bench, earlier: Path) -> Path:
    """The command of this version."""
    home, uv = bench.work / "this", str(ROOT / ".tools" / "bin" / "uv")
    python, wanted = str(home / "bin" / "python"), bench.work / "versions.txt"

    def done(*command: str) -> str:
        return subprocess.run([uv, *command], check=True, capture_output=True, text=True).stdout

    bench.say(f"installing this version beside {_name(earlier)}")
    done("venv", "--python", str(earlier.with_name("python")), str(home))
    shared = done("pip", "freeze", "--python", str(earlier.with_name("python"))).splitlines()
    wanted.write_text("\n".join(line for line in shared if not line.startswith("ingest")) + "\n")
    done("pip", "install", "--compile-bytecode", "--python", python, "-c", str(wanted), str(ROOT))
    return home / "bin" / "ingest-service"


def _name(program: Path) -> str:
    return program.parents[1].name.rpartition("-")[2]


def _loading(bench: Bench, section: str, this: Path, earlier: Path, name: str, store: Store) -> Figure:
    ours = bench.ours(bench.file(), store)
    side, other = bench.compare(_by(this, ours, "now"), _by(earlier, ours, _name(earlier)))
    targets = (
        at_least("ratio", side.speed_beside(other), NOISE),
        at_least("rows per CPU s, ratio", side.cpu_thrift_beside(other), NOISE),
        at_most("server CPU s per 1 M rows", side.server_cpu_s_per_million, other.server_cpu_s_per_million / NOISE),
        at_most("peak MB", side.peak_mb, other.peak_mb * 1.05),
    )
    return Figure(f"{section}: {name}", side, other, targets)


def _starting(bench: Bench, section: str, this: Path, earlier: Path) -> Figure:
    ours = Subject("--help", [*ingest_service(), "--help"], 1)
    side, other = bench.compare(_by(this, ours, "now"), _by(earlier, ours, _name(earlier)))
    thrift = at_least("CPU, ratio", side.cpu_thrift_beside(other), NOISE)
    return Figure(f"{section}: start", side, other, (thrift,), by_row=False)


def _by(program: Path, ours: Subject, version: str) -> Subject:
    """The same command by another program."""
    arguments = ours.command[len(ingest_service()) :]
    return replace(ours, name=f"{ours.name} {version}", command=[str(program), *arguments])
