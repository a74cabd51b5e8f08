"""The collection of items: a document each, whose `_id` is the item's id."""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import UpdateOne, errors
from pymongo.asynchronous.collection import AsyncCollection

from ingest_service.errors import Retry
from ingest_service.rows.interaction import ITEM
from ingest_service.sinks.items import Fields, ItemTable, RefusedItem
from ingest_service.sinks.mongodb.bulk import PASSING, THROTTLES
from ingest_service.sinks.mongodb.client import Document, MongoDBClient


class MongoDBItems(ItemTable):
    def __init__(self, client: MongoDBClient, collection: str) -> None:
        self._client = client
        self._name = collection

    @property
    def _collection(self) -> AsyncCollection[Document]:
        return self._client.database[self._name]

    async def put(self, items: Mapping[str, Fields]) -> Mapping[str, RefusedItem]:
        ids = list(items)
        changes = [
            UpdateOne({"_id": item}, {"$set": {ITEM.owner: item, **fields}}, upsert=True)
            for item, fields in items.items()
        ]

        async def write() -> dict[str, RefusedItem]:
            try:
                await self._collection.bulk_write(changes, ordered=False)
            except errors.BulkWriteError as error:
                return _refused(ids, error.details or {})
            return {}

        found: dict[str, RefusedItem] = await self._client.call(write)
        return found

    async def get(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        wanted = {"_id": {"$in": list(ids)}}
        documents: list[Document] = await self._client.call(lambda: self._collection.find(wanted).to_list())
        for document in documents:
            document.pop(ITEM.owner, None)
        return {str(document.pop("_id")): document for document in documents}

    async def remove(self, ids: Sequence[str], names: Sequence[str]) -> None:
        wanted, nothing = {"_id": {"$in": list(ids)}}, {"$unset": dict.fromkeys(names, "")}
        await self._client.call(lambda: self._collection.update_many(wanted, nothing))


def _refused(ids: Sequence[str], details: Mapping[str, Any]) -> dict[str, RefusedItem]:
    """The items that are refused for good; Retry if some may pass later: all are then written again."""
    refused: dict[str, RefusedItem] = {}
    codes = {one.get("code") for one in details.get("writeErrors", ())}
    if details.get("writeConcernErrors") or codes & PASSING:
        raise Retry("MongoDB is busy, or does not confirm the write", throttled=bool(codes & THROTTLES))
    for one in details.get("writeErrors", ()):
        code = one.get("code")
        refused[ids[one["index"]]] = RefusedItem("refused", f"MongoDB refuses the document (code {code}).")
    return refused
