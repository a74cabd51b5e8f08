"""TLS to Redis and DynamoDB: verified, with a private authority too, and refused where it does not hold."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from ingest_service.errors import IngestError
from ingest_service.sinks.base import AnySink, Written
from ingest_service.sinks.testing.rows import chunk_of, interactions
from ingest_service.sinks.urls import sink_at
from tests.faults import TlsProxy
from tests.helpers import check, redis_sets


@pytest.fixture
async def redis_proxy(redis_db_url: str, authority: trustme.CA) -> AsyncIterator[TlsProxy]:
    async with TlsProxy(redis_db_url, authority) as proxy:
        yield proxy


@pytest.fixture
async def dynamodb_proxy(dynamodb_url: str, authority: trustme.CA) -> AsyncIterator[TlsProxy]:
    async with TlsProxy(dynamodb_url, authority) as proxy:
        yield proxy


async def attempt(sink: AnySink) -> Written:
    try:
        await sink.open()
        return await sink.store(chunk_of(interactions(300)))
    finally:
        await sink.close()


async def test_redis_is_reached_over_tls(redis_proxy: TlsProxy, redis_db_url: str, ca_file: Path) -> None:
    """With the authority named, everything goes the usual way."""
    sink = sink_at(f"rediss://127.0.0.1:{redis_proxy.port}/1?ca_file={ca_file}")
    assert await attempt(sink) == Written(300)
    assert sum(map(len, redis_sets(redis_db_url).values())) == 300


async def test_a_redis_of_an_unknown_authority_is_refused(redis_proxy: TlsProxy, redis_db_url: str) -> None:
    """Nothing is sent to a server that cannot prove its name."""
    with pytest.raises(IngestError):
        await attempt(sink_at(f"rediss://127.0.0.1:{redis_proxy.port}/1?retry_budget_s=1"))
    assert redis_sets(redis_db_url) == {}


async def test_a_redis_of_another_name_is_refused(redis_db_url: str, authority: trustme.CA, ca_file: Path) -> None:
    """A certificate of the right authority for another host is not enough."""
    async with TlsProxy(redis_db_url, authority, "elsewhere.example") as proxy:
        with pytest.raises(IngestError):
            await attempt(sink_at(f"rediss://127.0.0.1:{proxy.port}/1?ca_file={ca_file}&retry_budget_s=1"))
    assert redis_sets(redis_db_url) == {}


@pytest.mark.parametrize("transport", ["bulk", "sdk"])
async def test_dynamodb_is_reached_over_tls(
    dynamodb_proxy: TlsProxy, table: str, ca_file: Path, transport: str
) -> None:
    """Both transports trust the authority that is named."""
    url = f"dynamodb://{table}?endpoint=https://127.0.0.1:{dynamodb_proxy.port}&checkpoint_table={table}_checkpoints"
    sink = sink_at(f"{url}&transport={transport}&ca_file={ca_file}")
    try:
        await check(sink, create=True)
    finally:
        await sink.close()
    assert await attempt(sink_at(f"{url}&transport={transport}&ca_file={ca_file}")) == Written(300)


@pytest.mark.parametrize("transport", ["bulk", "sdk"])
async def test_a_dynamodb_of_an_unknown_authority_is_refused(
    dynamodb_proxy: TlsProxy, table: str, transport: str
) -> None:
    """Whatever sends the rows."""
    url = f"dynamodb://{table}?endpoint=https://127.0.0.1:{dynamodb_proxy.port}&retry_budget_s=1"
    with pytest.raises(IngestError):
        await attempt(sink_at(f"{url}&transport={transport}"))
