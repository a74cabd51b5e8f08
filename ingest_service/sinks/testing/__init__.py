"""The contract of `sinks.base.Sink` as tests that every sink passes, one written elsewhere as well.

A test module of such a package says where its sink is, and takes the tests:

    from ingest_service.sinks.testing import *
    from ingest_service.sinks.testing import Kit

    class MyKit(Kit): ...

    @pytest.fixture
    def kit(tmp_path): return MyKit(tmp_path)

They need pytest and pytest-asyncio, in the mode `auto`. What a sink cannot do is skipped.
"""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("keeping", "reading", "rows", "writing")))

from collections.abc import AsyncIterator  # noqa: E402

import pytest_asyncio  # noqa: E402

from ingest_service.sinks.base import AnySink  # noqa: E402
from ingest_service.sinks.testing import keeping, reading, writing  # noqa: E402
from ingest_service.sinks.testing.kit import Kit as Kit  # noqa: E402
from ingest_service.sinks.testing.kit import Stored as Stored  # noqa: E402
from ingest_service.sinks.urls import sink_at  # noqa: E402


@pytest_asyncio.fixture
async def sink(kit: Kit) -> AsyncIterator[AnySink]:
    """The sink of the kit, open."""
    opened = sink_at(kit.url)
    await opened.open()
    yield opened
    await opened.close()


_TESTS = {
    name: test
    for module in (writing, reading, keeping)
    for name, test in vars(module).items()
    if name.startswith("test_")
}
globals().update(_TESTS)
__all__ = ["sink", *_TESTS]  # noqa: PLE0604 (they are strings)
