"""JSON Lines and Parquet read and parsed, without a sink: beside json.loads a line, and beside delimited text."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.measure import ROOT, Subject

SCHEMA: Final = """
name: bench
format: {format}
schema:
  fields:
    - {{name: user, type: integer, x-role: owner}}
    - {{name: item, type: integer, x-role: item}}
    - {{name: timestamp, type: integer, x-role: time, x-unit: s}}
"""
PEER_ROWS: Final = 200_000


def figures(bench: Bench) -> list[Figure]:
    text = bench.file("integers.csv", format="s")
    lines, parquet = text.with_suffix(".jsonl"), text.with_suffix(".parquet")
    if not parquet.exists():
        bench.say(f"generating {lines.name} and {parquet.name}")
        command = [sys.executable, "-m", "benchmarks.generate_formats", str(text), str(lines), str(parquet)]
        subprocess.run(command, cwd=ROOT, check=True)
    json_lines = without_sink(bench, "JSON Lines", lines, "amazon-2023-reviews")
    peer_rows = min(PEER_ROWS, bench.rows)
    script = [sys.executable, "-m", "benchmarks.peers.json_script", str(lines), str(peer_rows)]
    loads = Subject(name=f"json.loads a line ({peer_rows:,} rows)", command=script, rows=peer_rows)
    ours, theirs = bench.compare(json_lines, loads)
    rows_per_cpu_s = 1e6 / ours.cpu_s_per_million
    targets = (
        at_least("rows per CPU s", ours.cpu_thrift_beside(theirs), 5),
        at_least("rows/s a core", rows_per_cpu_s, 150_000),
    )
    columns, delimited = bench.compare(
        without_sink(bench, "Parquet", parquet, _schema(bench, "parquet")),
        without_sink(bench, "delimited text", text, _schema(bench, "csv")),
    )
    return [
        Figure("reading", ours, theirs, targets),
        Figure("reading", columns, delimited, (at_least("ratio", columns.cpu_thrift_beside(delimited), 1.0),)),
    ]


def without_sink(bench: Bench, name: str, file: Path, dataset: str) -> Subject:
    return Subject(name, [sys.executable, "-m", "benchmarks.reading", str(file), dataset], bench.rows)


def _schema(bench: Bench, form: str) -> str:
    path = bench.work / f"reading-{form}.yaml"
    path.write_text(SCHEMA.format(format=form))
    return str(path)
