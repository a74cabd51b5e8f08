"""Three typical steps of a data set, beside the same file read without any: what parsing costs more."""

from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.sections.reading import without_sink

SCHEMA: Final = """
name: bench
schema:
  fields:
    - {name: userId, type: integer, x-role: owner}
    - {name: movieId, type: integer, x-role: item}
    - {name: rating, type: number, x-keep: true}
    - {name: timestamp, type: integer, x-role: time, x-unit: s}
"""
STEPS: Final = """
x-transform:
  - {filter: "rating >= 1"}
  - {derive: hour, part: hour, zone: Europe/Berlin}
  - {derive: stars, as: "round(rating * 2)", otherwise: 0}
"""
BOUND: Final = 1.15


def figures(bench: Bench) -> list[Figure]:
    file = bench.movielens(bench.rows) / "ratings.csv"
    plain, stepped = bench.work / "plain.yaml", bench.work / "stepped.yaml"
    plain.write_text(SCHEMA)
    stepped.write_text(SCHEMA + STEPS)
    side, other = bench.compare(
        without_sink(bench, "three steps", file, str(stepped)),
        without_sink(bench, "no steps", file, str(plain)),
    )
    return [Figure("transforms", side, other, (at_most("CPU", 1 / side.cpu_thrift_beside(other), BOUND),))]
