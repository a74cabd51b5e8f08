"""What another package may bring by entry points."""

import subprocess
import sys
from pathlib import Path

from tests.helpers import sqlite_rows

MODULE = """
from ingest_service.config import Settings
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.pipeline.steps import Steps


class OurSettings(Settings):
    our_colour: str = "red"


STEPS = Steps(
    ("paint",), OurSettings, lambda path, settings: path.name == "ours.jsonl", lambda settings: ([], MICROLENS)
)
"""
ENTRIES = """
[ingest_service.steps]
ours = ours:STEPS
[ingest_service.datasets]
ours-pairs = ingest_service.datasets.microlens:MICROLENS
"""
SCRIPT = """
from pathlib import Path
from ingest_service.config import load_settings
from ingest_service.datasets import dataset_named
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.pipeline.steps import target_of
from ingest_service.service.desk import step_of

settings = load_settings({"movie_id_map": "m.json"})
assert (settings.our_colour, settings.movie_id_map) == ("blue", "m.json")
assert dataset_named("ours-pairs") is MICROLENS
assert step_of("ours paint --fast") == ("ours", "paint --fast")
assert step_of("movielens popular") == ("movielens", "popular")
assert target_of(Path("ours.jsonl"), settings) == ([], MICROLENS)
assert target_of(Path("theirs.jsonl"), settings) is None
"""


def test_a_package_brings_steps_and_data_sets(tmp_path: Path) -> None:
    """Its settings are known to every command, its steps to schedules, its dead letters to replay; ours stay."""
    (tmp_path / "ours.py").write_text(MODULE)
    info = tmp_path / "ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    environment = {"PYTHONPATH": str(tmp_path), "INGEST_OUR_COLOUR": "blue"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


FORMAT = """
from ingest_service.formats.jsonl.reader import JsonLinesReader


class Starred(JsonLinesReader):
    \"\"\"Lines of JSON with a star before each.\"\"\"

    def _split(self, text, *, eof):
        return super()._split(text.replace(b"*", b" "), eof=eof)

    def _plain(self, block):
        return None

    def _specify(self, block, index):
        return self.rows.row(block.places.raws.raw(index).removeprefix(b"*"))
"""
OWN_FORMAT = """
name: own
format: starred
schema:
  fields:
    - {name: user, type: integer, x-role: owner}
    - {name: item, type: integer, x-role: item}
    - {name: at, type: integer, x-role: time, x-unit: s}
"""


def test_a_package_brings_a_format(tmp_path: Path) -> None:
    """Named by a schema file it is read like any other; a name that nobody has is told what there is."""
    (tmp_path / "ours.py").write_text(FORMAT)
    info = tmp_path / "ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ingest_service.formats]\nstarred = ours:Starred\n")
    (tmp_path / "own.yaml").write_text(OWN_FORMAT)
    (tmp_path / "rows.txt").write_text('*{"user":1,"item":2,"at":1583366400}\n*{"user":1,"item":3,"at":1583366401}\n')
    command = [sys.executable, "-m", "ingest_service", "run", "rows.txt", "--dataset", "own.yaml"]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(sqlite_rows(tmp_path / "interactions.db")) == 2
    (info / "entry_points.txt").write_text("")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "no format 'starred'; choose from: delimited, jsonl, literals, parquet" in done.stderr
