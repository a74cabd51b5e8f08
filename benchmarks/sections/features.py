"""Features that need the past, all of them, beside the same file read without any: what parsing costs more."""

from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.sections.reading import without_sink
from benchmarks.sections.transforms import SCHEMA

FEATURES: Final = """
x-features:
  - {feature: position}
  - {feature: user_count}
  - {feature: gap}
  - {feature: session, gap: 30m}
  - {feature: item_count}
  - {feature: popularity, half_life: 7d}
"""
BOUND_S: Final = 0.25  # of CPU, for a million rows


def figures(bench: Bench) -> list[Figure]:
    file = bench.movielens(bench.rows) / "ratings.csv"
    plain, told = bench.work / "plain.yaml", bench.work / "told.yaml"
    plain.write_text(SCHEMA)
    told.write_text(SCHEMA + FEATURES)
    side, other = bench.compare(
        without_sink(bench, "all features", file, str(told)),
        without_sink(bench, "no features", file, str(plain)),
    )
    more_s = side.cpu_s_per_million - other.cpu_s_per_million
    return [Figure("features", side, other, (at_most("more CPU s a million rows", more_s, BOUND_S),))]
