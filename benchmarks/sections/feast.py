"""Feast's online store in Redis: beside Feast's own `write_to_online_store`, which also reads back what was written.

FEAST_PYTHON names an interpreter that has Feast: `python -m venv V && V/bin/pip install 'feast[redis]==0.67.0'`.
"""

import json
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import ROOT, CommandFailedError, Subject

ROWS: Final = 400_000  # each of another entity: the dearest there is for both
FEAST_ROWS: Final = 100_000
FEATURES: Final = "plays,likes,share,score:FLOAT,genre,is_new,seen"
_GENRES: Final = ("drama", "comedy", "horror", "documentary", "science fiction")
_FIELDS: Final = {
    "plays": "integer",
    "likes": "integer",
    "share": "number",
    "score": "number",
    "genre": "string",
    "is_new": "boolean",
    "seen": "datetime",
}


def figures(bench: Bench) -> list[Figure]:
    python = os.environ.get("FEAST_PYTHON", "")
    if not python:
        bench.skip("FEAST_PYTHON names no interpreter that has Feast")
        return []
    rows, feast_rows = min(ROWS, bench.rows), min(FEAST_ROWS, bench.rows)
    file, schema = file_of(bench.work, rows), schema_of(bench.work)
    script = [python, str(ROOT / "benchmarks" / "peers" / "feast_script.py"), str(file)]
    script += ["--to", bench.redis.url, "--limit", str(feast_rows)]

    def is_read_back() -> None:
        done = subprocess.run([*script, "--read"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandFailedError(f"Feast does not read what was written: {done.stderr.strip()[-300:]}")

    ours = bench.ours(file, bench.redis, rows=rows)
    url = f"feast+{bench.redis.url}?project=shop&view=taste&entity=user_id:INT64&features={FEATURES}"
    command = [url if word == bench.redis.url else word for word in ours.command]
    ours = replace(ours, command=[*command, "--dataset", str(schema)], after=is_read_back)
    theirs = Subject(
        f"Feast's write_to_online_store ({feast_rows:,} rows)",
        script,
        feast_rows,
        server_pid=bench.redis.pid,
        before=bench.redis.clear,
        after=is_read_back,
    )
    side, other = bench.compare(ours, theirs)
    cpu = side.cpu_s_per_million / other.cpu_s_per_million
    targets = (at_least("ratio", side.speed_beside(other), 8), at_most("client CPU beside theirs", cpu, 0.1))
    return [Figure("feast", side, other, targets)]


def schema_of(folder: Path) -> Path:
    fields: list[dict[str, object]] = [
        {"name": "user_id", "type": "integer", "x-role": "owner"},
        {"name": "item", "type": "integer", "x-role": "item"},
        {"name": "event_timestamp", "type": "datetime", "x-role": "time"},
    ]
    fields += [{"name": name, "type": type_name, "x-keep": True} for name, type_name in _FIELDS.items()]
    path = folder / "taste.json"
    path.write_text(json.dumps({"name": "taste", "schema": {"fields": fields}}))
    return path


def file_of(folder: Path, rows: int) -> Path:
    """One row an entity, in no order of ids."""
    rng = random.Random(11)
    path = folder / f"taste-{rows}.csv"
    users = rng.sample(range(1, 10 * rows), rows)
    with path.open("w") as file:
        file.write(f"user_id,item,event_timestamp,{','.join(_FIELDS)}\n")
        for number, user in enumerate(users):
            minute, second = divmod(number, 60)
            at = f"2020-03-{5 + minute // 1440:02}T{minute // 60 % 24:02}:{minute % 60:02}:{second:02}Z"
            values = (rng.randrange(10_000), rng.randrange(200), rng.randrange(1_000) / 1_000, rng.randrange(100) / 8)
            said = ",".join(map(str, values))
            file.write(
                f"{user},{rng.randrange(1, 20_000)},{at},{said},{rng.choice(_GENRES)},{rng.random() < 0.5},{at}\n"
            )
    return path
