"""Text ids by a schema file beside integers by the same, and beside the built-in data set."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.measure import Subject

SCHEMA: Final = """
name: bench
schema:
  fields:
    - {{name: user, type: {kind}, x-role: owner}}
    - {{name: item, type: {kind}, x-role: item}}
    - {{name: timestamp, type: integer, x-role: time, x-unit: s}}
"""


def figures(bench: Bench) -> list[Figure]:
    integers, texts = bench.file("integers.csv", format="s"), bench.file("texts.csv", format="text-ids")
    found = []
    for name, store in (("dynamodb", bench.dynamodb), ("redis", bench.redis)):
        built_in = bench.ours(integers, store)
        by_schema = replace(_by(built_in, _schema(bench, "integer")), name="integers by a schema file")
        text_ids = replace(_by(bench.ours(texts, store), _schema(bench, "string")), name="text ids by a schema file")
        text, integer, own = bench.compare(text_ids, by_schema, built_in)
        found.append(Figure(f"schemas: {name}", text, integer, (at_least("ratio", text.speed_beside(integer), 0.7),)))
        found.append(Figure(f"schemas: {name}", integer, own))
    return found


def _schema(bench: Bench, kind: str) -> Path:
    path = bench.work / f"{kind}.yaml"
    path.write_text(SCHEMA.format(kind=kind))
    return path


def _by(subject: Subject, schema: Path) -> Subject:
    return replace(subject, command=[*subject.command, f"--dataset={schema}"])
