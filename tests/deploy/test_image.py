"""The container image: what its Dockerfile's steps leave behind works, with nothing writable but its volume."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.deploy.image import Image, build, steps_of
from tests.helpers import HEADER, finish, sqlite_rows, wait_for_event
from tests.servers import ROOT, free_port
from tests.service.conftest import Service

TOKEN = "a-token-of-this-test-alone"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The steps, done."""
    folder = tmp_path_factory.mktemp("image")
    built = build(ROOT, folder)
    _make_read_only(built)
    yield built
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


def _make_read_only(image: Image) -> None:
    """Nothing can be written but what lies in the volume."""
    for path in [image.root, *image.root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    for volume in image.volumes:
        Path(image.mapped(volume)).chmod(0o700)


def start(image: Image, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """What the engine would start for `docker run --cap-drop ALL IMAGE ARGUMENTS…`, but as this user.

    Another could not get at this machine's Python. Without capabilities even root has to heed what is read-only.
    """
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"] if os.getuid() == 0 else []
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*powerless, *image.entrypoint, *map(image.mapped, arguments or image.command)],
        cwd=image.mapped(image.folder), env={**image.variables(), **environment},
        stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip


def test_the_image_is_as_it_should_be() -> None:
    """Bases by digest, the lock's hashes, a numbered user who is not root, exec forms, and SIGTERM."""
    steps = steps_of(ROOT / "Dockerfile")
    bases = {step.text.partition(" AS ")[0] for step in steps if step.name == "FROM"}
    assert len(bases) == 1
    assert "@sha256:" in bases.pop()
    installs = " ".join(step.text for step in steps if step.name == "RUN")
    assert installs.count("--require-hashes") == 2
    last = {step.name: step.text for step in steps}
    assert last["USER"] == "10001:10001"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert all(last[name].startswith('["') for name in ("ENTRYPOINT", "CMD"))
    assert 'CMD ["python", "-c", "' in last["HEALTHCHECK"]


def test_the_image_holds_what_the_lock_names(image: Image) -> None:
    """Every extra but torch, no tool of developers, the page's files; and nothing in the context but what is needed."""
    packages = {path.name.partition("-")[0].lower() for path in image.root.rglob("*.dist-info")}
    assert {"ingest_service", "polars", "prometheus_client", "opentelemetry_sdk", "onnxruntime"} <= packages
    assert not packages & {"pytest", "mypy", "ruff", "hatchling", "torch"}
    assert not (image.root / "build").exists()
    assert list(image.root.rglob("ingest_service/py.typed"))


def served(image: Image, port: int) -> tuple[subprocess.Popen[str], Service]:
    """The image's own command, once it serves."""
    process = start(
        image, *image.command, "--port", str(port),
        INGEST_SERVE__TOKEN=TOKEN,
        INGEST_SERVE__ROOTS=json.dumps([image.mapped("/state")]),
        INGEST_TO=image.mapped("sqlite:////state/rows.db?rate=100000"),
        INGEST_MEMORY_MB="182",
    )  # fmt: skip
    wait_for_event(process, lambda event: event["event"] == "serving")
    service = Service(image.root)
    service.url, service.headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {TOKEN}"}
    return process, service


def test_the_service_in_the_image_drains(image: Image) -> None:
    """With nothing writable but the volume it serves, is healthy, drains at SIGTERM, and goes on at its next start."""
    state, port = Path(image.mapped("/state")), free_port()
    healthcheck = [word.replace("8080", str(port)) for word in image.healthcheck]
    (state / "pairs.csv").write_text(f"{HEADER}\nbad\n" + "".join(f"{i},1,{FIRST_MS}\n" for i in range(600_000)))
    assert subprocess.run(healthcheck, env=image.variables(), check=False).returncode == 1
    process, service = served(image, port)
    try:
        assert subprocess.run(healthcheck, env=image.variables(), check=False).returncode == 0
        run = service.submit(state / "pairs.csv")
        service.until_event(run, lambda name, data: name == "progress")
        process.send_signal(signal.Signals[image.stop_signal])
        assert finish(process).code == 75
        process, service = served(image, port)
        assert service.until(run, "done")["attempt"] == 2
        process.send_signal(signal.Signals[image.stop_signal])
        assert finish(process).code == 0
    finally:
        process.kill()
        process.communicate()
    assert len(sqlite_rows(state / "rows.db")) == 600_000
    assert len(list(state.glob("pairs.csv-*/dead-letters.jsonl"))) == 1
    assert {path.name for path in image.root.iterdir()} == {"base", "opt", "state"}
