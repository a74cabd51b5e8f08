"""DynamoDB's tables: names, indexes, the time to live."""

import time
from typing import Any

import pytest

from ingest_service.datasets import dataset_named
from ingest_service.errors import ConfigurationError
from ingest_service.pipeline.run import examine
from ingest_service.rows.interaction import INTERACTION
from ingest_service.sinks.dynamodb.sink import DynamoDBSink
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from ingest_service.sinks.urls import sink_at
from tests.dynamo_shim import Call, DynamoShim, HttpFault, Refusal
from tests.helpers import HEADER, Cli, create_tables, dynamodb_at, dynamodb_client, opened

VALIDATION = "com.amazon.coral.validate#ValidationException"
MICROLENS = dataset_named("microlens")


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://ab",
        "dynamodb://no spaces",
        "dynamodb://a%2Fb",
        f"dynamodb://{'x' * 256}",
        "dynamodb://table:8000",
        "dynamodb://tablé",
        "dynamodb://arn:aws:dynamodb:us-east-1:123456789012:table/interactions",
        "dynamodb://interactions?checkpoint_table=a",
        "dynamodb://interactions?checkpoint_table=a/b",
    ],
)
def test_names_that_aws_refuses_are_refused(url: str) -> None:
    """Without connecting, in one sentence."""
    with pytest.raises(ConfigurationError, match="table"):
        sink_at(url)


@pytest.mark.parametrize("error", [VALIDATION, "x#SomethingNew", "x#TransactionConflictException"])
@pytest.mark.parametrize("target", ["DescribeTable", "GetItem", "PutItem", "CreateTable", "Query"])
@pytest.mark.fault(46)
async def test_no_answer_to_any_call_is_a_bug(dynamodb_url: str, table: str, target: str, error: str) -> None:
    """What AWS says that nobody foresaw is a setting to look at, whichever call it is said to."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    refusal = Refusal(400, error, "a canary value")
    async with DynamoShim(dynamodb_url, lambda call: refusal if call.target == target else None) as shim:
        sink = sink_at(dynamodb_at(shim.url, table))
        assert isinstance(sink, DynamoDBSink)
        try:
            with pytest.raises(ConfigurationError) as caught:
                if target == "CreateTable":
                    await sink.client.open()
                    await sink._tables._create(table)
                await sink.open()
                await sink.checkpoints.read("s")
                await sink.checkpoints.swap("s", None, "text")
                await sink.stored(["someone"], INTERACTION)
        finally:
            await sink.close()
    assert "canary" not in str(caught.value)


def _make_table(endpoint: str, table: str, key: str, kind: str) -> None:
    """A table with an index on one of our attributes."""
    names = {"user_id": "S", "event_key": "S", key: kind}
    with dynamodb_client(endpoint) as client:
        client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": one, "AttributeType": type_} for one, type_ in names.items()],
            KeySchema=[
                {"AttributeName": "user_id", "KeyType": "HASH"},
                {"AttributeName": "event_key", "KeyType": "RANGE"},
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "own",
                    "KeySchema": [{"AttributeName": key, "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            ],
        )


@pytest.mark.fault(47)
def test_an_index_that_takes_no_row_stops_the_run(cli: Cli, dynamodb_url: str, table: str) -> None:
    """Before a row is sent, and `check` says so too: a number where rows have a text."""
    _make_table(dynamodb_url, table, "device", "N")
    url = dynamodb_at(dynamodb_url, table)
    pairs = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    outcome = cli.run("check", "--create", "--to", url)
    assert outcome.code == 69
    assert "BAD  dynamodb  index own: its key device is a number, but rows have a text there" in outcome.stdout
    outcome = cli.run("run", pairs, "--to", url)
    assert (outcome.code, "its key device is a number" in outcome.message) == (78, True)


async def test_an_index_of_the_right_kind_is_fine(dynamodb_url: str, table: str) -> None:
    """As is one whose key the rows do not have at all: it stays empty."""
    for number, (key, kind) in enumerate([("device", "S"), ("nobody_has_it", "B"), ("expires_at", "N")]):
        _make_table(dynamodb_url, f"{table}_{number}", key, kind)
        url = dynamodb_at(dynamodb_url, f"{table}_{number}", checkpoint_table=f"{table}_checkpoints")
        await create_tables(url)
        findings = await examine(sink_at(url), MICROLENS)
        assert all(one.ok and not one.warning for one in findings), findings


async def test_the_reason_names_the_attribute(dynamodb_url: str, table: str, transport: str) -> None:
    """As AWS does, in its words; the local server leaves the name out."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    said = "Type mismatch for Index Key device Expected: N Actual: S IndexName: own"
    refusal = Refusal(400, VALIDATION, f"One or more parameter values were invalid: {said}")
    async with (
        DynamoShim(dynamodb_url, lambda call: refusal if call.target == "BatchWriteItem" else None) as shim,
        opened(dynamodb_at(shim.url, table, transport=transport)) as sink,
    ):
        written = await sink.store(chunk_of(interactions(3)))
    assert written.written == 0
    reason = "DynamoDB refuses the item (ValidationException: attribute device, wanted as N, is S)."
    assert {row.reason for row in written.dead} == {reason}


async def test_no_value_gets_into_a_reason(dynamodb_url: str, table: str, transport: str) -> None:
    """Whatever a server's text looks like, only a name of ours is taken out of it."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    texts = iter(["Type mismatch for key canary Expected: N Actual: S", "canary", "Index Key session_id is canary"])

    def refuse(call: Call) -> HttpFault | None:
        return Refusal(400, VALIDATION, next(texts)) if call.target == "BatchWriteItem" else None

    async with (
        DynamoShim(dynamodb_url, refuse) as shim,
        opened(dynamodb_at(shim.url, table, transport=transport)) as sink,
    ):
        reasons = [(await sink.store(chunk_of([interaction(i, 1)]))).dead[0].reason for i in range(3)]
    assert reasons[:2] == ["DynamoDB refuses the item (ValidationException)."] * 2
    assert reasons[2] == "DynamoDB refuses the item (ValidationException: attribute session_id)."


def _expiry_of(endpoint: str, table: str) -> dict[str, Any]:
    with dynamodb_client(endpoint) as client:
        found: dict[str, Any] = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    return found


@pytest.mark.fault(48)
async def test_check_enables_the_time_to_live(dynamodb_url: str, table: str) -> None:
    """With `ttl_s` a table whose rows would stay for ever is told of, and `--create` mends it."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    url = dynamodb_at(dynamodb_url, table, ttl_s=3600)
    (warned,) = [one for one in await examine(sink_at(url), MICROLENS) if one.warning]
    assert "time to live" in warned.what
    assert "is not enabled" in warned.detail
    found = {one.detail: one.warning for one in await examine(sink_at(url), MICROLENS, create=True)}
    assert found == {"is there": False, "was enabled on expires_at": False}
    assert _expiry_of(dynamodb_url, table)["AttributeName"] == "expires_at"
    found = {one.detail: one.warning for one in await examine(sink_at(url), MICROLENS, create=True)}
    assert found == {"is there": False, "is enabled on expires_at": False}


async def test_a_time_to_live_on_another_attribute_is_told(dynamodb_url: str, table: str) -> None:
    """It is the user's own, so it stays as it is."""
    url = dynamodb_at(dynamodb_url, table, ttl_s=3600)
    await create_tables(dynamodb_at(dynamodb_url, table))
    with dynamodb_client(dynamodb_url) as client:
        wanted = {"Enabled": True, "AttributeName": "gone_at"}
        client.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)
    findings = await examine(sink_at(url), MICROLENS, create=True)
    assert any("is on another attribute than expires_at" in one.detail and one.warning for one in findings)
    assert _expiry_of(dynamodb_url, table)["AttributeName"] == "gone_at"


@pytest.mark.parametrize("target", ["DescribeTimeToLive", "UpdateTimeToLive"])
async def test_a_time_to_live_that_may_not_be_looked_at(dynamodb_url: str, table: str, target: str) -> None:
    """Needs a right of its own: without it the user is told, and the load goes on."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    denied = Refusal(400, "com.amazon.coral.service#AccessDeniedException")
    async with DynamoShim(dynamodb_url, lambda call: denied if call.target == target else None) as shim:
        findings = await examine(sink_at(dynamodb_at(shim.url, table, ttl_s=3600)), MICROLENS, create=True)
    assert all(one.ok for one in findings)
    assert any(f"that needs dynamodb:{target}" in one.detail and one.warning for one in findings)


def test_rows_that_expire_as_they_are_written_are_told(cli: Cli, dynamodb_url: str, table: str) -> None:
    """How many there were stands in the report; they are stored, and DynamoDB deletes them when it comes to it."""
    now_ms = int(time.time() * 1_000)
    rows = [f"{user},2,{ms}" for user, ms in ((1, FIRST_MS), (2, FIRST_MS), (3, now_ms))]
    pairs = cli.file("pairs.csv", "\n".join([HEADER, *rows, ""]))
    url = dynamodb_at(dynamodb_url, table, ttl_s=3600)
    assert cli.run("check", "--create", "--to", url).code == 0
    outcome = cli.run_with(pairs, "--to", url)
    (warning,) = outcome.report["sources"][0]["sinks"]["dynamodb"]["warnings"]
    assert warning.startswith("2 rows were older than ttl_s as they were written")
    assert outcome.counts("dynamodb")["written"] == 3
