"""DynamoDB: what is its own, and its faults, over both transports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest_service import ingest
from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.pipeline.checkpoint import Fingerprint, Lease, decode
from ingest_service.pipeline.tracker import Watermark
from ingest_service.rows.chunk import Position
from ingest_service.sinks.base import AnySink, Written
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from ingest_service.sinks.urls import sink_at
from tests.dynamo_shim import (
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    THROTTLED,
    THROUGHPUT_EXCEEDED,
    Call,
    Cut,
    DynamoShim,
    HttpFault,
    Policy,
    Refusal,
    Unprocessed,
    WrongChecksum,
)
from tests.faults import TcpProxy
from tests.helpers import (
    HEADER,
    Cli,
    create_tables,
    dead_letters,
    dynamodb_at,
    dynamodb_client,
    dynamodb_items,
    finish,
    opened,
    plain,
    sqlite_rows,
    until,
    write_pairs,
)

SOURCE = Fingerprint("file:///pairs.csv", HEADER, None, "")


@asynccontextmanager
async def shimmed(dynamodb_url: str, table: str, **options: Any) -> AsyncIterator[tuple[AnySink, DynamoShim]]:
    """A sink whose requests pass a shim, still without a fault."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    async with DynamoShim(dynamodb_url) as shim, opened(dynamodb_at(shim.url, table, **options)) as sink:
        yield sink, shim


def writes(fault: HttpFault, first: int = 10**9) -> Policy:
    """A policy for the first so many BatchWriteItem requests."""
    return lambda call: fault if call.target == "BatchWriteItem" and call.nth <= first else None


# --- what is stored -------------------------------------------------------------------------------


async def test_expiry_is_set_only_where_asked_for(dynamodb_url: str, table: str, transport: str) -> None:
    """`expires_at` is a number, so many seconds after the event; without `ttl_s` there is none."""
    plainly = dynamodb_at(dynamodb_url, table, transport=transport)
    await create_tables(plainly)
    for url, expected in ((plainly, None), (f"{plainly}&ttl_s=90", {"N": str(FIRST_MS // 1_000 + 90)})):
        async with opened(url) as sink:
            await sink.store(chunk_of([interaction(1, 1)]))
        (item,) = dynamodb_items(dynamodb_url, table).values()
        assert item.get("expires_at") == expected


async def test_batches_are_full(dynamodb_url: str, table: str) -> None:
    """25 items a request, as many requests as that takes."""
    async with shimmed(dynamodb_url, table) as (sink, shim):
        await sink.store(chunk_of(interactions(130)))
        assert (shim.counts.targets["BatchWriteItem"], shim.counts.largest_batch) == (6, 25)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.fault(16)
async def test_an_item_of_just_400_kb_is_stored(dynamodb_url: str, table: str, transport: str) -> None:
    """Near the limit the server's answer agrees with the check before: no row is lost on either side."""
    url = dynamodb_at(dynamodb_url, table, transport=transport)
    await create_tables(url)
    rows = [interaction(i, 1, session_id="s" * (400 * 1024 - 400 + 20 * i)) for i in range(1, 25)]
    async with opened(url) as sink:
        written = await sink.store(chunk_of(rows))
    assert written.written == len(dynamodb_items(dynamodb_url, table)) > 0
    assert len(written.dead) == 24 - written.written > 0


@pytest.mark.fault(16)
async def test_the_server_refuses_one_of_a_batch(dynamodb_url: str, table: str, transport: str) -> None:
    """A ValidationException is halved until the culprit stands alone; the others land."""
    async with shimmed(dynamodb_url, table, transport=transport) as (sink, shim):
        culprit = str(interaction(3, 1).user_id)

        def refuse(call: Call) -> HttpFault | None:
            if call.target == "BatchWriteItem" and culprit in str(call.body):
                return Refusal(400, "com.amazon.coral.validate#ValidationException")
            return None

        shim.policy = refuse
        rows = [interaction(i, 1) for i in range(60)]
        written = await sink.store(chunk_of(rows))
        assert [(row.raw, row.code) for row in written.dead] == [(b"row 3", "refused")]
        assert written.written == len(dynamodb_items(dynamodb_url, table)) == 59


@pytest.mark.parametrize("url", ["dynamodb://", "dynamodb://t/x", "dynamodb://t?transport=fax", "dynamodb://t?x=1"])
def test_impossible_urls_are_refused(url: str) -> None:
    """Without connecting."""
    with pytest.raises(ConfigurationError):
        sink_at(url)


# --- faults that pass -----------------------------------------------------------------------------

PASSING: dict[str, Policy] = {
    "half unprocessed": lambda call: (
        Unprocessed(lambda index, _: index % 2 == call.nth % 2) if call.items and call.nth <= 20 else None
    ),
    "all unprocessed for a while": writes(Unprocessed(), 20),
    "throttled": writes(THROTTLED, 10),
    "throughput exceeded": writes(THROUGHPUT_EXCEEDED, 10),
    "request limit": writes(Refusal(400, "com.amazonaws.dynamodb.v20120810#RequestLimitExceeded"), 10),
    "internal error": writes(INTERNAL_ERROR, 10),
    "unavailable, not JSON": writes(Refusal(503, ""), 5),
    "expired credentials": writes(EXPIRED_TOKEN, 1),
    "cut before": writes(Cut(applied=False), 5),
    "cut after": writes(Cut(applied=True), 5),
    "damaged reply": writes(WrongChecksum(), 3),
}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.fault(4, 5, 14, 15, 17)
async def test_what_passes_is_retried(dynamodb_url: str, table: str, transport: str, name: str) -> None:
    """All rows land, none is dead, the sink counts its retries, and never more than 25 items are sent at once."""
    if (name, transport) == ("damaged reply", "sdk"):
        pytest.skip("botocore checks the CRC only in its own legacy retries")
    rows = interactions(200)
    async with shimmed(dynamodb_url, table, transport=transport) as (sink, shim):
        shim.policy = PASSING[name]
        assert await sink.store(chunk_of(rows)) == Written(200)
        assert len(dynamodb_items(dynamodb_url, table)) == 200
        assert shim.counts.injected > 0
        assert sink.retrier.retries > 0
        assert (sink.retrier.throttled > 0) == any(word in name for word in ("unproc", "throttl", "through", "limit"))
        assert shim.counts.largest_batch <= 25


@pytest.mark.fault(14)
async def test_only_unprocessed_items_are_sent_again(dynamodb_url: str, table: str, transport: str) -> None:
    """A request that comes back with one item undone is followed by one with that item alone."""
    async with shimmed(dynamodb_url, table, transport=transport) as (sink, shim):
        shim.policy = writes(Unprocessed(lambda index, _: index == 7), 1)
        assert await sink.store(chunk_of(interactions(25))) == Written(25)
        assert (shim.counts.targets["BatchWriteItem"], shim.counts.items) == (2, 26)


@pytest.mark.parametrize(
    "fault", [THROTTLED, INTERNAL_ERROR, Cut(applied=False), Cut(applied=True), WrongChecksum()], ids=str
)
@pytest.mark.fault(4, 5, 15)
async def test_checkpoints_survive_faults(dynamodb_url: str, table: str, fault: HttpFault) -> None:
    """A swap whose request or reply was lost is made once; a lease knows its own text and goes on."""
    async with shimmed(dynamodb_url, table) as (sink, shim):
        shim.policy = lambda call: fault if call.target == "PutItem" and call.nth <= 2 else None
        lease = Lease(sink.checkpoints, "stream", sink.name)
        await lease.acquire(SOURCE, Watermark(Position()), restart=False)
        await lease.save(SOURCE, Watermark(Position(10, 1, 1)), complete=True, release=True)
        text = await sink.checkpoints.read("stream")
        assert text is not None
        assert decode(text, "stream", sink.name).watermark.position.offset == 10


@pytest.mark.parametrize("fault", [Unprocessed(), THROTTLED, INTERNAL_ERROR, Cut(applied=False)], ids=str)
@pytest.mark.fault(14, 15)
async def test_the_budget_ends(dynamodb_url: str, table: str, transport: str, fault: HttpFault) -> None:
    """What never passes is given up, in one sentence, with jittered pauses between the tries."""
    async with shimmed(dynamodb_url, table, transport=transport, retry_budget_s=0.5) as (sink, shim):
        shim.policy = writes(fault)
        with pytest.raises(SinkUnavailable) as caught:
            await sink.store(chunk_of(interactions(10)))
        assert "dynamodb did not recover within 0.5 s" in str(caught.value)
        assert 3 <= shim.counts.targets["BatchWriteItem"] < 50


@pytest.mark.fault(6)
async def test_a_half_open_connection_is_given_up(dynamodb_url: str, table: str, transport: str) -> None:
    """A request without an answer for `timeout_s` is sent again."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    async with (
        TcpProxy(dynamodb_url) as proxy,
        opened(dynamodb_at(proxy.url, table, transport=transport, timeout_s=0.5)) as sink,
    ):
        await proxy.blackhole()
        writing = asyncio.create_task(sink.store(chunk_of(interactions(60))))
        await until(lambda: sink.retrier.retries >= 2)
        await proxy.heal()
        assert await writing == Written(60)


@pytest.mark.parametrize("error", ["AccessDeniedException", "UnrecognizedClientException", "ResourceNotFoundException"])
async def test_what_must_be_fixed_ends_the_run(dynamodb_url: str, table: str, tmp_path: Path, error: str) -> None:
    """A missing right, key or table is a ConfigurationError: not retried, and no row is dead."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    path = tmp_path / "pairs.csv"
    path.write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
    async with DynamoShim(dynamodb_url, writes(Refusal(400, error))) as shim:
        with pytest.raises(ConfigurationError):
            await ingest(path, to=[dynamodb_at(shim.url, table)], state_dir=tmp_path)
        assert shim.counts.targets["BatchWriteItem"] == 1
    assert dead_letters(tmp_path) == []


async def test_a_table_with_other_keys_is_refused(dynamodb_url: str, table: str) -> None:
    """Before any row is sent: else every row would be one that DynamoDB refuses."""
    with dynamodb_client(dynamodb_url) as client:
        client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
    sink = sink_at(dynamodb_at(dynamodb_url, table))
    try:
        with pytest.raises(ConfigurationError, match="has other keys than user_id and event_key"):
            await sink.open()
    finally:
        await sink.close()


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("heals", [True, False])
@pytest.mark.fault(15)
async def test_a_throttled_run(dynamodb_url: str, table: str, tmp_path: Path, heals: bool) -> None:
    """Throttled to nothing in its middle a run waits, or exits 69 after the budget; the next one ends it."""
    cli = Cli(tmp_path)
    pairs = write_pairs(tmp_path / "pairs.csv", 1_000, blocks=3)
    await asyncio.to_thread(cli.run_with, pairs.path)
    await create_tables(dynamodb_at(dynamodb_url, table))
    async with DynamoShim(dynamodb_url) as shim:
        shim.policy = lambda call: THROTTLED if call.items and 20 < call.nth < (60 if heals else 10**9) else None
        budget_s = 30 if heals else 0.5
        url = dynamodb_at(shim.url, table, retry_budget_s=budget_s)
        outcome = await asyncio.to_thread(finish, cli.start("run", pairs.path, "--json", "--to", url))
    if heals:
        assert outcome.code == 0, outcome.stderr
        assert outcome.report["sources"][0]["sinks"]["dynamodb"]["throttled"] > 0
    else:
        assert (outcome.code, "did not recover within 0.5 s" in outcome.message) == (69, True)
    await asyncio.to_thread(cli.run_with, pairs.path, "--to", dynamodb_at(dynamodb_url, table))
    assert plain(dynamodb_items(dynamodb_url, table)) == sqlite_rows(tmp_path / "interactions.db")
    assert len(cli.dead_letters) == len(pairs.bad)
