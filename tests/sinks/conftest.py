"""The sinks that the contract suite runs against."""

import pytest
import pytest_asyncio

from ingest_service.sinks.testing import Kit
from tests.sinks.kits import KITS


@pytest_asyncio.fixture(params=KITS)
async def kit(request: pytest.FixtureRequest) -> Kit:
    """Each sink in turn, set up and empty."""
    found = KITS[request.param](request)
    await found.set_up()
    return found


@pytest.fixture(params=["bulk", "sdk"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each way in which DynamoDB is spoken to."""
    found: str = request.param
    return found
