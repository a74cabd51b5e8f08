"""The sinks that the contract suite runs against."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ingest_service.sinks.base import Sink, sink_at
from tests.sinks.kits import KITS, Kit


@pytest_asyncio.fixture(params=KITS)
async def kit(request: pytest.FixtureRequest) -> Kit:
    """Each sink in turn, set up and empty."""
    found = KITS[request.param](request)
    await found.set_up()
    return found


@pytest_asyncio.fixture
async def sink(kit: Kit) -> AsyncIterator[Sink]:
    """The sink of the kit, open."""
    opened = sink_at(kit.url)
    await opened.open()
    yield opened
    await opened.close()
