"""DynamoDB: the durable event history, written with BatchWriteItem.

Limits (docs.aws.amazon.com, BatchWriteItem and "Service quotas"): 25 items and 16 MB a request, 400 KB an item, no
two writes to one key in a request, hash key 1 to 2,048 bytes, range key 1 to 1,024. One breach refuses a whole request,
so they are checked before; what is refused all the same is halved until the culprit stands alone.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

import polars as pl
from pydantic import Field

from ingest_service.checkpoint import CheckpointStore
from ingest_service.chunk import Chunk, DeadRow
from ingest_service.errors import ConfigurationError, Retry, first_of
from ingest_service.models import VideoInteraction, timestamp_text
from ingest_service.pacing import AdaptiveLimit, RateLimit
from ingest_service.retry import Retrier
from ingest_service.sinks.base import EVENT_KEY, Finding, Sink, SinkOptions, Written, parse_options
from ingest_service.sinks.dynamodb_client import ConditionFailed, DynamoDBClient, Refused
from ingest_service.sinks.encode import json_strings

ITEMS_PER_REQUEST = 25
MAX_ITEM_BYTES = 400 * 1024
MAX_HASH_BYTES, MAX_RANGE_BYTES = 2048, 1024
_SLICE_ROWS = 500 * ITEMS_PER_REQUEST  # rows encoded at once: bounds the JSON text in memory
_ATTRIBUTES = ("user_id", "event_key", "video_id", "timestamp", "event_type", "device", "session_id")
_NUMBER_BYTES = 21  # the most that DynamoDB counts for a number
_ITEM_BYTES = pl.sum_horizontal(pl.col(name).str.len_bytes() + len(name) for name in _ATTRIBUTES) + (
    len("expires_at") + _NUMBER_BYTES
)
_UNIT_BYTES = 1024  # what one write capacity unit pays for
_START_CONCURRENCY = 8


class DynamoDBOptions(SinkOptions):
    endpoint: str = Field("", description="address instead of AWS's, for DynamoDB Local")
    region: str = Field("", description="instead of AWS_REGION")
    transport: Literal["bulk", "sdk"] = Field(
        "bulk", description="ready-made requests, or every one through aiobotocore"
    )
    concurrency: int = Field(32, ge=1, le=512, description="requests in flight at once, at most")
    wcu: float | None = Field(None, gt=0, description="write capacity units a second at most")
    ttl_s: int | None = Field(None, ge=1, description="sets expires_at so long after the event")
    checkpoint_table: str = Field("ingest_checkpoints", description="where checkpoints are kept")
    timeout_s: float = Field(30, gt=0, description="a request without an answer for so long is given up")
    ca_file: str = Field("", description="a file of certificates to trust, instead of the system's")


class DynamoDBSink(Sink):
    """`dynamodb://table?region=…&endpoint=…`; credentials come the way of all AWS tools."""

    scheme: ClassVar[str] = "dynamodb"
    options: DynamoDBOptions

    def __init__(self, url: str) -> None:
        parts, self.options = parse_options(url, DynamoDBOptions)
        self.table = parts.netloc
        if not self.table or parts.path.strip("/"):
            raise ConfigurationError("A DynamoDB URL names the table: dynamodb://interactions?region=eu-west-1.")
        self.name = self.options.name or self.scheme
        self.retrier = Retrier(self.name, self.options.retry_budget_s)
        self.client = DynamoDBClient(
            region=self.options.region,
            endpoint=self.options.endpoint,
            transport=self.options.transport,
            connections=self.options.concurrency,
            timeout_s=self.options.timeout_s,
            ca_file=self.options.ca_file,
        )
        self.checkpoints: CheckpointStore = _Checkpoints(self)
        self.limit = AdaptiveLimit(self.options.concurrency, _START_CONCURRENCY)
        self._rate = RateLimit(self.options.rate)
        self._capacity = RateLimit(self.options.wcu)

    async def open(self) -> None:
        await self.client.open()
        for table in (self.table, self.options.checkpoint_table):
            if not await self._is_active(table):
                raise ConfigurationError(
                    f"There is no DynamoDB table {table}; make it with: ingest-service check --create."
                )

    async def write(self, chunk: Chunk) -> Written:
        frame = await asyncio.to_thread(chunk.last_of_each_key)
        dead: list[DeadRow] = []
        for piece in frame.iter_slices(_SLICE_ROWS):
            requests = await asyncio.to_thread(self._requests, piece, chunk, dead)
            await self._send_all(requests, chunk, dead)
        merged = chunk.accepted - frame.height
        return Written(frame.height - len(dead), merged, dead)

    def _requests(self, frame: pl.DataFrame, chunk: Chunk, dead: list[DeadRow]) -> list["_Request"]:
        """The rows of a frame in requests; those that break a limit go to `dead`."""
        frame = frame.with_columns(EVENT_KEY)
        refused = _beyond_limits(frame)
        if refused:
            dead += [chunk.dead_row(row, self.name, code, reason) for row, code, reason in refused]
            frame = frame.filter(~pl.col("row").is_in([row for row, _, _ in refused]))
        items = encode(frame, self.options.ttl_s).to_list()
        rows: list[int] = frame["row"].to_list()
        units: list[int] = frame.select((_ITEM_BYTES + _UNIT_BYTES - 1) // _UNIT_BYTES).to_series().to_list()
        size = self._rate.piece(ITEMS_PER_REQUEST)
        return [
            _Request(rows[i : i + size], items[i : i + size], units[i : i + size]) for i in range(0, len(rows), size)
        ]

    async def _send_all(self, requests: list["_Request"], chunk: Chunk, dead: list[DeadRow]) -> None:
        queue = iter(requests)

        async def worker() -> None:
            for request in queue:
                await self._send(request, chunk, dead)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.options.concurrency, len(requests))):
                    workers.create_task(worker())
        except BaseExceptionGroup as group:
            raise first_of(group) from None

    async def _send(self, request: "_Request", chunk: Chunk, dead: list[DeadRow]) -> None:
        """Until every item of the request is stored or refused for good."""
        pending = request
        await self._rate.take(len(request.rows))
        await self._capacity.take(sum(request.units))

        async def attempt() -> None:
            nonlocal pending
            unprocessed = await self._post(pending)
            if unprocessed:
                left = pending.only({_key_of(write) for write in unprocessed})
                if len(left.rows) < len(pending.rows):
                    self.retrier.progressed()
                pending = left
                raise Retry("DynamoDB leaves items unprocessed", throttled=True)

        try:
            await self.retrier.call(attempt)
        except Refused as refusal:
            if len(pending.rows) == 1:
                reason = f"DynamoDB refuses the item ({refusal.code})."
                dead.append(chunk.dead_row(pending.rows[0], self.name, "refused", reason))
                return
            for half in pending.halves():
                await self._send(half, chunk, dead)

    async def _post(self, request: "_Request") -> Sequence[dict[str, Any]]:
        """One request in its slot; its answer moves the number of slots. Returns what is left unprocessed."""
        async with self.limit.slot():
            began = time.monotonic()
            try:
                unprocessed = await self.client.batch_write(request.body(self.table))
            except Retry as fault:
                if fault.throttled:
                    self.limit.throttled()
                raise
        share = len(unprocessed) / len(request.rows)
        if share:
            self.limit.throttled(share)
        else:
            self.limit.answered(time.monotonic() - began)
        return unprocessed

    async def _is_active(self, table: str) -> bool:
        async def attempt() -> bool:
            try:
                reply = await self.client.call("describe_table", TableName=table)
            except ConfigurationError as error:
                if "does not exist" in str(error):
                    return False
                raise
            if reply["Table"]["TableStatus"] not in ("ACTIVE", "UPDATING"):
                raise Retry(f"table {table} is {reply['Table']['TableStatus'].lower()}")
            types = {one["AttributeName"]: one["AttributeType"] for one in reply["Table"]["AttributeDefinitions"]}
            keys = [(one["AttributeName"], types[one["AttributeName"]]) for one in reply["Table"]["KeySchema"]]
            if keys != [(name, "S") for name in self._tables()[table]]:
                wanted = " and ".join(self._tables()[table])
                raise ConfigurationError(f"DynamoDB table {table} has other keys than {wanted}; name another table.")
            return True

        return await self.retrier.call(attempt)

    async def check(self, *, create: bool) -> list[Finding]:
        await self.client.open()
        findings = []
        for table, (hash_key, range_key) in self._tables().items():
            found = await self._is_active(table)
            detail = "is there" if found else "is missing; make it with --create"
            if not found and create:
                await self._create(table, hash_key, range_key)
                found, detail = True, "was made"
            findings.append(Finding(f"table {table}", found, detail))
        return findings

    def _tables(self) -> dict[str, tuple[str, str]]:
        return {self.table: ("user_id", "event_key"), self.options.checkpoint_table: ("stream", "sink")}

    async def _create(self, table: str, hash_key: str, range_key: str) -> None:
        async def attempt() -> None:
            await self.client.call(
                "create_table",
                TableName=table,
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in (hash_key, range_key)],
                KeySchema=[
                    {"AttributeName": hash_key, "KeyType": "HASH"},
                    {"AttributeName": range_key, "KeyType": "RANGE"},
                ],
            )

        await self.retrier.call(attempt)
        await self._is_active(table)

    def preview(self, frame: pl.DataFrame) -> list[str]:
        return [f"{self.table}: {item}" for item in encode(frame.with_columns(EVENT_KEY), self.options.ttl_s).to_list()]

    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first."""
        values = {
            ":user": {"S": str(user_id)},
            ":since": {"S": timestamp_text(since) if since else " "},
            ":until": {"S": timestamp_text(until) if until else "~"},
        }
        found: list[VideoInteraction] = []
        more: dict[str, Any] = {}
        while True:
            query = {
                "TableName": self.table,
                "ConsistentRead": True,
                "KeyConditionExpression": "user_id = :user AND event_key BETWEEN :since AND :until",
                "ExpressionAttributeValues": values,
                **more,
            }
            reply = await self.retrier.call(lambda query=query: self.client.call("query", **query))  # type: ignore[misc]
            for item in reply["Items"]:
                fields = {name: value["S"] for name, value in item.items() if "S" in value}
                found.append(VideoInteraction.model_validate(fields))
            if "LastEvaluatedKey" not in reply:
                return found
            more = {"ExclusiveStartKey": reply["LastEvaluatedKey"]}

    async def close(self) -> None:
        await self.client.close()


def encode(frame: pl.DataFrame, ttl_s: int | None) -> pl.Series:
    """Each row as a put request in DynamoDB's JSON."""
    parts: list[pl.Expr | str] = []
    for name in _ATTRIBUTES:
        parts += [pl.lit(f'"{name}":{{"S":"' if not parts else f'"}},"{name}":{{"S":"'), name]
    parts.append(pl.lit('"}'))
    if ttl_s is not None:
        expires = (pl.col("epoch_ms") // 1_000 + ttl_s).cast(pl.String)
        parts += [pl.lit(',"expires_at":{"N":"'), expires, pl.lit('"}')]
    item = pl.concat_str(pl.lit('{"PutRequest":{"Item":{'), *parts, pl.lit("}}}"))
    return json_strings(frame, "session_id").select(item).to_series()


def _beyond_limits(frame: pl.DataFrame) -> list[tuple[int, str, str]]:
    """Rows that DynamoDB would refuse, and the whole request with them: index in the chunk, code and reason."""
    hash_bytes, range_bytes = pl.col("user_id").str.len_bytes(), pl.col("event_key").str.len_bytes()
    good_key = hash_bytes.is_between(1, MAX_HASH_BYTES) & range_bytes.is_between(1, MAX_RANGE_BYTES)
    bad = frame.select("row", good_key.alias("good_key"), (_ITEM_BYTES <= MAX_ITEM_BYTES).alias("good_size"))
    bad = bad.filter(~(pl.col("good_key") & pl.col("good_size")))
    return [
        (row, "item_too_large", "The item is over DynamoDB's 400 KB.")
        if good_key
        else (row, "bad_key", "A key is empty or longer than DynamoDB takes.")
        for row, good_key, _ in bad.rows()
    ]


@dataclass(frozen=True, slots=True)
class _Request:
    """Up to 25 rows for one BatchWriteItem: their indices in the chunk, put requests in JSON, and capacity units."""

    rows: list[int]
    items: list[str]
    units: list[int]

    def body(self, table: str) -> bytes:
        return f'{{"RequestItems":{{"{table}":[{",".join(self.items)}]}}}}'.encode()

    def only(self, keys: set[tuple[str, str]]) -> "_Request":
        return self._take([i for i, item in enumerate(self.items) if _key_of(json.loads(item)) in keys])

    def halves(self) -> Sequence["_Request"]:
        middle = len(self.rows) // 2
        return self._take(range(middle)), self._take(range(middle, len(self.rows)))

    def _take(self, indices: Sequence[int]) -> "_Request":
        return _Request(
            [self.rows[i] for i in indices], [self.items[i] for i in indices], [self.units[i] for i in indices]
        )


def _key_of(write: dict[str, Any]) -> tuple[str, str]:
    item = write["PutRequest"]["Item"]
    return item["user_id"]["S"], item["event_key"]["S"]


class _Checkpoints(CheckpointStore):
    """Table `ingest_checkpoints`: hash `stream`, range `sink`, and the text in `body`."""

    def __init__(self, sink: DynamoDBSink) -> None:
        self._sink = sink

    @property
    def _table(self) -> str:
        return self._sink.options.checkpoint_table

    def _key(self, stream: str) -> dict[str, Any]:
        return {"stream": {"S": stream}, "sink": {"S": self._sink.name}}

    async def read(self, stream: str) -> str | None:
        reply = await self._sink.retrier.call(
            lambda: self._sink.client.call(
                "get_item", TableName=self._table, Key=self._key(stream), ConsistentRead=True
            )
        )
        return reply["Item"]["body"]["S"] if "Item" in reply else None

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        put: dict[str, Any] = {"TableName": self._table, "Item": {**self._key(stream), "body": {"S": new}}}
        if old is None:
            put |= {"ConditionExpression": "attribute_not_exists(body)"}
        else:
            put |= {"ConditionExpression": "body = :old", "ExpressionAttributeValues": {":old": {"S": old}}}
        try:
            await self._sink.retrier.call(lambda: self._sink.client.call("put_item", **put))
        except ConditionFailed:
            return False
        return True

    async def streams(self) -> list[str]:
        found: list[str] = []
        more: dict[str, Any] = {}
        while True:
            scan = {"TableName": self._table, "ConsistentRead": True, **more}
            reply = await self._sink.retrier.call(lambda scan=scan: self._sink.client.call("scan", **scan))  # type: ignore[misc]
            found += [item["stream"]["S"] for item in reply["Items"] if item["sink"]["S"] == self._sink.name]
            if "LastEvaluatedKey" not in reply:
                return sorted(found)
            more = {"ExclusiveStartKey": reply["LastEvaluatedKey"]}
