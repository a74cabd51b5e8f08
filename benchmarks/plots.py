"""Draws the figures that benchmarks have saved, as SVG.

    python -m benchmarks.plots benchmarks/results/*.json --to docs/plots

The last file that has a section gives its figures.
"""

import argparse
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

SPEED: Final = {"redis": "Redis", "dynamodb": "DynamoDB (null server)", "sqlite": "SQLite"}
_WIDTH, _LEFT, _RIGHT, _LINE = 760, 300, 90, 26
_COLOURS: Final = ("#2a6fbb", "#c25b1c", "#2f8f5b", "#8a4fb0")
_STYLE: Final = (
    "<style>text{font:13px sans-serif;fill:#333}.t{font-weight:bold}.axis{stroke:#999}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"
)

Figures = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    figures: Figures = {}
    for path in sorted(options.results):
        for section, found in _by_section(json.loads(path.read_text())["figures"]).items():
            figures[section] = found
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "speed.svg").write_text(speed(figures))
    (options.to / "memory.svg").write_text(memory(figures.get("memory", [])))
    (options.to / "growth.svg").write_text(growth(figures.get("growth", [])))
    (options.to / "cost.svg").write_text(cost(figures))


def _by_section(figures: Sequence[dict[str, Any]]) -> Figures:
    found: Figures = {}
    for figure in figures:
        found.setdefault(figure["section"], []).append(figure)
    return found


def speed(figures: Figures) -> str:
    """Rows a second of each peer, and of ingest-service in the same runs."""
    bars: list[tuple[str, float, str]] = []
    for section, title in SPEED.items():
        rates = {figure["other"]["name"]: figure["other"]["rows_per_s"] for figure in figures.get(section, [])}
        ours = [figure["side"]["rows_per_s"] for figure in figures.get(section, [])]
        if ours:
            bars.append((f"{title}: ingest-service", sorted(ours)[len(ours) // 2], _COLOURS[0]))
            bars += [(name, rate, "#9aa4ad") for name, rate in sorted(rates.items(), key=lambda each: -each[1])]
    return _bars("Rows a second, start-up included", bars, lambda rate: f"{rate / 1000:,.0f} k")


def cost(figures: Figures) -> str:
    """Client CPU by the length of the file."""
    sides: dict[str, dict[str, Any]] = {}
    for figure in figures.get("growth", []) + figures.get("memory", []):
        for side in (figure["side"], figure["other"]):
            if "rows/s of" not in side["name"]:  # of a slow sink says nothing
                sides[side["name"]] = side
    bars = [(name, sides[name]["cpu_s_per_million"], _COLOURS[0]) for name in sorted(sides)]
    return _bars("Client CPU seconds a million rows, start-up included", bars, lambda seconds: f"{seconds:.1f} s")


def _bars(title: str, bars: Sequence[tuple[str, float, str]], label: Any) -> str:
    most = max((value for _, value, _ in bars), default=1.0)
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    lines = [f'<text class="t" x="0" y="16">{escape(title)}</text>']
    for number, (name, value, colour) in enumerate(bars):
        y = 30 + number * _LINE
        length = max(1.0, value * scale)
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_LINE - 8}" fill="{colour}"/>',
            f'<text x="{_LEFT + length + 6:.1f}" y="{y + 14}">{label(value)}</text>',
        ]
    return _svg(lines, 40 + len(bars) * _LINE)


def memory(figures: Sequence[dict[str, Any]]) -> str:
    """Resident memory over the time of the long runs."""
    curves = [(side["name"], list(enumerate(side["runs"][0]["rss_mb"]))) for side in map(_side, figures)]
    return _curves("Resident MB over the time of a run", curves, "")


def growth(figures: Sequence[dict[str, Any]]) -> str:
    """How fast rows came to be stored, by how many there were already: means of twenty stretches of each long run."""
    curves = []
    for side in map(_side, figures):
        marks = [(0.0, 0), *((at_s, rows) for at_s, rows in side["runs"][0].get("progress", []) if rows)]
        points, last = [], marks[0]
        for at_s, rows in marks[1:]:
            if rows - last[1] >= side["rows"] / 20:
                points.append((rows / 1e6, (rows - last[1]) / (at_s - last[0]) / 1e3))
                last = (at_s, rows)
        curves.append((side["name"], points))
    return _curves("Thousand rows a second, by the million rows that are stored", curves, " M rows")


def _side(figure: dict[str, Any]) -> dict[str, Any]:
    side: dict[str, Any] = figure["side"]
    return side


def _curves(title: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], unit: str) -> str:
    """A line for each: points of x and y. Where there is no unit of x, each has a width of its own."""
    height, top, left = 260, 40, 50
    lines = [f'<text class="t" x="0" y="16">{escape(title)}</text>']
    curves = [(name, points) for name, points in curves if points]
    highest = max((y for _, points in curves for _, y in points), default=0.0) or 1.0
    furthest = max((x for _, points in curves for x, _ in points), default=0.0) or 1.0
    for number, (name, points) in enumerate(curves):
        across = (_WIDTH - left - 10) / (furthest if unit else max(1.0, points[-1][0]))
        shown = points[:: max(1, len(points) // 400)]
        path = " ".join(f"{left + x * across:.1f},{top + (1 - y / highest) * height:.1f}" for x, y in shown)
        colour = _COLOURS[number % len(_COLOURS)]
        lines += [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<text x="60" y="{top + height + 22 + number * 18}" style="fill:{colour}">{escape(name)}</text>',
        ]
    lines += [
        f'<line class="axis" x1="{left}" y1="{top + height}" x2="{_WIDTH - 10}" y2="{top + height}"/>',
        f'<text x="{left - 6}" y="{top + 5}" text-anchor="end">{highest:.0f}</text>',
        f'<text x="{left - 6}" y="{top + height}" text-anchor="end">0</text>',
    ]
    if unit:
        end = f"{furthest:.0f}{unit}"
        lines.append(f'<text x="{_WIDTH - 10}" y="{top + height + 18}" text-anchor="end">{end}</text>')
    return _svg(lines, top + height + 30 + len(curves) * 18)


def _svg(lines: Sequence[str], height: int) -> str:
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">', _STYLE, *lines, "</svg>\n"]
    )


if __name__ == "__main__":
    main()
