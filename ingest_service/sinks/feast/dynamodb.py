"""Feast in DynamoDB: each owner's newest record as an item, as Feast's online store has it.

Each is a PutItem of its own, which stores the item unless a later event's is there: BatchWriteItem takes no conditions,
and reading before writing would let a load beside this one put an older row in between.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from json import dumps
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import raws
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.base import Finding, Written
from ingest_service.sinks.dynamodb.errors import ConditionFailed, Refused
from ingest_service.sinks.dynamodb.items import MAX_ITEM_BYTES, UNIT_BYTES
from ingest_service.sinks.dynamodb.table_sink import TableOptions, TableSink
from ingest_service.sinks.feast.own_form import OfView
from ingest_service.sinks.feast.values import entity_ids
from ingest_service.sinks.feast.view import Chosen, View, ViewOptions
from ingest_service.sinks.urls import parse_options

if TYPE_CHECKING:
    import polars as pl

KEY: Final = "entity_id"
_TIME, _VALUES = "event_ts", "values"
_UTC = "+00:00"
_SLICE_ROWS = 2_000  # made into requests at once: bounds their text in memory
_TOO_LARGE = ("item_too_large", "The item is over DynamoDB's 400 KB.")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Texts of UTC sort as their times do: a fraction, which follows a dot, has six digits or is left out.
_UNLESS_LATER = f"attribute_not_exists({_TIME}) OR (contains({_TIME}, :utc) AND {_TIME} <= :time)"


class FeastDynamoDBOptions(ViewOptions, TableOptions):
    """Of a view in DynamoDB."""


@dataclass(frozen=True, slots=True)
class Put:
    """A row of a chunk as the item that it becomes, in JSON; `time_us` of its event, since 1970."""

    row: int
    time_us: int
    time: str
    item: str
    n_bytes: int  # as DynamoDB counts them

    def body(self, table: str, condition: str, values: dict[str, Any]) -> bytes:
        given = f',"ExpressionAttributeValues":{dumps(values)}' if values else ""
        return (
            f'{{"TableName":"{table}","Item":{self.item},"ConditionExpression":"{condition}"{given},'
            '"ReturnValuesOnConditionCheckFailure":"ALL_OLD"}'
        ).encode()


class FeastDynamoDBSink(OfView, TableSink[Chosen]):
    """`feast+dynamodb://P.V?entity=user_id:INT64&features=a,b:FLOAT`: the table of the view V of the project P."""

    scheme: ClassVar[str] = "feast"
    takes_parts: ClassVar[bool] = False  # of two rows of one time the later one wins, whatever their keys
    options: FeastDynamoDBOptions

    def __init__(self, url: str) -> None:
        parts, options = parse_options(url, FeastDynamoDBOptions)
        if not parts.netloc or parts.path.strip("/"):
            raise ConfigurationError(
                "A URL of Feast in DynamoDB names the table, which is project.view: feast+dynamodb://shop.last_seen?…"
            )
        super().__init__(options, parts.netloc, (KEY,), part=f" {options.what}")
        self.view = View(options.entity, options.features)

    async def survey(self, columns: Columns) -> list[Finding]:
        found = self.view.check(columns)
        if self.client.warning:
            found.append(Finding("transport", True, self.client.warning, warning=True))
        return found

    # --- writing ------------------------------------------------------------------------------------

    def prepare(self, chunk: Chunk) -> Chosen:
        return self.view.chosen(chunk.columns)

    async def write(self, chunk: Chunk, prepared: Chosen) -> Written:
        rows, dead = prepared.newest, prepared.dead(chunk, self.name)
        n_unfit = len(dead)
        for first in range(0, len(rows), _SLICE_ROWS):
            some = rows[first : first + _SLICE_ROWS]
            puts = await asyncio.to_thread(lambda: list(puts_of(self.view, chunk.columns.take(some), some.tolist())))  # noqa: B023
            await self._put_all(puts, chunk, dead)
        n_written = len(rows) - (len(dead) - n_unfit)
        return Written(n_written, chunk.accepted - n_written - len(dead), dead)

    # --- reading ------------------------------------------------------------------------------------

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.feast.readback import ids_of, stored_frame

        rows: list[tuple[str, int | None, list[bytes | None]]] = []
        names = [feature.name for feature in self.view.features]
        queue = zip(users, entity_ids(self.view.entity.name, ids_of(self.view, users)), strict=True)

        async def worker() -> None:
            for user, entity in queue:
                get = {"TableName": self.table, "Key": {KEY: {"S": entity}}, "ConsistentRead": True}
                reply = await self.retrier.call(lambda get=get: self.client.call("get_item", **get), moves_rows=True)  # type: ignore[misc]
                if (item := reply.get("Item")) is not None:
                    rows.append((user, time_us_of(item.get(_TIME)), _values_of(item, names)))

        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, len(users))):
                workers.create_task(worker())
        return await asyncio.to_thread(stored_frame, rows)

    # --- on the way ---------------------------------------------------------------------------------

    async def _put_all(self, puts: Sequence[Put], chunk: Chunk, dead: list[DeadRow]) -> None:
        queue = iter(puts)

        async def worker() -> None:
            for put in queue:
                if put.n_bytes > MAX_ITEM_BYTES:
                    dead.append(chunk.dead_row(put.row, self.name, *_TOO_LARGE))
                    continue
                await self.rate.take(1)
                try:
                    await self._put(put)
                except Refused as refusal:
                    reason = f"DynamoDB refuses the item ({refusal.code})."
                    dead.append(chunk.dead_row(put.row, self.name, "refused", reason))

        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, len(puts))):
                workers.create_task(worker())

    async def _put(self, put: Put) -> None:
        """Until the item is stored, or that of a later event is there."""
        condition, values = _UNLESS_LATER, {":utc": {"S": _UTC}, ":time": {"S": put.time}}
        while True:
            body = put.body(self.table, condition, values)
            await self._capacity.take(-(-put.n_bytes // UNIT_BYTES))
            try:
                await self.retrier.call(lambda: self._send(body), moves_rows=True)  # noqa: B023
                return
            except ConditionFailed as failed:
                if failed.item is None:
                    raise ConfigurationError(
                        "The DynamoDB endpoint does not return what a condition has met; name a newer one."
                    ) from None
                there = failed.item.get(_TIME)
                if is_later(there, put.time_us):
                    return
            # Its text is of another zone, or no time at all: replaced, if it is still the same.
            condition = f"attribute_not_exists({_TIME})" if there is None else f"{_TIME} = :there"
            values = {} if there is None else {":there": there}

    async def _send(self, body: bytes) -> None:
        """One request in its slot; its answer moves the number of slots."""
        async with self.limit.slot():
            began = time.monotonic()
            try:
                await self.client.put(body)
            except Retry as later:
                if later.throttled:
                    self.limit.throttled()
                raise
        self.limit.answered(time.monotonic() - began)


def _values_of(item: dict[str, Any], names: Sequence[str]) -> list[bytes | None]:
    """Of these features, and last of all others, whose item is another one."""
    there = dict(item.get(_VALUES, {}).get("M", {}))
    found: list[bytes | None] = [there.pop(name, {}).get("B") for name in names]
    return [*found, *(name.encode() for name in sorted(there))]


def puts_of(view: View, columns: Columns, rows: Sequence[int]) -> Iterator[Put]:
    ids = entity_ids(view.entity.name, view.ids(columns))
    features = view.values(columns)
    names = [dumps(name) for name in features]
    n_name_bytes = sum(len(name.encode()) + 1 for name in features)
    for row, key, time_us, time_text, values in zip(
        rows,
        ids,
        columns.times.tolist(),
        time_texts(columns),
        zip(*map(raws, features.values()), strict=True),
        strict=True,
    ):
        told = ",".join(f'{name}:{{"B":"{b64encode(one).decode()}"}}' for name, one in zip(names, values, strict=True))
        item = f'{{"{KEY}":{{"S":"{key}"}},"{_TIME}":{{"S":"{time_text}"}},"{_VALUES}":{{"M":{{{told}}}}}}}'
        n_bytes = len(KEY) + len(key) + len(_TIME) + len(time_text) + len(_VALUES) + 3 + n_name_bytes
        yield Put(row, time_us, time_text, item, n_bytes + sum(map(len, values)))


def time_texts(columns: Columns) -> list[str]:
    """As Python writes times of UTC: microseconds only where there are some."""
    texts = np.datetime_as_string(columns.times.view("datetime64[us]"), unit="us").tolist()
    return [text.replace("T", " ").removesuffix(".000000") + _UTC for text in texts]


def time_us_of(there: Any) -> int | None:
    """Microseconds since 1970 of an attribute, None if it is no time as Feast writes it."""
    try:
        found = datetime.fromisoformat(there["S"])
    except (KeyError, TypeError, ValueError):
        return None
    return ((found if found.tzinfo else found.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def is_later(there: Any, time_us: int) -> bool:
    """Whether an attribute is a time after this one."""
    found = time_us_of(there)
    return found is not None and found > time_us
