"""docs/SERVE.md is true: its configuration is served, its commands work, and it names what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ingest_service.config import InboxSettings, ScheduleSettings, ServeSettings
from tests.servers import ROOT
from tests.service.conftest import Service
from tests.test_docs import COMMANDS, blocks

PAGE = ROOT / "docs" / "SERVE.md"


def test_every_command_of_the_page_runs(service: Service, tmp_path: Path) -> None:
    """With the configuration of the page, in order, each exits with 0 and gets a good answer."""
    (config,) = blocks(PAGE, "toml")
    for folder in ("data", "inbox"):
        (tmp_path / folder).mkdir()
    subprocess.run([sys.executable, ROOT / "scripts" / "sample", tmp_path / "data" / "pairs.csv", "1500"], check=True)
    start, *others = blocks(PAGE, "sh")
    assert start == "ingest-service serve --port 8080\n"
    service.start(config)
    for block in others:
        script = block.replace("http://localhost:8080", service.url).replace("curl -s", "curl -sS --fail")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_every_path_is_documented(service: Service) -> None:
    """Each path of the API's description stands on the page."""
    service.start("")
    page = PAGE.read_text()
    for path in service.get("/v1/openapi.json")["paths"]:
        known = re.sub(r"\{([a-z]+)\}", lambda found: "ID" if found[1] == "number" else found[1].upper(), path)
        assert known in page or f"…/{known.rpartition('/')[2]}" in page, path


def test_every_setting_of_the_service_is_documented() -> None:
    """Those of its tables too."""
    for table in (ServeSettings, InboxSettings, ScheduleSettings):
        for name in table.model_fields:
            assert f"`{name}`" in COMMANDS or f"[[serve.{name}]]" in COMMANDS
