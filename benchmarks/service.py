"""`ingest-service serve` as a process, a client of its API, and clients that poll it."""

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import repeat
from pathlib import Path
from statistics import quantiles
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from benchmarks.bench import ingest_service
from benchmarks.measure import CommandFailedError

_START_S: Final = 60.0
_FINAL: Final = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Service:
    """One that serves. `folder` holds its configuration and state."""

    url: str
    pid: int
    folder: Path

    def ask(self, method: str, path: str, body: object = None) -> Any:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 400:
            raise CommandFailedError(f"{method} {path}: {content}")
        return content

    def submit(self, source: Path, **wanted: Any) -> dict[str, Any]:
        run: dict[str, Any] = self.ask("POST", "/v1/runs", {"source": str(source), **wanted})
        return run

    def ended(self, run: dict[str, Any], look_every_s: float = 0.2) -> dict[str, Any]:
        """The run, once it has come to its end."""
        while (run := self.ask("GET", f"/v1/runs/{run['id']}"))["state"] not in _FINAL:
            time.sleep(look_every_s)
        return run

    def idle(self, look_every_s: float = 0.5) -> dict[str, int]:
        """How many runs there are by state, once none is queued or running."""
        while True:
            counts: dict[str, int] = self.ask("GET", "/v1/runs?limit=1")["counts"]
            if not counts["queued"] + counts["running"]:
                return counts
            time.sleep(look_every_s)

    @property
    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * 4096 / 1e6


@contextmanager
def serving(folder: Path, sink: str, *, runs_at_once: int) -> Iterator[Service]:
    """A service that loads the files in `folder` into one sink."""
    state = {"state_dir": str(folder / "state"), "log_level": "INFO", "to": ["store"]}
    lines = [f"{name} = {json.dumps(value)}" for name, value in state.items()]
    lines += ["[sinks]", f"store = {json.dumps(sink)}"]
    lines += ["[serve]", f"runs_at_once = {runs_at_once}", f"roots = [{json.dumps(str(folder))}]"]
    (folder / "serve.toml").write_text("\n".join(lines))
    log = folder / "serve.log"
    command = [*ingest_service(), "serve", "--port", "0", "--config", str(folder / "serve.toml")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stderr=output)
    try:
        yield Service(_address(process, log), process.pid, folder)
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "serving":
                return str(event["url"])
        time.sleep(0.05)
    raise CommandFailedError(f"the service did not start:\n{log.read_text()[-2000:]}")


@dataclass
class Pollers:
    """Clients that ask again and again, by default for the list of runs, from a thread of their own."""

    url: str
    clients: int
    every_s: float
    paths: Iterator[str] = field(default_factory=lambda: repeat("/v1/runs"))
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def p99_ms(self) -> float:
        return quantiles(self.latencies_s, n=100)[98] * 1e3

    @contextmanager
    def polling(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._poll(stop)))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    async def _poll(self, stop: threading.Event) -> None:
        connector = aiohttp.TCPConnector(limit=self.clients)
        async with aiohttp.ClientSession(self.url, connector=connector) as session, asyncio.TaskGroup() as clients:
            for number in range(self.clients):
                clients.create_task(self._client(session, stop, number * self.every_s / self.clients))

    async def _client(self, session: aiohttp.ClientSession, stop: threading.Event, start_s: float) -> None:
        await asyncio.sleep(start_s)
        while not stop.is_set():
            began = time.perf_counter()
            try:
                async with session.get(next(self.paths)) as response:
                    await response.read()
                    self.failures += response.status != 200
            except aiohttp.ClientError:
                self.failures += 1
            self.latencies_s.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.0, self.every_s - (time.perf_counter() - began)))
