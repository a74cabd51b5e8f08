"""DynamoDB: the durable event history, written with BatchWriteItem.

One breach of its limits refuses a whole request, so they are checked before (`dynamodb_items`); what is refused all the
same is halved until the culprit stands alone.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID, uuid4

import numpy as np
from pydantic import Field

from ingest_service.errors import ConfigurationError, Retry, declare_codes
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import ITEM, VideoInteraction, timestamp_text
from ingest_service.rows.schema import FieldKind, Schema
from ingest_service.rows.texts import concatenate
from ingest_service.runtime import fault
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.base import Finding, Written
from ingest_service.sinks.dynamodb.errors import Refused
from ingest_service.sinks.dynamodb.item_table import DynamoDBItems
from ingest_service.sinks.dynamodb.items import (
    EXPIRES_AT,
    ITEMS_PER_REQUEST,
    MAX_ITEM_BYTES,
    UNIT_BYTES,
    Request,
    encode,
    expiry_s,
    good_keys,
    good_numbers,
    item_bytes,
    key_of,
    kinds,
    spread,
)
from ingest_service.sinks.dynamodb.table_sink import TableOptions, TableSink, require_names
from ingest_service.sinks.dynamodb.tables import ROW_KEYS
from ingest_service.sinks.fields import EVENT_KEY, event_key, interaction_of
from ingest_service.sinks.pacing import AdaptiveRate
from ingest_service.sinks.sizes import Tally
from ingest_service.sinks.urls import parse_options

if TYPE_CHECKING:
    import polars as pl

fault.declare(
    {
        "dynamodb-request": "a batch is about to be sent to DynamoDB",
        "dynamodb-reply": "DynamoDB has acknowledged a batch",
    }
)
declare_codes(
    {
        "item_too_large": "larger than the sink takes",
        "bad_key": "a key that the sink does not take",
        "refused": "the sink refused the row for a reason of its own",
    }
)

_SLICE_ROWS = 200 * ITEMS_PER_REQUEST  # rows encoded at once: bounds the JSON text in memory
_TOO_LARGE = ("item_too_large", "The item is over DynamoDB's 400 KB.")
_BAD_KEY = ("bad_key", "A key is empty or longer than DynamoDB takes.")
_BAD_NUMBER = ("refused", "A number is larger or smaller than DynamoDB takes.")
_EXPIRED = (
    "rows were older than ttl_s as they were written: DynamoDB deletes them soon, where its time to live is enabled"
)


class DynamoDBOptions(TableOptions):
    ttl_s: int | None = Field(None, ge=1, description="sets expires_at so long after the event")
    item_table: str = Field("items", description="where what is known of items goes")


class DynamoDBSink(TableSink[Ints]):
    """`dynamodb://table?region=…&endpoint=…`; credentials come the way of all AWS tools."""

    scheme: ClassVar[str] = "dynamodb"
    options: DynamoDBOptions

    def __init__(self, url: str, *, is_for_items: bool = False) -> None:
        """is_for_items: whether its table is that of the items."""
        parts, options = parse_options(url, DynamoDBOptions)
        self._url = url
        self._is_for_items = is_for_items
        if not parts.netloc or parts.path.strip("/"):
            raise ConfigurationError("A DynamoDB URL names the table: dynamodb://interactions?region=eu-west-1.")
        require_names(options.item_table)
        table, keys = (options.item_table, (ITEM.owner,)) if is_for_items else (parts.netloc, ROW_KEYS)
        super().__init__(options, table, keys, expires=options.ttl_s is not None and not is_for_items)
        self._n_expired = 0
        self._pace = AdaptiveRate()
        self.items = DynamoDBItems(
            self.client, self.retrier, self.options.item_table, self._capacity, self.options.concurrency
        )

    def for_items(self) -> "DynamoDBSink":
        return DynamoDBSink(self._url, is_for_items=True)

    def prepare(self, chunk: Chunk) -> Ints:
        """The rows to store, each request's from all over the chunk."""
        return spread(chunk.last_of_each_key())

    async def write(self, chunk: Chunk, prepared: Ints) -> Written:
        rows = prepared
        dead: list[DeadRow] = []
        await self._send_all(rows, chunk, dead)
        return Written(len(rows) - len(dead), chunk.accepted - len(rows), dead)

    def fitting(self, rows: Ints, chunk: Chunk, dead: list[DeadRow]) -> tuple[Ints, Columns]:
        """Of these rows of a chunk those that are within DynamoDB's limits; the others go to `dead`."""
        columns = chunk.columns.take(rows)
        checks = (
            (good_keys(columns), _BAD_KEY),
            (item_bytes(columns) <= MAX_ITEM_BYTES, _TOO_LARGE),
            (good_numbers(columns), _BAD_NUMBER),
        )
        good = np.logical_and.reduce([fits for fits, _ in checks])
        if not good.all():
            for i in np.flatnonzero(~good).tolist():
                code, reason = next(why for fits, why in checks if not fits[i])
                dead.append(chunk.dead_row(int(rows[i]), self.name, code, reason))
            rows, columns = rows[good], columns.take(np.flatnonzero(good))
        self._note_expired(columns)
        return rows, columns

    def _requests(self, rows: Ints, chunk: Chunk, dead: list[DeadRow]) -> list["Request"]:
        """These rows of a chunk in requests; those that break a limit go to `dead`."""
        rows, columns = self.fitting(rows, chunk, dead)
        units = -(-item_bytes(columns) // UNIT_BYTES)
        text, ends = encode(columns, self.options.ttl_s)
        return Request.several(rows, units, text, ends, self.rate.piece(ITEMS_PER_REQUEST))

    def _note_expired(self, columns: Columns) -> None:
        """Say of rows that are written only to be deleted that they are."""
        if self.options.ttl_s is None:
            return
        self._n_expired += int((expiry_s(columns, self.options.ttl_s) <= int(time.time())).sum())
        if self._n_expired:
            self.warnings[:] = [text for text in self.warnings if not text.endswith(_EXPIRED)]
            self.warnings.append(f"{self._n_expired:,} {_EXPIRED}")

    async def _send_all(self, rows: Ints, chunk: Chunk, dead: list[DeadRow]) -> None:
        """Workers send requests until none is left; what is left unprocessed joins others in new requests."""
        slices = iter([rows[first : first + _SLICE_ROWS] for first in range(0, len(rows), _SLICE_ROWS)])
        fresh: deque[Request] = deque()
        again = Request()
        encoding = asyncio.Lock()

        async def take() -> Request | None:
            if not fresh:
                async with encoding:
                    if not fresh and (next_rows := next(slices, None)) is not None:
                        fresh.extend(await asyncio.to_thread(self._requests, next_rows, chunk, dead))
            if not fresh or len(again.rows) >= ITEMS_PER_REQUEST:
                return again.cut(ITEMS_PER_REQUEST) if again.rows else None
            request = fresh.popleft()
            await self.rate.take(len(request.rows))
            await self._capacity.take(sum(request.units))
            return request

        async def worker() -> None:
            while (request := await take()) is not None:
                again.join(await self._send(request, chunk, dead))

        n_requests = -(-len(rows) // ITEMS_PER_REQUEST)
        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, n_requests)):
                workers.create_task(worker())

    async def _send(self, request: "Request", chunk: Chunk, dead: list[DeadRow]) -> "Request":
        """Until some items of the request are stored or refused for good; returns the others."""

        async def attempt() -> Request:
            unprocessed = await self._post(request)
            if unprocessed:
                left = request.only({key_of(write) for write in unprocessed})
                if len(left.rows) == len(request.rows):
                    raise Retry("DynamoDB leaves items unprocessed", throttled=True)
                self.retrier.throttle()
                return left
            return Request()

        try:
            return await self.retrier.call(attempt, moves_rows=True)
        except Refused as refusal:
            left = Request()
            if len(request.rows) == 1:
                dead.append(chunk.dead_row(request.rows[0], self.name, "refused", self._reason(refusal, chunk)))
                return left
            for half in request.halves():
                left.join(await self._send(half, chunk, dead))
            return left

    def _reason(self, refusal: Refused, chunk: Chunk) -> str:
        """Names an attribute only if it is one of ours, so that nothing else of the server's text can show."""
        named = refusal.attribute in kinds(chunk.columns.schema, self.options.ttl_s)
        about = f": attribute {refusal.attribute}{refusal.types}" if named else ""
        return f"DynamoDB refuses the item ({refusal.code}{about})."

    async def _post(self, request: "Request") -> Sequence[dict[str, Any]]:
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

    async def remove(self, columns: Columns) -> None:
        users, keys = columns.texts[columns.schema.owner].to_list(), concatenate(event_key(columns)).to_list()
        for user, key in zip(users, keys, strict=True):
            item = {"user_id": {"S": user}, "event_key": {"S": key}}
            await self.retrier.call(lambda item=item: self.client.call("delete_item", TableName=self.table, Key=item))  # type: ignore[misc]

    async def survey(self, columns: Columns) -> list[Finding]:
        findings = await self._tables.survey(kinds(columns.schema, self.options.ttl_s))
        if self.client.warning:
            findings.append(Finding("transport", True, self.client.warning, warning=True))
        return findings

    def tally(self, prices: Path | None) -> Tally:
        from ingest_service.sinks.dynamodb.sizes import DynamoDBTally

        return DynamoDBTally(self.options.ttl_s, self.options.wcu, prices)

    def preview(self, columns: Columns) -> list[str]:
        text, ends = encode(columns, self.options.ttl_s)
        starts = np.append(0, ends[:-1]) + 1
        return [f"{self.table}: {text[start:end].decode()}" for start, end in zip(starts, ends, strict=True)]

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import all_expected

        frame = all_expected(frame, schema)
        if self.options.ttl_s is None:
            return frame
        expires = pl.col("epoch_ms") // 1_000 + self.options.ttl_s
        value = pl.concat_str("value", pl.lit("\x1f"), expires.cast(pl.String))
        return frame.with_columns(value, (expires <= int(time.time())).alias("expired"))

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA

        rows: list[tuple[str, str, str]] = []
        queue = iter(users)

        async def worker() -> None:
            for user in queue:
                rows.extend(await self._stored_of(user, schema))

        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, len(users))):
                workers.create_task(worker())
        return await asyncio.to_thread(pl.DataFrame, rows, schema=STORED_SCHEMA, orient="row")

    async def _stored_of(self, user: str, schema: Schema) -> list[tuple[str, str, str]]:
        """All pages of one user."""
        query: dict[str, Any] = {
            "TableName": self.table,
            "ConsistentRead": True,
            "KeyConditionExpression": "user_id = :user",
            "ExpressionAttributeValues": {":user": {"S": user}},
        }
        rows: list[tuple[str, str, str]] = []
        while True:
            reply = await self.retrier.call(lambda: self.client.call("query", **query), moves_rows=True)
            rows += [_stored_row(item, schema) for item in reply["Items"]]
            if "LastEvaluatedKey" not in reply:
                return rows
            query["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None, limit: int | None = None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first, or so many of them."""
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
                **({} if limit is None else {"Limit": limit - len(found)}),
                **more,
            }
            reply = await self.retrier.call(lambda query=query: self.client.call("query", **query))  # type: ignore[misc]
            for item in reply["Items"]:
                item.pop(EXPIRES_AT, None)
                found.append(interaction_of({name: _value(one, is_float=False) for name, one in item.items()}))
            if "LastEvaluatedKey" not in reply or len(found) == limit:
                return found
            more = {"ExclusiveStartKey": reply["LastEvaluatedKey"]}

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """Two tables of its own, deleted on leaving."""
        name = f"ingest-trial-{uuid4().hex}"
        own = {"item_table": f"{name}-items", "checkpoint_table": f"{name}-checkpoints"}
        parts = urlsplit(url)
        query = urlencode({**dict(parse_qsl(parts.query)), **own})
        trial = parts._replace(netloc=name, query=query).geturl()
        sink = DynamoDBSink(trial, is_for_items=self._is_for_items)
        try:
            await sink.check(create=True)
            yield trial
        finally:
            for name in (sink.table, sink.options.checkpoint_table):
                await sink.retrier.call(lambda name=name: sink.client.call("delete_table", TableName=name))  # type: ignore[misc]
            await sink.close()


def _stored_row(item: dict[str, Any], schema: Schema) -> tuple[str, str, str]:
    """User, event key and value of an item; attributes that are not ours make it another value."""
    from ingest_service.sinks.readback import value_text

    user, event_key = item.pop("user_id")["S"], item.pop(EVENT_KEY)["S"]
    expires = [str(item.pop(EXPIRES_AT).get("N", ""))] if EXPIRES_AT in item else []
    floats = {field.name for field in schema.fields if field.kind is FieldKind.FLOAT}
    fields = {name: _value(one, is_float=name in floats) for name, one in item.items()}
    return user, event_key, "\x1f".join((value_text(schema, fields), *expires))


def _value(attribute: dict[str, Any], *, is_float: bool) -> Any:
    """DynamoDB gives 4.0 back as 4."""
    if "N" in attribute:
        return float(attribute["N"]) if is_float else json.loads(attribute["N"])
    return attribute.get("S", attribute)
