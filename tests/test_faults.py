"""The faults themselves: each does to a real server and a real client what it says."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from blockbuster import BlockingError
from botocore.exceptions import ClientError, HTTPClientError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.dynamo_shim import (
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    THROTTLED,
    THROUGHPUT_EXCEEDED,
    Call,
    Cut,
    DynamoShim,
    HttpFault,
    Refusal,
    Unprocessed,
    WrongChecksum,
)
from tests.faults import TcpProxy
from tests.servers import find_redis

# --- TcpProxy -------------------------------------------------------------------------------------


@asynccontextmanager
async def redis_client(url: str, **options: Any) -> AsyncIterator[Redis]:
    """A client with one connection and no retries of its own, so that each fault is seen once."""
    client = Redis.from_url(url, retry=Retry(NoBackoff(), 0), max_connections=1, **options)
    try:
        yield client
    finally:
        await client.aclose()


async def test_a_healthy_proxy_passes_everything(redis_db_url: str) -> None:
    """Large values go through unchanged, both ways."""
    value = bytes(range(256)) * 20_000
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url) as client:
        await client.set("key", value)
        assert await client.get("key") == value
        assert proxy.connections == 1
        assert proxy.cuts == 0


async def test_cut_reply_applies_the_whole_request(redis_db_url: str) -> None:
    """A pipeline of megabytes is applied to its end, although the client sees a lost connection."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url) as client:
        await client.ping()
        await proxy.cut_reply()
        pipeline = client.pipeline(transaction=False)
        for number in range(20_000):
            pipeline.set(f"key:{number}", b"x" * 100)
        with pytest.raises(RedisConnectionError):
            await pipeline.execute()

        assert await client.dbsize() == 20_000
        assert await client.get("key:19999") == b"x" * 100
        assert proxy.cuts == 1


async def test_cut_reply_can_pick_the_request(redis_db_url: str) -> None:
    """With `containing`, greetings and other commands get their replies, and `times` cuts are made."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url) as client:
        await proxy.cut_reply(containing=b"poison", times=2)
        await client.set("harmless", 1)
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                await client.incr("poison")
        assert await client.get("poison") == b"2"
        assert proxy.cuts == 2


async def test_one_cut_hits_one_connection(redis_db_url: str) -> None:
    """Of many connections that are busy at once, only as many as asked for are cut."""
    async with TcpProxy(redis_db_url) as proxy:
        client = Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0))
        await asyncio.gather(*(client.ping() for _ in range(8)))
        await proxy.cut_reply()
        replies = await asyncio.gather(*(client.incr("key") for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(reply, RedisConnectionError) for reply in replies) == 1
        assert await client.get("key") == b"8"
        await client.aclose()


async def test_cut_after_leaves_a_torn_request(redis_db_url: str) -> None:
    """Only the commands that are whole within the first bytes are applied."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url) as client:
        await client.ping()
        await proxy.cut_after(1000)
        pipeline = client.pipeline(transaction=False)
        for number in range(1000):
            pipeline.set(f"key:{number:04}", b"x")  # 34 bytes each
        with pytest.raises(RedisConnectionError):
            await pipeline.execute()
        assert await client.dbsize() == 1000 // 34


async def test_blackhole_is_silent_and_heals(redis_db_url: str) -> None:
    """Nothing arrives and nothing is closed; afterwards a new connection works."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url, socket_timeout=0.2) as client:
        await client.ping()
        await proxy.blackhole()
        with pytest.raises(RedisTimeoutError):
            await client.set("key", 1)
        with pytest.raises(RedisTimeoutError):
            await client.ping()
        await proxy.heal()
        assert await client.get("key") is None


async def test_healing_resets_connections_that_lost_bytes(redis_db_url: str) -> None:
    """A client that waits for a reply which was swallowed learns of it."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url, socket_timeout=None) as client:
        await client.ping()
        await proxy.blackhole()
        waiting = asyncio.ensure_future(client.set("key", 1))
        await asyncio.sleep(0.1)  # long enough for the request to vanish
        assert not waiting.done()
        await proxy.heal()
        with pytest.raises(RedisConnectionError):
            await waiting


async def test_refuse_is_a_server_that_is_down(redis_db_url: str) -> None:
    """Open connections break, new ones are refused, and the same port serves again afterwards."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url) as client:
        await client.ping()
        await proxy.refuse()
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                await client.ping()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.heal()
        assert await client.ping()


async def test_one_byte_slices_arrive_whole(redis_db_url: str) -> None:
    """Replies in pieces of one byte are put together again."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url) as client:
        await proxy.slices()
        await client.set("key", "0123456789" * 200)
        assert await client.get("key") == b"0123456789" * 200


async def test_slow_limits_the_rate(redis_db_url: str) -> None:
    """Bytes take at least their time: a lower bound, which holds on any machine."""
    async with TcpProxy(redis_db_url) as proxy, redis_client(proxy.url) as client:
        await client.ping()
        await proxy.slow(100_000)
        begin = time.monotonic()
        await client.set("key", b"x" * 50_000)
        assert time.monotonic() - begin >= 0.4
        await proxy.heal()
        assert await client.strlen("key") == 50_000


async def test_leaving_the_proxy_ends_its_connections(redis_db_url: str) -> None:
    """No task and no connection outlives it, not even in the black hole."""
    tasks = asyncio.all_tasks()
    async with redis_client(redis_db_url) as direct:
        async with TcpProxy(redis_db_url) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            await proxy.blackhole()
            writer.write(b"PING\r\n")
            await direct.ping()
        assert await reader.read() == b""
        writer.close()
    assert asyncio.all_tasks() <= tasks


# --- servers --------------------------------------------------------------------------------------


async def test_a_killed_redis_comes_back_with_its_data(tmp_path: Path) -> None:
    """With an append-only file, acknowledged writes outlive SIGKILL; the port stays the same."""
    with find_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with redis_client(server.url) as client:
            await client.set("key", "kept")
            server.kill()
            with pytest.raises(RedisConnectionError):
                await client.get("key")
            server.start()
            assert await client.get("key") == b"kept"


async def test_a_full_redis_says_so(tmp_path: Path) -> None:
    """Options reach the server."""
    with find_redis(tmp_path, "--maxmemory", "1") as server:
        async with redis_client(server.url) as client:
            with pytest.raises(OutOfMemoryError):
                await client.set("key", 1)


async def test_no_blocking_catches_a_blocking_call(no_blocking: None) -> None:
    """The fixture bites."""
    with pytest.raises(BlockingError):
        time.sleep(0)  # noqa: ASYNC251 - the very mistake


# --- DynamoShim -----------------------------------------------------------------------------------


@asynccontextmanager
async def dynamodb_client(url: str, attempts: int = 1) -> AsyncIterator[Any]:
    config = AioConfig(retries={"mode": "standard", "total_max_attempts": attempts})
    async with get_session().create_client("dynamodb", endpoint_url=url, config=config) as client:
        yield client


@pytest.fixture
async def client(dynamodb_url: str, table: str) -> AsyncIterator[Any]:
    """A client of the real server, and the table made."""
    async with dynamodb_client(dynamodb_url) as direct:
        await direct.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        await direct.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
        yield direct


def batch(table: str, count: int) -> dict[str, Any]:
    return {table: [{"PutRequest": {"Item": {"id": {"S": f"{number:02}"}}}} for number in range(count)]}


async def stored(client: Any, table: str) -> list[str]:
    reply = await client.scan(TableName=table, ConsistentRead=True)
    return sorted(item["id"]["S"] for item in reply["Items"])


async def test_a_healthy_shim_forwards_and_counts(dynamodb_url: str, client: Any, table: str) -> None:
    """botocore checks the checksum of every reply, so a wrong one would show."""
    async with DynamoShim(dynamodb_url) as shim, dynamodb_client(shim.url) as through:
        reply = await through.batch_write_item(RequestItems=batch(table, 25))
        assert reply["UnprocessedItems"] == {}
        assert await stored(through, table) == await stored(client, table)
        assert len(await stored(client, table)) == 25
        counts = shim.counts
        assert (counts.requests, counts.items, counts.largest_batch, counts.injected) == (2, 25, 25, 0)
        assert counts.targets == {"BatchWriteItem": 1, "Scan": 1}
        assert len(counts.arrivals) == counts.requests


async def test_unprocessed_items_are_left_undone(dynamodb_url: str, client: Any, table: str) -> None:
    """The picked writes come back as they were sent, the others are stored."""
    odd = Unprocessed(lambda index, _write: index % 2 == 1)
    async with DynamoShim(dynamodb_url, lambda _: odd) as shim, dynamodb_client(shim.url) as through:
        reply = await through.batch_write_item(RequestItems=batch(table, 4))
        back = [write["PutRequest"]["Item"]["id"]["S"] for write in reply["UnprocessedItems"][table]]
        assert back == ["01", "03"]
        assert await stored(client, table) == ["00", "02"]

        shim.policy = lambda _: Unprocessed()
        reply = await through.batch_write_item(RequestItems=batch(table, 25))
        assert reply["UnprocessedItems"] == batch(table, 25)
        assert await stored(client, table) == ["00", "02"]
        assert shim.counts.injected == 2


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (THROUGHPUT_EXCEEDED, "ProvisionedThroughputExceededException"),
        (THROTTLED, "ThrottlingException"),
        (INTERNAL_ERROR, "InternalServerError"),
        (EXPIRED_TOKEN, "ExpiredTokenException"),
    ],
    ids=["throughput", "throttled", "internal", "token"],
)
async def test_refusals_read_as_the_real_ones(
    dynamodb_url: str, client: Any, table: str, refusal: Refusal, code: str
) -> None:
    """botocore finds the code and the status, and nothing is stored."""
    async with DynamoShim(dynamodb_url, lambda _: refusal) as shim, dynamodb_client(shim.url) as through:
        with pytest.raises(ClientError) as caught:
            await through.batch_write_item(RequestItems=batch(table, 1))
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == refusal.status
    assert await stored(client, table) == []


@pytest.mark.parametrize(
    "fault",
    [THROTTLED, INTERNAL_ERROR, WrongChecksum(), Cut(applied=False), Cut(applied=True)],
    ids=["throttled", "internal", "checksum", "cut before", "cut after"],
)
async def test_what_botocore_survives(dynamodb_url: str, client: Any, table: str, fault: HttpFault) -> None:
    """One such fault is retried by botocore itself, which so proves that it understood it."""

    def first(call: Call) -> HttpFault | None:
        return fault if call.number == 1 else None

    async with DynamoShim(dynamodb_url, first) as shim, dynamodb_client(shim.url, attempts=2) as through:
        await through.batch_write_item(RequestItems=batch(table, 2))
        assert shim.counts.requests == 2
        assert shim.counts.injected == 1
    assert await stored(client, table) == ["00", "01"]


@pytest.mark.parametrize("applied", [False, True])
async def test_a_cut_comes_before_or_after_applying(dynamodb_url: str, client: Any, table: str, applied: bool) -> None:
    """The client sees the same lost connection; the table knows the difference."""
    cut = Cut(applied)
    async with DynamoShim(dynamodb_url, lambda _: cut) as shim, dynamodb_client(shim.url) as through:
        with pytest.raises(HTTPClientError):
            await through.batch_write_item(RequestItems=batch(table, 1))
    assert await stored(client, table) == (["00"] if applied else [])


async def test_a_policy_sees_the_request(dynamodb_url: str, client: Any, table: str) -> None:
    """Target, body and both counts; what it raises is not lost in the server."""
    calls: list[Call] = []

    def record(call: Call) -> None:
        calls.append(call)

    async with DynamoShim(dynamodb_url, record) as shim, dynamodb_client(shim.url) as through:
        await through.describe_table(TableName=table)
        await through.batch_write_item(RequestItems=batch(table, 3))
    assert [(call.number, call.nth, call.target, call.items) for call in calls] == [
        (1, 1, "DescribeTable", 0),
        (2, 1, "BatchWriteItem", 3),
    ]
    assert calls[1].body["RequestItems"] == batch(table, 3)

    def broken(_call: Call) -> None:
        raise LookupError("a mistake in a policy")

    with pytest.raises(ExceptionGroup) as caught:
        async with DynamoShim(dynamodb_url, broken) as shim, dynamodb_client(shim.url) as through:
            with pytest.raises(ClientError):
                await through.describe_table(TableName=table)
    assert caught.group_contains(LookupError)
