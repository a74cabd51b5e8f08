"""Checkpoints as items of a table of their own, by stream and sink."""

from typing import Any

from ingest_service.sinks.checkpoints import CheckpointStore
from ingest_service.sinks.dynamodb.client import DynamoDBClient
from ingest_service.sinks.dynamodb.errors import ConditionFailed
from ingest_service.sinks.retry import Retrier


class DynamoDBCheckpoints(CheckpointStore):
    """Table `ingest_checkpoints`: hash `stream`, range `sink`, and the text in `body`."""

    def __init__(self, client: DynamoDBClient, retrier: Retrier, table: str, sink: str) -> None:
        self._client = client
        self._retrier = retrier
        self._table = table
        self._sink = sink

    def _key(self, stream: str) -> dict[str, Any]:
        return {"stream": {"S": stream}, "sink": {"S": self._sink}}

    async def read(self, stream: str) -> str | None:
        reply = await self._retrier.call(
            lambda: self._client.call("get_item", TableName=self._table, Key=self._key(stream), ConsistentRead=True)
        )
        return reply["Item"]["body"]["S"] if "Item" in reply else None

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        put: dict[str, Any] = {"TableName": self._table, "Item": {**self._key(stream), "body": {"S": new}}}
        if old is None:
            put |= {"ConditionExpression": "attribute_not_exists(body)"}
        else:
            put |= {"ConditionExpression": "body = :old", "ExpressionAttributeValues": {":old": {"S": old}}}
        try:
            await self._retrier.call(lambda: self._client.call("put_item", **put))
        except ConditionFailed:
            return False
        return True

    async def streams(self) -> list[str]:
        found: list[str] = []
        more: dict[str, Any] = {}
        while True:
            scan = {"TableName": self._table, "ConsistentRead": True, **more}
            reply = await self._retrier.call(lambda scan=scan: self._client.call("scan", **scan))  # type: ignore[misc]
            found += [item["stream"]["S"] for item in reply["Items"] if item["sink"]["S"] == self._sink]
            if "LastEvaluatedKey" not in reply:
                return sorted(found)
            more = {"ExclusiveStartKey": reply["LastEvaluatedKey"]}
