"""Each alert fires at its fault, provoked on a real service, and none without: see `alerts.fire`."""

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest_asyncio

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.deploy.alerts import Scrape, about, fire, scraped, series_of
from tests.dynamo_shim import DynamoShim, Unprocessed
from tests.faults import TcpProxy
from tests.helpers import HEADER, create_tables, dynamodb_at
from tests.service.conftest import Service

MEMORY_MB = 182
CONFIG = f"""
to = ["local"]
memory_mb = {MEMORY_MB}
max_rejects = "10%"

[sinks]
local = "sqlite:///local.db?rate=200000"
wide = "{{recent}}?consumers=16&rate=10000"
recent = "{{recent}}?retry_budget_s=600"
history = "{{history}}"

[serve]
runs_at_once = 2
roots = ["."]

[[serve.inbox]]
name = "files"
url = "{{inbox}}"
"""


@dataclass
class World:
    """A service whose sinks can be made to fail."""

    service: Service
    redis: TcpProxy
    dynamodb: DynamoShim
    fires: Callable[..., None]

    async def scrape(self) -> Scrape:
        return scraped(await asyncio.to_thread(self.service.get, "/metrics"))

    async def scrape_until(self, series: str, value: float) -> Scrape:
        while (found := await self.scrape())[series] != value:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
        return found

    async def submit(self, name: str, rows: list[str], **wanted: Any) -> dict[str, Any]:
        path = self.service.folder / name
        await asyncio.to_thread(path.write_text, "\n".join([HEADER, *rows, ""]))
        return await asyncio.to_thread(self.service.submit, name, **wanted)

    async def two_scrapes(self, run: dict[str, Any], number: Callable[[dict[str, Any]], float]) -> list[Scrape]:
        """One once that number of its progress is there, and one when it has risen; of this run and the service."""
        first = await self.progressed(run, lambda event: number(event) > 0)
        before = await self.scrape()
        seen = await self.progressed(run, lambda event: number(event) >= number(first))  # as late as the scrape
        await self.progressed(run, lambda event: number(event) > number(seen))
        return [about(run, before), about(run, await self.scrape())]

    async def ended(self, run: dict[str, Any], *states: str) -> dict[str, Any]:
        return await asyncio.to_thread(self.service.until, run, *states)

    async def progressed(self, run: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first progress event of the run that is like that."""
        return await asyncio.to_thread(
            self.service.until_event, run, lambda name, data: name == "progress" and wanted(data)
        )


@pytest_asyncio.fixture
async def world(
    tmp_path: Path, redis_db_url: str, dynamodb_url: str, table: str, promtool: str
) -> AsyncIterator[World]:
    folder = tmp_path / "service"
    (folder / "inbox").mkdir(parents=True)
    async with TcpProxy(redis_db_url) as proxy, DynamoShim(dynamodb_url) as shim:
        history = dynamodb_at(shim.url, table)
        await create_tables(history)
        service = Service(folder)
        config = CONFIG.format(recent=proxy.url, history=history, inbox=folder / "inbox")
        try:
            await asyncio.to_thread(service.start, config)
            yield World(service, proxy, shim, partial(fire, promtool, tmp_path))
        finally:
            service.close()


def rows(n: int, first: int = 0) -> list[str]:
    return [f"{number},1,{FIRST_MS}" for number in range(first, first + n)]


async def test_alerts_fire_at_their_faults(world: World) -> None:
    """One after the other, each beside what was so before it."""
    quiet = await world.scrape()
    await world.ended(await world.submit("good.csv", rows(100)), "done")
    healthy = await world.scrape()
    world.fires(quiet, healthy, alerts=set())
    world.fires(healthy, {series_of("up"): 0.0}, alerts={"IngestServiceDown"})

    await world.ended(await world.submit("some-bad.csv", [*rows(100), "bad"]), "done")
    refused = await world.scrape()
    world.fires(healthy, refused, alerts={"IngestDeadLettersGrow"})

    await world.ended(await world.submit("all-bad.csv", ["bad"] * 50), "failed")
    failed = await world.scrape()
    world.fires(refused, failed, alerts={"IngestRunFailed"})

    state = world.service.folder / ".ingest"
    limits = resource.prlimit(world.service.pid, resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in state.iterdir() if path.is_file())
    resource.prlimit(world.service.pid, resource.RLIMIT_FSIZE, (largest, limits[1]))  # no file may grow
    full = await world.scrape_until(series_of("ingest_store_up"), 0)
    world.fires(failed, full, alerts={"IngestStoreDown"})
    resource.prlimit(world.service.pid, resource.RLIMIT_FSIZE, limits)
    await world.scrape_until(series_of("ingest_store_up"), 1)

    (world.service.folder / "inbox").rmdir()
    unreadable = await world.scrape_until(series_of("ingest_inbox_up", inbox="files"), 0)
    world.fires(failed, unreadable, alerts={"IngestInboxUnreadable"})


async def test_alerts_fire_while_runs_are_at_work(world: World) -> None:
    """A run that takes too much; a sink that throttles, one that goes silent in a run, and what waits for both."""
    quiet = await world.scrape()
    wide = await world.submit("wide.csv", rows(1_000_000), sinks=["wide"])
    await world.progressed(wide, lambda event: event["rss_mb"] > 1.05 * MEMORY_MB)
    world.fires(quiet, await world.scrape(), alerts={"IngestMemoryHigh"}, after_s=120)
    await asyncio.to_thread(world.service.ask, "POST", f"/v1/runs/{wide['id']}/cancel")
    await world.ended(wide, "cancelled")

    world.dynamodb.policy = lambda call: Unprocessed(lambda index, _: index > 0) if call.items else None
    quiet = await world.scrape()
    throttled = await world.submit("throttled.csv", rows(50_000), sinks=["history"])
    two = await world.two_scrapes(throttled, lambda event: event["sinks"]["history"]["throttled"])
    stands = "IngestWatermarkStands"  # a chunk of which so little is taken at a time is not settled either
    world.fires(quiet, *two, alerts={"IngestThrottled", stands})

    silent = await world.submit("silent.csv", rows(400_000), sinks=["recent"])
    await world.progressed(silent, lambda event: event["rows_read"] > 0)
    await world.redis.blackhole()
    first = await world.scrape()
    later = await world.scrape_until(series_of("ingest_sink_up", sink="recent"), 0)
    two = [about(silent, first), about(silent, later)]
    world.fires(quiet, *two, alerts={"IngestSinkDown", stands})
    (recent,) = (sink for sink in (await asyncio.to_thread(world.service.get, "/v1/sinks"))["sinks"]
                 if sink["name"] == "recent")  # fmt: skip
    assert recent["findings"][0]["detail"].startswith("recent did not recover within")

    waiting = await world.submit("waiting.csv", rows(1))
    with sqlite3.connect(world.service.folder / ".ingest" / "service.db") as db:
        db.execute("UPDATE runs SET created_at = '2020-01-01T00:00:00+00:00' WHERE number = ?", (waiting["id"],))
    db.close()
    world.fires(
        about(waiting, two[-1]), about(waiting, await world.scrape()), alerts={"IngestSinkDown", "IngestQueueOld"}
    )
