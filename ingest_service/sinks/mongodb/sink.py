"""MongoDB: interactions as documents, which can be read back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlunsplit
from uuid import UUID, uuid4

from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.rows.schema import Schema
from ingest_service.sinks.fields import EVENT_KEY, interaction_of
from ingest_service.sinks.mongodb.address import mongodb_url_with
from ingest_service.sinks.mongodb.client import Document
from ingest_service.sinks.mongodb.documents import Interactions
from ingest_service.sinks.mongodb.items import MongoDBItems
from ingest_service.sinks.mongodb.writer import DocumentSink
from ingest_service.sinks.sizes import Tally
from ingest_service.sinks.urls import split_url

if TYPE_CHECKING:
    import polars as pl

_PIECE_USERS = 100  # asked for in one request


class MongoDBSink(DocumentSink):
    """`mongodb://host/db?collection=…` or `mongodb+srv://…`; what else stands in the query goes to the driver."""

    def __init__(self, url: str) -> None:
        super().__init__(url, Interactions())
        self._url = url
        self.items = MongoDBItems(self.client, self.options.item_collection)

    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None, limit: int | None = None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first, or so many of them."""
        low = f"{user_id}#{timestamp_text(since) if since else ''}"
        high = f"{user_id}#{timestamp_text(until) if until else '~'}"

        async def find() -> list[Document]:
            found = self.collection.find({"_id": {"$gte": low, "$lt": high}}).sort("_id", 1)
            return await found.limit(limit or 0).to_list()

        return [interaction_of(document) for document in await self.client.call(find)]

    def tally(self, prices: Path | None) -> Tally:
        from ingest_service.sinks.mongodb.sizes import MongoDBTally

        return MongoDBTally(self.documents)

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.readback import all_expected

        return all_expected(frame, schema)

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA

        rows: list[tuple[str, str, str]] = []
        for first in range(0, len(users), _PIECE_USERS):
            ranges = [{"_id": {"$gte": f"{user}#", "$lt": f"{user}$"}} for user in users[first : first + _PIECE_USERS]]
            found: list[Document] = await self.client.call(lambda: self.collection.find({"$or": ranges}).to_list())  # noqa: B023
            rows += [_stored_row(document, schema) for document in found]
        return await asyncio.to_thread(pl.DataFrame, rows, schema=STORED_SCHEMA, orient="row")

    def for_items(self) -> "MongoDBSink":
        return MongoDBSink(mongodb_url_with(self._url, collection=self.options.item_collection))

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """A database of its own on the same server, dropped on leaving."""
        name = f"ingest-trial-{uuid4().hex[:12]}"
        sink = MongoDBSink(place := urlunsplit(split_url(url)._replace(path=f"/{name}")))
        try:
            await sink.open()
            yield place
        finally:
            await sink.client.call(lambda: sink.client.database.client.drop_database(name))
            await sink.close()


def _stored_row(document: Document, schema: Schema) -> tuple[str, str, str]:
    """User, event key and value of a document; fields that are not ours make it another value."""
    from ingest_service.sinks.readback import value_text

    del document["_id"]
    user, key = str(document.pop("user_id", "")), str(document.pop(EVENT_KEY, ""))
    return user, key, value_text(schema, document)
