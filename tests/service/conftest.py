"""The service as a process, and the parts of it that can be looked at one by one."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.helpers import COMMAND, Pairs, write_pairs

T = TypeVar("T")
_PATIENCE_S = 60.0  # a test that waits for what never comes is to fail, not to hang

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE_MS = 20_000
_VIOLATIONS = "addEventListener('securitypolicyviolation', event => console.error('CSP: ' + event.violatedDirective))"


@dataclass(frozen=True)
class Answer:
    """What came back. `content` is the JSON of the body, or its text."""

    status: int
    headers: dict[str, str]
    content: Any


class Service:
    """`ingest-service serve` in a folder of its own, where its configuration is `ingest.toml`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.headers: dict[str, str] = {}
        self.descriptors: int | None = None  # how many the process may have
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def start(self, config: str | None = None, *arguments: str, **environment: str) -> "Service":
        """Start it and return once it serves."""
        if config is not None:
            (self.folder / "ingest.toml").write_text(config)
        limited = ["sh", "-c", f'ulimit -n {self.descriptors}; exec "$@"', "sh"] if self.descriptors else []
        with (self.folder / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*limited, *COMMAND, "serve", "--port", "0", *arguments],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not (serving := [event for event in self.events if event["event"] == "serving"]):
            assert self._process.poll() is None and time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.url = serving[0]["url"]
        return self

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request. A body that is no text or bytes goes as JSON; an underscore in a header's name is a hyphen."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body is not None and not isinstance(body, bytes | str):
            body, sent = json.dumps(body), {"Content-Type": "application/json", **sent}
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        is_json = "json" in response.headers.get("Content-Type", "")
        return Answer(response.status, dict(response.headers), json.loads(text) if is_json and text else text)

    def get(self, path: str) -> Any:
        """The content of an answer that is expected to be good."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.content

    def submit(self, source: str | Path, **wanted: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/v1/runs", {"source": str(source), **wanted})
        assert answer.status in (200, 201), answer
        run: dict[str, Any] = answer.content
        return run

    def watch_all(self, then: Callable[[], object]) -> Iterator[dict[str, Any]]:
        """The runs whose state changes, after `then` was done; it is done once the service lets us watch."""
        for name, data in self.watch("/v1/events", then):
            if name == "run":
                yield data

    def watch(self, path: str, then: Callable[[], object] = lambda: None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Server-sent events as they come."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.readline()  # a comment, once we are among those who watch
            then()
            name, deadline = "", time.monotonic() + _PATIENCE_S
            while line := response.readline().decode():
                assert time.monotonic() < deadline, f"nothing came of it:\n{self.log}"
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)
        finally:
            connection.close()

    def until(self, run: dict[str, Any], *states: str) -> dict[str, Any]:
        """The run, once it is in one of these states."""
        return self.until_event(run, lambda name, data: name == "run" and data["state"] in states)

    def until_event(self, run: dict[str, Any], wanted: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any]:
        for name, data in self.watch(f"/v1/runs/{run['id']}/events"):
            if wanted(name, data):
                return data
            assert name != "run" or data["state"] in ("queued", "running"), f"it ended first: {data}"
        raise AssertionError("the service ended first")

    def stop(self) -> int:
        """SIGTERM. The exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(how)
        return process.wait()


def eventually(found: Callable[[], T], is_wanted: Callable[[T], object] = bool) -> T:
    """What is found, once it is as wanted."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_wanted(last := found()):
        assert time.monotonic() < deadline, last
        time.sleep(0.05)
    return last


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """One yet to be started."""
    found = Service(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """A short file of several blocks."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv", 12_000, blocks=8)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that has violated no policy and made no error in the end."""
    errors: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        is_status = message.text.startswith("Failed to load resource")  # what the service refuses, or its absence
        if message.type == "error" and not is_status:
            errors.append(message.text)

    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(_PATIENCE_MS)
    context.add_init_script(_VIOLATIONS)
    found = context.new_page()
    found.on("console", on_console)
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
    yield found
    context.close()
    assert errors == []
