"""What another package may bring by entry points."""

import subprocess
import sys
from pathlib import Path

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
