"""The table of items, by the id of the item: what is known of it, an attribute a field.

Written by UpdateItem, which leaves other attributes alone, where BatchWriteItem would replace the whole.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ingest_service.rows.interaction import ITEM
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.dynamodb.client import DynamoDBClient
from ingest_service.sinks.dynamodb.errors import Refused
from ingest_service.sinks.dynamodb.items import UNIT_BYTES
from ingest_service.sinks.items import Fields, ItemTable, RefusedItem
from ingest_service.sinks.pacing import RateLimit
from ingest_service.sinks.retry import Retrier


class DynamoDBItems(ItemTable):
    def __init__(
        self, client: DynamoDBClient, retrier: Retrier, table: str, capacity: RateLimit, concurrency: int
    ) -> None:
        self._client = client
        self._retrier = retrier
        self._table = table
        self._capacity = capacity  # write units a second
        self._concurrency = concurrency

    async def put(self, items: Mapping[str, Fields]) -> Mapping[str, RefusedItem]:
        refused: dict[str, RefusedItem] = {}

        async def update(item: str) -> None:
            fields = items[item]
            size_bytes = sum(len(name) + len(str(value).encode()) for name, value in fields.items()) + len(item)
            await self._capacity.take(1 + size_bytes // UNIT_BYTES)
            try:
                await self._update(
                    item,
                    "SET " + ", ".join(f"#{n} = :{n}" for n in range(len(fields))),
                    list(fields),
                    {f":{n}": _attribute(value) for n, value in enumerate(fields.values())},
                )
            except Refused as refusal:
                refused[item] = RefusedItem("refused", f"DynamoDB refuses the item ({refusal.code}).")

        await self._each(list(items), update)
        return refused

    async def get(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}

        async def read(item: str) -> None:
            reply = await self._call("get_item", item, ConsistentRead=True)
            if "Item" in reply:
                attributes = {name: one for name, one in reply["Item"].items() if name != ITEM.owner}
                found[item] = {name: one.get("S", one.get("N", one)) for name, one in attributes.items()}

        await self._each(ids, read)
        return found

    async def remove(self, ids: Sequence[str], names: Sequence[str]) -> None:
        async def clear(item: str) -> None:
            await self._update(item, "REMOVE " + ", ".join(f"#{n}" for n in range(len(names))), names, {})

        await self._each(ids, clear)

    async def _update(self, item: str, expression: str, names: Sequence[str], values: Mapping[str, Any]) -> None:
        """The names stand apart, as any may be one of DynamoDB's reserved words."""
        named = {f"#{n}": name for n, name in enumerate(names)}
        given = {"ExpressionAttributeValues": values} if values else {}
        await self._call("update_item", item, UpdateExpression=expression, ExpressionAttributeNames=named, **given)

    async def _call(self, operation: str, item: str, **parameters: Any) -> dict[str, Any]:
        key = {ITEM.owner: {"S": item}}

        async def attempt() -> dict[str, Any]:
            return await self._client.call(operation, TableName=self._table, Key=key, **parameters)

        return await self._retrier.call(attempt, moves_rows=True)

    async def _each(self, ids: Sequence[str], do: Callable[[str], Awaitable[None]]) -> None:
        """Some at a time."""
        queue = iter(ids)

        async def worker() -> None:
            for item in queue:
                await do(item)

        async with task_group() as workers:
            for _ in range(min(self._concurrency, len(ids))):
                workers.create_task(worker())


def _attribute(value: Any) -> dict[str, str]:
    return {"S": value} if isinstance(value, str) else {"N": json.dumps(value)}
