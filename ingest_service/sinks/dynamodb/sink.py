"""DynamoDB: the durable event history, written with BatchWriteItem.

Limits (docs.aws.amazon.com, BatchWriteItem and "Service quotas"): 25 items and 16 MB a request, 400 KB an item, no
two writes to one key in a request, hash key 1 to 2,048 bytes, range key 1 to 1,024. One breach refuses a whole request,
so they are checked before; what is refused all the same is halved until the culprit stands alone.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID, uuid4

import numpy as np
from pydantic import Field

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.rows.texts import Piece, concatenate, decimals, lengths
from ingest_service.runtime import fault
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written, parse_options
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.dynamodb.client import ConditionFailed, DynamoDBClient, Refused
from ingest_service.sinks.fields import FIELDS, event_key, json_escaped, own_number_texts, own_texts
from ingest_service.sinks.pacing import AdaptiveLimit, AdaptiveRate, RateLimit
from ingest_service.sinks.retry import Retrier

if TYPE_CHECKING:
    import polars as pl

ITEMS_PER_REQUEST = 25
MAX_ITEM_BYTES = 400 * 1024
MAX_HASH_BYTES, MAX_RANGE_BYTES = 2048, 1024
_SLICE_ROWS = 200 * ITEMS_PER_REQUEST  # rows encoded at once: bounds the JSON text in memory
_NUMBER_BYTES = 21  # the most that DynamoDB counts for a number
_TOO_LARGE = ("item_too_large", "The item is over DynamoDB's 400 KB.")
_BAD_KEY = ("bad_key", "A key is empty or longer than DynamoDB takes.")
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
    is_apart: ClassVar[bool] = True  # checkpoints are in a table of their own
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
        self.place = Place(self.table, self.options.endpoint.rpartition("@")[2] or self.options.region)
        self.limit = AdaptiveLimit(self.options.concurrency, _START_CONCURRENCY)
        self._pace = AdaptiveRate()
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
        rows = spread(await asyncio.to_thread(chunk.last_of_each_key))
        dead: list[DeadRow] = []
        await self._send_all(rows, chunk, dead)
        return Written(len(rows) - len(dead), chunk.accepted - len(rows), dead)

    def _requests(self, rows: Ints, chunk: Chunk, dead: list[DeadRow]) -> list["_Request"]:
        """These rows of a chunk in requests; those that break a limit go to `dead`."""
        columns = chunk.columns.take(rows)
        item_bytes = _item_bytes(columns)
        good_key, good_size = _good_keys(columns), item_bytes <= MAX_ITEM_BYTES
        good = good_key & good_size
        if not good.all():
            for i in np.flatnonzero(~good).tolist():
                code, reason = _TOO_LARGE if good_key[i] else _BAD_KEY
                dead.append(chunk.dead_row(int(rows[i]), self.name, code, reason))
            rows, columns, item_bytes = rows[good], columns.take(np.flatnonzero(good)), item_bytes[good]
        items = encode(columns, self.options.ttl_s)
        units: list[int] = (-(-item_bytes // _UNIT_BYTES)).tolist()
        indices: list[int] = rows.tolist()
        size = self._rate.piece(ITEMS_PER_REQUEST)
        return [
            _Request(indices[i : i + size], items[i : i + size], units[i : i + size])
            for i in range(0, len(indices), size)
        ]

    async def _send_all(self, rows: Ints, chunk: Chunk, dead: list[DeadRow]) -> None:
        """Workers send requests until none is left; what is left unprocessed joins others in new requests."""
        slices = iter([rows[first : first + _SLICE_ROWS] for first in range(0, len(rows), _SLICE_ROWS)])
        fresh: deque[_Request] = deque()
        again = _Request([], [], [])
        encoding = asyncio.Lock()

        async def take() -> _Request | None:
            async with encoding:
                if not fresh and (next_rows := next(slices, None)) is not None:
                    fresh.extend(await asyncio.to_thread(self._requests, next_rows, chunk, dead))
            if not fresh or len(again.rows) >= ITEMS_PER_REQUEST:
                return again.cut(ITEMS_PER_REQUEST) if again.rows else None
            request = fresh.popleft()
            await self._rate.take(len(request.rows))
            await self._capacity.take(sum(request.units))
            return request

        async def worker() -> None:
            while (request := await take()) is not None:
                again.join(await self._send(request, chunk, dead))

        n_requests = -(-len(rows) // ITEMS_PER_REQUEST)
        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, n_requests)):
                workers.create_task(worker())

    async def _send(self, request: "_Request", chunk: Chunk, dead: list[DeadRow]) -> "_Request":
        """Until some items of the request are stored or refused for good; returns the others."""

        async def attempt() -> _Request:
            unprocessed = await self._post(request)
            if unprocessed:
                left = request.only({_key_of(write) for write in unprocessed})
                if len(left.rows) == len(request.rows):
                    raise Retry("DynamoDB leaves items unprocessed", throttled=True)
                self.retrier.throttle()
                return left
            return _Request([], [], [])

        try:
            return await self.retrier.call(attempt)
        except Refused as refusal:
            left = _Request([], [], [])
            if len(request.rows) == 1:
                reason = f"DynamoDB refuses the item ({refusal.code})."
                dead.append(chunk.dead_row(request.rows[0], self.name, "refused", reason))
                return left
            for half in request.halves():
                left.join(await self._send(half, chunk, dead))
            return left

    async def _post(self, request: "_Request") -> Sequence[dict[str, Any]]:
        """One request in its slot; its answer moves the number of slots. Returns what is left unprocessed."""
        await self._pace.take(len(request.rows))
        async with self.limit.slot():
            began = time.monotonic()
            try:
                fault.point("dynamodb-request")
                unprocessed = await self.client.batch_write(request.body(self.table))
                fault.point("dynamodb-reply")
            except Retry as later:
                if later.throttled:
                    self.limit.throttled()
                    self._pace.answered(0, len(request.rows))
                raise
        self._pace.answered(len(request.rows) - len(unprocessed), len(unprocessed))
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

    async def epoch(self) -> str:
        """The table's own id: a new table of that name has another."""
        table = (await self.retrier.call(lambda: self.client.call("describe_table", TableName=self.table)))["Table"]
        return str(table.get("TableId") or table["CreationDateTime"])

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

    def preview(self, columns: Columns) -> list[str]:
        return [f"{self.table}: {item.decode()}" for item in encode(columns, self.options.ttl_s)]

    def expected(self, frame: "pl.DataFrame") -> "pl.DataFrame":
        import polars as pl

        frame = super().expected(frame)
        if self.options.ttl_s is None:
            return frame
        expires = pl.col("epoch_ms") // 1_000 + self.options.ttl_s
        value = pl.concat_str("value", pl.lit("\x1f"), expires.cast(pl.String))
        return frame.with_columns(value, (expires <= int(time.time())).alias("expired"))

    async def stored(self, users: Sequence[str]) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA

        rows: list[tuple[str, str, str]] = []
        queue = iter(users)

        async def worker() -> None:
            for user in queue:
                rows.extend(await self._stored_of(user))

        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, len(users))):
                workers.create_task(worker())
        return await asyncio.to_thread(pl.DataFrame, rows, schema=STORED_SCHEMA, orient="row")

    async def _stored_of(self, user: str) -> list[tuple[str, str, str]]:
        """All pages of one user."""
        query: dict[str, Any] = {
            "TableName": self.table,
            "ConsistentRead": True,
            "KeyConditionExpression": "user_id = :user",
            "ExpressionAttributeValues": {":user": {"S": user}},
        }
        rows: list[tuple[str, str, str]] = []
        while True:
            reply = await self.retrier.call(lambda: self.client.call("query", **query))
            rows += [_stored_row(item) for item in reply["Items"]]
            if "LastEvaluatedKey" not in reply:
                return rows
            query["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

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

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """Two tables of its own, deleted on leaving."""
        table = f"ingest-trial-{uuid4().hex}"
        checkpoint_table = f"{table}-checkpoints"
        parts = urlsplit(url)
        query = urlencode({**dict(parse_qsl(parts.query)), "checkpoint_table": checkpoint_table})
        trial = parts._replace(netloc=table, query=query).geturl()
        sink = DynamoDBSink(trial)
        try:
            await sink.check(create=True)
            yield trial
        finally:
            for name in (table, checkpoint_table):
                await sink.retrier.call(lambda name=name: sink.client.call("delete_table", TableName=name))  # type: ignore[misc]
            await sink.close()

    async def close(self) -> None:
        await self.client.close()


def spread(rows: Ints) -> Ints:
    """The rows in an order in which the 25 of a request come from all over the chunk, and so do neighbouring requests.

    A file sorted by user would otherwise send a busy user's items to one partition at once, which takes 1,000 units a
    second. No key is there twice, so their order does not matter.
    """
    n_requests = -(-len(rows) // ITEMS_PER_REQUEST)
    order = np.arange(n_requests * ITEMS_PER_REQUEST).reshape(ITEMS_PER_REQUEST, n_requests).T.ravel()
    return rows[order[order < len(rows)]]


def _stored_row(item: dict[str, Any]) -> tuple[str, str, str]:
    """User, event key and value of an item; attributes that are not ours make it another value."""
    from ingest_service.sinks.readback import VALUE_COLUMNS, value_text

    user, event_key = item.pop("user_id")["S"], item.pop("event_key")["S"]
    texts = [str(item.pop(name, {}).get("S", "")) for name in VALUE_COLUMNS]
    expires = [str(item.pop("expires_at").get("N", ""))] if "expires_at" in item else []
    # A data set's numbers are floats; DynamoDB gives 4.0 back as 4.
    others = {name: float(one["N"]) if "N" in one else one.get("S", one) for name, one in item.items()}
    return user, event_key, "\x1f".join((value_text(texts, others), *expires))


def encode(columns: Columns, ttl_s: int | None) -> list[bytes]:
    """Each row as a put request in DynamoDB's JSON."""
    own = own_texts(columns)
    escaped = {name: json_escaped(texts) for name, texts in {"session_id": columns.texts["session_id"], **own}.items()}
    columns = replace(columns, texts={**columns.texts, **escaped})
    pieces: list[Piece] = []
    for name in (*FIELDS, *own):
        pieces += [
            f'"}},"{name}":{{"S":"'.encode() if pieces else f'{{"PutRequest":{{"Item":{{"{name}":{{"S":"'.encode()
        ]
        pieces += _values(columns, name)
    if ttl_s is not None:
        expires = decimals(columns.numbers["epoch_ms"] // 1_000 + ttl_s)
        pieces += [b'"},"expires_at":{"N":"', expires]
    for name, numbers in own_number_texts(columns).items():
        pieces += [f'"}},"{name}":{{"N":"'.encode(), numbers]
    items = concatenate([*pieces, b'"}}}}'])
    text = items.buffer.tobytes()
    ends = (items.starts + items.widths).tolist()
    return [text[start:end] for start, end in zip(items.starts.tolist(), ends, strict=True)]


def _values(columns: Columns, name: str) -> list[Piece]:
    return event_key(columns) if name == "event_key" else [columns.texts[name]]


def _item_bytes(columns: Columns) -> Ints:
    """What DynamoDB counts for each item, at most: the bytes of its names and values."""
    names = (*FIELDS, *own_texts(columns))
    values = [piece for name in names for piece in (name.encode(), *_values(columns, name))]
    values += [piece for name, texts in own_number_texts(columns).items() for piece in (name.encode(), texts)]
    return np.zeros(len(columns), np.int64) + lengths(values) + len("expires_at") + _NUMBER_BYTES


def _good_keys(columns: Columns) -> Bools:
    hash_bytes, range_bytes = lengths([columns.texts["user_id"]]), lengths(event_key(columns))
    good = np.ones(len(columns), np.bool_)
    for size, most in ((hash_bytes, MAX_HASH_BYTES), (range_bytes, MAX_RANGE_BYTES)):
        good &= (np.asarray(size) >= 1) & (np.asarray(size) <= most)
    return good


@dataclass(frozen=True, slots=True)
class _Request:
    """Up to 25 rows for one BatchWriteItem: their indices in the chunk, put requests in JSON, and capacity units."""

    rows: list[int]
    items: list[bytes]
    units: list[int]

    def body(self, table: str) -> bytes:
        return b'{"RequestItems":{"%b":[%b]}}' % (table.encode(), b",".join(self.items))

    def join(self, other: "_Request") -> None:
        self.rows.extend(other.rows)
        self.items.extend(other.items)
        self.units.extend(other.units)

    def cut(self, n: int) -> "_Request":
        """Take out the last `n` rows, or all."""
        cut = self._take(range(max(0, len(self.rows) - n), len(self.rows)))
        del self.rows[-n:], self.items[-n:], self.units[-n:]
        return cut

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
