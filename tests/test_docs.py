"""The documentation is true: its commands run, its Python runs, and it mentions what there is."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ingest_service.cli.app import app
from ingest_service.config import load_settings
from ingest_service.errors import CODES
from ingest_service.movielens.settings import MovieLensSettings
from ingest_service.pipeline.progress import Progress, SinkProgress
from ingest_service.runtime import fault
from ingest_service.sinks.base import SinkOptions
from ingest_service.sinks.dynamodb.sink import DynamoDBOptions
from ingest_service.sinks.feast.dynamodb import FeastDynamoDBOptions
from ingest_service.sinks.feast.redis import FeastOptions
from ingest_service.sinks.mongodb.address import MongoDBOptions
from ingest_service.sinks.parquet.sink import ParquetOptions
from ingest_service.sinks.redis.sink import RedisOptions
from ingest_service.telemetry.prometheus import Exposition
from tests.helpers import import_all
from tests.movielens.conftest import pack, ratings_text
from tests.servers import ROOT
from tests.telemetry.test_prometheus import progress

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = (ROOT / "docs" / "COMMANDS.md").read_text()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the documentation speaks of."""
    for name in ("pairs.csv", "part-1.csv", "part-2.csv"):
        subprocess.run([sys.executable, ROOT / "scripts" / "sample", tmp_path / name, "1500"], check=True)
    pack(
        tmp_path / "ml-latest-small.zip",
        {"ratings.csv": ratings_text(3), "links.csv": "movieId,imdbId,tmdbId\n1,0114709,862\n"},
    )
    for name in ("part-1.csv", "part-2.csv"):
        subprocess.run(["gzip", tmp_path / name], check=True)
    (tmp_path / "titles.csv").write_text("item,title\n2,Cats\n")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    # Those of SERVE.md speak to a service that runs: tests/service/test_page_of_docs.py.
    [page for page in PAGES if blocks(page, "sh") and page.name != "SERVE.md"],
    ids=lambda page: page.name,
)
def test_every_command_in_the_documentation_runs(
    page: Path, folder: Path, redis_db_url: str, dynamodb_url: str, table: str, postgresql_schema_url: str
) -> None:
    """Each ```sh block of a page, in order, in one folder, against real servers, exits with 0."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    own = f"endpoint={dynamodb_url}&checkpoint_table={table}_checkpoints"
    here = {
        "feast+dynamodb://shop.last_seen?": f"feast+dynamodb://{table}.last_seen?{own}&",
        "redis://localhost:6379/0": redis_db_url,
        "http://localhost:8000": dynamodb_url,
        "dynamodb://interactions?": f"dynamodb://{table}?checkpoint_table={table}_checkpoints&",
        "postgresql://loader@db/movies?schema=app": postgresql_schema_url,
    }
    for block in blocks(page, "sh"):
        script = block
        for written, meant in here.items():
            script = script.replace(written, meant)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_every_python_example_runs(page: Path, folder: Path) -> None:
    """The Python blocks of a page, one after the other, are a program that ends well."""
    program = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_documented() -> None:
    """Each command has a help text and a section of its own."""
    for command in app.registered_commands:
        assert command.callback is not None and command.callback.__doc__
        assert f"## {command.name or command.callback.__name__}\n" in COMMANDS
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            assert command.callback is not None and command.callback.__doc__
            name = command.name or command.callback.__name__
            assert f"`{group.typer_instance.info.name} {name}" in COMMANDS


def test_every_setting_and_option_is_documented() -> None:
    """Each setting and each option of a sink URL stands in docs/COMMANDS.md."""
    for name in MovieLensSettings.model_fields:
        assert f"`{name}`" in COMMANDS or f"[{name}]" in COMMANDS
    for options in (
        SinkOptions,
        RedisOptions,
        FeastOptions,
        FeastDynamoDBOptions,
        DynamoDBOptions,
        MongoDBOptions,
        ParquetOptions,
    ):
        for name in options.model_fields:
            assert f"`{name}`" in COMMANDS


@pytest.mark.parametrize("event", [Progress, SinkProgress])
def test_every_field_of_progress_is_documented(event: type) -> None:
    """The tables in docs/COMMANDS.md are those of the definition, in its order."""
    fields = TypeAdapter(event).json_schema()["properties"]
    assert "\n".join(f"| `{name}` | {field['description']} |" for name, field in fields.items()) in COMMANDS


def test_the_page_reads_fields_that_there_are() -> None:
    """What its modules read of an event is a field of it, its run or time, or what they put beside it."""
    page = ROOT / "ingest_service" / "service" / "page"
    known = {field.name for kind in (Progress, SinkProgress) for field in fields(kind)}
    known |= {"run", "timestamp", "name", "queued"}
    for module in ("running.js", "rates.js"):
        read = set(re.findall(r"\b(?:event|sink)\.([a-z0-9_]+)", (page / module).read_text()))
        assert read and read <= known


def test_every_metric_is_documented() -> None:
    """Each stands in docs/COMMANDS.md, and no other."""
    exposition = Exposition(memory_mb=350)
    exposition.update(replace(progress(), eta_s=3.0))
    names = {sample.name for family in exposition.collect() for sample in family.samples}
    assert names == set(re.findall(r"`(ingest_[a-z_]+)`", COMMANDS)) - {"ingest_checkpoints"}


def test_every_place_of_a_crash_test_is_documented() -> None:
    """Each stands in docs/RELIABILITY.md with what is so there."""
    import_all()
    page = (ROOT / "docs" / "RELIABILITY.md").read_text()
    for name, what in fault.POINTS.items():
        assert f"| `{name}` | {what} |" in page


def test_the_table_of_faults_is_that_of_the_tests() -> None:
    """scripts/fault-table would change nothing, and every fault has a test."""
    before = (ROOT / "docs" / "RELIABILITY.md").read_text()
    script = runpy.run_path(str(ROOT / "scripts" / "fault-table"))
    assert script["page"]() == before, "run scripts/fault-table"
    assert all(script["marked"]().values())


def test_every_code_of_a_dead_letter_is_documented() -> None:
    """Each code stands in docs/DATA.md."""
    import_all()
    data = (ROOT / "docs" / "DATA.md").read_text()
    for code in CODES:
        assert f"`{code}`" in data


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.toml")), ids=lambda file: file.name)
def test_every_example_configuration_is_accepted(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files in configs/ load, and their sinks are known ones with known options."""
    from ingest_service.pipeline.run import sinks_of

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "redis://localhost:6379/0")
    settings = load_settings(file=file)
    assert sinks_of(settings.sink_urls())


def test_links_between_pages_lead_somewhere() -> None:
    """Each relative link in the documentation names a file that is there."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_demo_runs(tmp_path: Path) -> None:
    """`make demo` loads its sample, shows a record, and says what to look at next."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run([tmp_path / "scripts" / "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Look next at" in done.stdout
    letters = list(tmp_path.glob(".ingest/*/dead-letters.jsonl"))
    assert len(letters) == 1
    assert len(letters[0].read_text().splitlines()) == 4
