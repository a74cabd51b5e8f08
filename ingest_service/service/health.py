"""How the sinks and the store are: looked at when somebody asks, one look at a time, remembered for some seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from ingest_service.audit.status import status_of
from ingest_service.errors import IngestError, LocalIOError
from ingest_service.pipeline.run import EXAMINE_S, examine
from ingest_service.service.runs import Runs
from ingest_service.sinks.base import Finding
from ingest_service.sinks.urls import sink_at, split_url

_FRESH_S = 5.0
_LOOK_S = EXAMINE_S + 1  # less than Prometheus and the probes of Kubernetes wait for an answer
T = TypeVar("T")


class Cached(Generic[T]):
    """The answer to a question that costs something. Those who ask meanwhile wait for the one that is on its way."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._until = 0.0
        self.last: T | None = None

    async def get(self) -> T:
        async with self._asking:
            if self.last is None or time.monotonic() >= self._until:
                self.last = await self._ask()
                self._until = time.monotonic() + _FRESH_S
            return self.last


class Health:
    """The sinks of the service, by name, and its runs; `folder` is where checkpoints are, if not in the sinks."""

    def __init__(self, urls: Mapping[str, str], folder: Path | None, runs: Runs) -> None:
        self._runs = runs
        self._urls = urls
        self._folder = folder
        self.sinks = Cached(self._look_at_sinks)
        self.checkpoints = Cached(self._look_at_checkpoints)
        self.store = Cached(self._look_at_store)

    async def _look_at_sinks(self) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(self._look_at(name, url) for name, url in sorted(self._urls.items()))))

    async def _look_at(self, name: str, url: str) -> dict[str, Any]:
        sink = await asyncio.to_thread(sink_at, url)
        try:
            async with asyncio.timeout(_LOOK_S):  # a sink that says nothing would be waited for as long as a run waits
                findings = await examine(sink)
        except TimeoutError:
            findings = [Finding("connection", False, f"{name} says nothing for {_LOOK_S:g} s.")]
        return {
            "name": name,
            "kind": split_url(url).scheme,
            "healthy": all(finding.ok for finding in findings),
            "findings": [{"what": one.what, "ok": one.ok, "detail": one.detail} for one in findings],
        }

    async def _look_at_store(self) -> str:
        """Why no run can be stored, or nothing."""
        try:
            async with asyncio.timeout(_LOOK_S):
                await asyncio.shield(self._runs.change(self._runs.probe))
        except LocalIOError as error:
            return str(error)
        except TimeoutError:
            return f"The disk of the state folder says nothing for {_LOOK_S:g} s."
        return ""

    async def _look_at_checkpoints(self) -> dict[str, Any]:
        """Those of all sinks; a sink that cannot be read is named with its reason."""
        lines: list[dict[str, Any]] = []
        unreadable = []
        for name, url in sorted(self._urls.items()):
            sink = await asyncio.to_thread(sink_at, url)
            sink.retrier.budget_s = min(sink.retrier.budget_s, EXAMINE_S)
            try:
                lines += [{**line, "sink": name} for line in await status_of(sink, self._folder, None)]
            except IngestError as error:
                unreadable.append({"sink": name, "reason": str(error)})
        return {"checkpoints": lines, "unreadable": unreadable}
