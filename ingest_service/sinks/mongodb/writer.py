"""Documents of any shape into MongoDB, in unordered bulk.

Every document has an `_id` that follows from its record, so a write can be repeated: `bulk`.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import bson
from pymongo.asynchronous.collection import AsyncCollection

from ingest_service.errors import Retry
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.runtime import fault
from ingest_service.runtime.queues import BoundedQueue, Closed
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.base import Finding, Sink, Written
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.mongodb.address import MongoDBOptions, parse
from ingest_service.sinks.mongodb.bulk import Batch
from ingest_service.sinks.mongodb.checkpoints import MongoDBCheckpoints
from ingest_service.sinks.mongodb.client import Document, MongoDBClient
from ingest_service.sinks.mongodb.collection import survey
from ingest_service.sinks.mongodb.documents import Documents, Refusal
from ingest_service.sinks.pacing import AdaptiveLimit
from ingest_service.sinks.urls import split_url

fault.declare({"mongodb-reply": "MongoDB has acknowledged a batch"})

_BATCH_ROWS = 1_000
_SLICE_ROWS = 16 * _BATCH_ROWS  # rows that are encoded at once
_NAMESPACE_EXISTS = 48


class DocumentSink(Sink[Ints]):
    """What `documents` makes of rows, in the collection of the URL. What is there is not read back."""

    scheme: ClassVar[str] = "mongodb"
    is_apart: bool = True  # checkpoints are a collection of their own
    options: MongoDBOptions

    def __init__(self, url: str, documents: Documents) -> None:
        uri, database, options = parse(url)
        super().__init__(options, AdaptiveLimit(options.concurrency))
        self.client = MongoDBClient(uri, database, options, self.retrier)
        self.documents = documents
        self.checkpoints: CheckpointStore = MongoDBCheckpoints(self.client, options.checkpoint_collection, self.name)
        self.place = Place(f"{database}.{options.collection}", split_url(url).netloc.rpartition("@")[2])

    async def open(self) -> None:
        await self.client.open()

    @property
    def collection(self) -> AsyncCollection[Document]:
        return self.client.database[self.options.collection]

    def prepare(self, chunk: Chunk) -> Ints:
        """The rows to store."""
        return chunk.last_of_each_key()

    async def write(self, chunk: Chunk, prepared: Ints) -> Written:
        wanted = prepared
        dead: list[DeadRow] = []
        size = self.rate.piece(_BATCH_ROWS)
        queue = BoundedQueue[dict[int, bytes]](self.options.concurrency)
        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, -(-len(wanted) // size))):
                workers.create_task(self._put_all(queue, chunk, dead))
            for first in range(0, len(wanted), _SLICE_ROWS):
                rows = wanted[first : first + _SLICE_ROWS]
                documents, refused = await asyncio.to_thread(self._encoded, chunk, rows)
                dead += [chunk.dead_row(row, self.name, why.code, why.reason) for row, why in refused]
                for start in range(0, len(documents), size):
                    await queue.put(dict(documents[start : start + size]))
            await queue.close()
        return Written(len(wanted) - len(dead), chunk.accepted - len(wanted), dead)

    async def remove(self, columns: Columns) -> None:
        documents = await asyncio.to_thread(lambda: self.documents.of(columns).to_list())
        keys = [bson.decode(one)["_id"] for one in documents if not isinstance(one, Refusal)]
        for first in range(0, len(keys), _BATCH_ROWS):
            wanted = {"_id": {"$in": keys[first : first + _BATCH_ROWS]}}
            await self.client.call(lambda wanted=wanted: self.collection.delete_many(wanted))

    def _encoded(self, chunk: Chunk, rows: Ints) -> tuple[list[tuple[int, bytes]], list[tuple[int, Refusal]]]:
        """The documents of these rows, and the rows that become none."""
        documents: list[tuple[int, bytes]] = []
        refused: list[tuple[int, Refusal]] = []
        for row, one in zip(rows.tolist(), self.documents.of(chunk.columns.take(rows)).to_list(), strict=True):
            if isinstance(one, Refusal):
                refused.append((row, one))
            else:
                documents.append((row, one))
        return documents, refused

    async def _put_all(self, queue: BoundedQueue[dict[int, bytes]], chunk: Chunk, dead: list[DeadRow]) -> None:
        with suppress(Closed):
            while True:
                batch = await queue.get()
                await self.rate.take(len(batch))
                for row, why in (await self.put(batch)).items():
                    dead.append(chunk.dead_row(row, self.name, why.code, why.reason))

    async def put(self, documents: Mapping[int, bytes]) -> dict[int, Refusal]:
        """Store BSON documents, whatever was there under their `_id`s. Returns those that are refused for good."""
        batch = Batch(documents)

        async def attempt() -> None:
            while batch.left:
                async with self.limit.slot():
                    began = time.monotonic()
                    try:
                        await self._write_once(batch)
                    except Retry as later:
                        if later.throttled:
                            self.limit.throttled()
                        raise
                    self.limit.answered(time.monotonic() - began)

        await self.retrier.call(attempt, moves_rows=True)
        return batch.refused

    async def _write_once(self, batch: Batch) -> None:
        """Insert or replace what is next. Retry if some are left that may pass later."""
        rows, command = batch.next(self.options.collection)
        command["writeConcern"] = self.collection.write_concern.document
        left = batch.left
        again = batch.answered(rows, await self.client.once(self.client.database.command(command)))
        fault.point("mongodb-reply")
        if batch.left < left:
            self.retrier.progressed()
        if again is not None:
            raise again

    async def epoch(self) -> str:
        """The collection's UUID, which goes when it is dropped. One that is missing is made here.

        Servers that only speak MongoDB's protocol may have none; there it is a text that goes with the checkpoints.
        """
        name = self.options.collection
        found = await self.client.call(lambda: self._collections_named(name))
        if not found:
            await self.client.call(
                lambda: self.client.database.command({"create": name}, allowable_errors=[_NAMESPACE_EXISTS])
            )
            found = await self.client.call(lambda: self._collections_named(name))
        uuid = found[0].get("info", {}).get("uuid")
        return await self.checkpoints.epoch() if uuid is None else bytes(uuid).hex()

    async def _collections_named(self, name: str) -> list[Document]:
        return [
            dict(one) for one in await (await self.client.database.list_collections(filter={"name": name})).to_list()
        ]

    async def survey(self, columns: Columns) -> list[Finding]:
        found = await self.client.call(lambda: self._collections_named(self.options.collection))
        is_indexed = bool(found) and found[0].get("type", "collection") == "collection"
        indexes = await self.client.call(self.collection.index_information) if is_indexed else {}
        return survey(self.options.collection, found[0] if found else {}, indexes)

    async def check(self, *, create: bool) -> list[Finding]:
        await self.open()
        found: dict[str, Any] = {}
        if self.options.collection in await self.client.call(self.client.database.list_collection_names):
            found = await self.client.call(self.collection.index_information)
        findings = [Finding(f"collection {self.options.collection}", True, "can be reached")]
        for index in self.documents.indexes:
            name = str(index.document["name"])
            is_there, detail = name in found, "is there"
            if not is_there and create:
                await self.client.call(lambda index=index: self.collection.create_indexes([index]))
                is_there, detail = True, "was made"
            findings.append(
                Finding(f"index {name}", is_there, detail if is_there else "is missing; make it with --create")
            )
        return findings

    def preview(self, columns: Columns) -> list[str]:
        return [
            f"{self.options.collection}: {document.reason if isinstance(document, Refusal) else bson.decode(document)}"
            for document in self.documents.of(columns).to_list()
        ]

    async def close(self) -> None:
        await self.client.close()
