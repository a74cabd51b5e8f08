"""What was measured, as a table for people and as JSON for what comes after."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, number
from benchmarks.measure import Side

PACKAGES: Final = (
    "ingest-service",
    "aiobotocore",
    "aiohttp",
    "hiredis",
    "numpy",
    "polars",
    "redis",
    "uvloop",
)
HEADINGS: Final = (
    "what",
    "beside",
    "rows/s",
    "theirs",
    "ratio",
    "CPU s/1M",
    "theirs",
    "server CPU s/1M",
    "theirs",
    "peak MB",
    "theirs",
    "targets",
)
_TEXT_COLUMNS: Final = (0, 1, len(HEADINGS) - 1)


def table(figures: Sequence[Figure]) -> str:
    """One line a figure; columns named "theirs" are those of what it stands beside."""
    cells = [HEADINGS, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(HEADINGS))]
    return "".join(
        "  ".join(
            cell.ljust(width) if at in _TEXT_COLUMNS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in cells
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    side, other = figure.side, figure.other
    by_row = [
        number(getattr(each, cost)) if figure.by_row else "-"
        for cost in ("rows_per_s", "cpu_s_per_million", "server_cpu_s_per_million")
        for each in (side, other)
    ]
    return (
        f"{figure.section}: {side.name}",
        other.name,
        *by_row[:2],
        f"{side.speed_beside(other):.2f}",
        *by_row[2:],
        number(side.peak_mb),
        number(other.peak_mb),
        "; ".join(map(str, figure.targets)),
    )


def save(bench: Bench, figures: Sequence[Figure], folder: Path) -> Path:
    """All runs of all sides, with what they ran on; commands name files without the folder they lay in."""
    at = datetime.now(UTC)
    content = {
        "at": at.isoformat(timespec="seconds"),
        "rows": bench.rows,
        "pairs": bench.pairs,
        "machine": machine(),
        "skipped": bench.skipped,
        "figures": [
            {
                "section": figure.section,
                "side": _side(figure.side),
                "other": _side(figure.other),
                "ratio": figure.side.speed_beside(figure.other),
                "targets": [asdict(target) for target in figure.targets],
            }
            for figure in figures
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{at:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(content, indent=1).replace(f"{bench.work}/", "") + "\n")
    return path


def _side(side: Side) -> dict[str, Any]:
    return asdict(side) | {
        "command": [Path(side.command[0]).name, *side.command[1:]],
        "rows_per_s": side.rows_per_s,
        "cpu_s_per_million": side.cpu_s_per_million,
        "server_cpu_s_per_million": side.server_cpu_s_per_million,
        "peak_mb": side.peak_mb,
    }


def machine() -> dict[str, Any]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else platform.machine(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
