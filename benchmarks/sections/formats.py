"""Every input format beside the fastest of them, into Redis, our fastest sink."""

from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least

FILES: Final[dict[str, dict[str, Any]]] = {
    "iso.csv": {},
    "iso-z.csv": {"format": "iso-z"},
    "ms.csv": {"format": "ms"},
    "s.csv": {"format": "s"},
    "quoted.csv": {"format": "quoted"},
    "by-user.csv": {"order": "user"},
    "iso.csv.gz": {},
    "iso.csv.zst": {},
}
BOUNDS: Final = {"iso.csv.gz": 0.8, "iso.csv.zst": 0.8}  # of the plain file
BOUND: Final = 0.7  # of the fastest


def figures(bench: Bench) -> list[Figure]:
    sides = bench.compare(
        *(bench.ours(bench.file(name, **options), bench.redis, name=name) for name, options in FILES.items())
    )
    plain, fastest = sides[0], max(sides, key=lambda side: side.rows_per_s)
    lines = []
    for side in sides:
        other = plain if side.name in BOUNDS else fastest
        target = at_least("ratio", side.speed_beside(other), BOUNDS.get(side.name, BOUND))
        lines.append(Figure("formats", side, other, (target,)))
    return lines
