"""The example of docs/SINKS.md: a package of its own, installed beside this one, that passes the suite and loads."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.servers import ROOT

EXAMPLE = ROOT / "tests" / "examples" / "folder_sink"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which the package is installed: its module, and what an installer says of it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    place = tmp_path / "site"
    info = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in names.items())
        for group, names in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(entries))
    shutil.copy(EXAMPLE / "folder_sink.py", place)
    return {**os.environ, "PYTHONPATH": str(place)}


def test_a_sink_written_elsewhere_passes_the_suite(installed: dict[str, str], tmp_path: Path) -> None:
    """All that it can do is tried, and nothing fails."""
    shutil.copy(EXAMPLE / "test_folder_sink.py", tmp_path)
    shutil.copy(EXAMPLE / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(done.stdout.rpartition(" passed")[0].rpartition("\n")[2])
    assert passed > 25


def test_a_sink_written_elsewhere_is_loaded_into(installed: dict[str, str], tmp_path: Path) -> None:
    """The commands know it by its URL: a load, a look at what is there, a comparison; and say that it has no trial."""
    (tmp_path / "pairs.csv").write_text(
        "user,item,timestamp\n1,2,1583366400000\n1,3,1583366400001\n2,2,1583366400002\n"
    )

    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ingest_service", *arguments]
        return subprocess.run(command, check=False, cwd=tmp_path, env=installed, capture_output=True, text=True)

    to = ("--to", "folder:///interactions")
    for command in ("check", "run", "verify", "status"):
        done = ran(command, "pairs.csv", *to)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "interactions").glob("*.json"))) == 2
    done = ran("crash-test", "pairs.csv", *to, "--cycles", "1")
    assert (done.returncode, "has no place for a trial" in done.stderr) == (78, True), done.stderr
