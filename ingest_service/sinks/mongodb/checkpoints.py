"""Checkpoints in MongoDB."""

import pymongo
from pymongo import errors
from pymongo.asynchronous.collection import AsyncCollection

from ingest_service.sinks.checkpoints import CheckpointStore
from ingest_service.sinks.mongodb.client import Document, MongoDBClient


class MongoDBCheckpoints(CheckpointStore):
    """A collection of their own: `_id` is `<sink>:<stream>`, and the text stands in `body`."""

    def __init__(self, client: MongoDBClient, collection: str, sink: str) -> None:
        self._client = client
        self._name = collection
        self._sink = sink

    @property
    def _collection(self) -> AsyncCollection[Document]:
        return self._client.database.get_collection(
            self._name, write_concern=pymongo.WriteConcern(w="majority", j=True)
        )

    def _id(self, stream: str) -> str:
        return f"{self._sink}:{stream}"

    async def read(self, stream: str) -> str | None:
        found = await self._client.call(lambda: self._collection.find_one({"_id": self._id(stream)}))
        return None if found is None else str(found["body"])

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        async def change() -> bool:
            if old is None:
                document = {"_id": self._id(stream), "stream": stream, "sink": self._sink, "body": new}
                try:
                    await self._collection.insert_one(document)
                except errors.DuplicateKeyError:
                    return False
                return True
            query = {"_id": self._id(stream), "body": old}
            return (await self._collection.update_one(query, {"$set": {"body": new}})).matched_count == 1

        return bool(await self._client.call(change))

    async def streams(self) -> list[str]:
        async def find() -> list[Document]:
            return await self._collection.find({"sink": self._sink}, {"stream": 1}).to_list()

        return sorted(document["stream"] for document in await self._client.call(find))
