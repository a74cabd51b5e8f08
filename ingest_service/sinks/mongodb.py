"""MongoDB: documents, written with unordered bulk inserts.

Every document has an `_id` that follows from its record, so a write can be repeated. New rows are the usual case, so
rows are inserted first; those whose `_id` is there already (an earlier try whose reply was lost, or an earlier row of
the same key) are then replaced. The driver's own retries are off: it would try once, uncounted and at once.
"""

import asyncio
import json
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode, urlunsplit
from uuid import UUID, uuid4

import numpy as np
import pymongo
from pydantic import Field
from pymongo import AsyncMongoClient, IndexModel, ReplaceOne, errors, uri_parser
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from ingest_service import fault
from ingest_service.checkpoint import CheckpointStore
from ingest_service.chunk import Chunk, DeadRow
from ingest_service.columns import Columns
from ingest_service.datasets.base import RECORD_NUMBERS
from ingest_service.errors import ConfigurationError, Retry, SinkUnavailable
from ingest_service.models import VideoInteraction, timestamp_text
from ingest_service.pacing import AdaptiveLimit, RateLimit
from ingest_service.records import Ints
from ingest_service.retry import Retrier
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written, parse_options, split_url
from ingest_service.sinks.encode import event_key, own_texts
from ingest_service.tasks import task_group
from ingest_service.texts import Texts, concatenate, lengths

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
Document = dict[str, Any]

# mongodb.com, "MongoDB Limits and Thresholds": a document has at most 16 MiB. What a row has besides texts is small.
MAX_DOCUMENT_BYTES = 16 << 20
_OVERHEAD_BYTES = 1 << 10
_BATCH_ROWS = 1_000
_SLICE_ROWS = 16 * _BATCH_ROWS  # rows that are Python objects at once
_PIECE_USERS = 100  # asked for in one request
_DUPLICATE_KEY = 11000
_FINISH_S = 1.0
_REFUSED_LOGIN = frozenset({13, 18, 8000})  # Unauthorized, AuthenticationFailed, AtlasError
# github.com/mongodb/specifications, "Retryable Writes" and "Server Discovery and Monitoring", and what asks for less:
# MaxTimeMSExpired, WriteConflict, ExceededTimeLimit, and Cosmos DB's and DocumentDB's TooManyRequests.
_PASSING = frozenset({6, 7, 50, 64, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 16500, 91331})
_THROTTLES = frozenset({16500})
# Written data must survive a failover and a crash before a checkpoint says so; who writes w= in the URL knows better.
_SAFE_WRITES = {"w": "majority", "journal": True}


class MongoDBOptions(SinkOptions):
    collection: str = Field("interactions", pattern=r"^[^$]+$", description="where the documents go")
    checkpoint_collection: str = Field("ingest_checkpoints", description="where checkpoints are kept")
    concurrency: int = Field(4, ge=1, le=64, description="bulk writes in flight at once, at most")
    timeout_s: float = Field(30, gt=0, description="a request without an answer for so long is given up")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row becomes no document: for its dead letter."""

    code: str
    reason: str


class Documents(Protocol):
    """What rows become. Each document has an `_id` that follows from its record's key."""

    indexes: Sequence[IndexModel]

    def of(self, columns: Columns) -> list[Document | Refusal]:
        """One for each row, in order."""


class Interactions:
    """The columns of the other stores, with `_id` = `<user_id>#<timestamp>#<video_id>`, which serves as the index."""

    indexes: Sequence[IndexModel] = ()
    _fields = ("user_id", "event_key", "video_id", "timestamp", "event_type", "device", "session_id")

    def of(self, columns: Columns) -> list[Document | Refusal]:
        key = event_key(columns)
        texts = {**columns.texts, "event_key": concatenate(key)}
        texts["_id"] = concatenate([columns.texts["user_id"], b"#", *key])
        names = ("_id", *self._fields, *own_texts(columns))
        numbers = {name: values for name, values in columns.numbers.items() if name not in RECORD_NUMBERS}
        values = [texts[name].to_list() for name in names] + [column.tolist() for column in numbers.values()]
        names = (*names, *numbers)
        rows = zip(*values, strict=True)
        documents: list[Document | Refusal] = [dict(zip(names, row, strict=True)) for row in rows]
        too_large = _bytes_of(texts.values(), len(columns)) > MAX_DOCUMENT_BYTES - _OVERHEAD_BYTES
        for row in np.flatnonzero(too_large).tolist():
            documents[row] = Refusal("item_too_large", "The document is over MongoDB's 16 MB.")
        return documents


def _bytes_of(texts: Iterable[Texts], n: int) -> Ints:
    return np.zeros(n, np.int64) + lengths(list(texts))


class MongoDBSink(Sink):
    """`mongodb://host/db?collection=…` or `mongodb+srv://…`; what else stands in the query goes to the driver."""

    scheme: ClassVar[str] = "mongodb"
    options: MongoDBOptions

    def __init__(self, url: str, documents: Documents | None = None) -> None:
        self._uri, self.database_name, self.options = _parse(url)
        self.documents = documents or Interactions()
        self.name = self.options.name or self.scheme
        self.retrier = Retrier(self.name, self.options.retry_budget_s)
        self.limit = AdaptiveLimit(self.options.concurrency)
        self._rate = RateLimit(self.options.rate)
        self._client: AsyncMongoClient[Document] | None = None
        self.checkpoints: CheckpointStore = _Checkpoints(self)

    async def open(self) -> None:
        self._connect()
        await self.call(lambda: self.database.command("ping"))

    def _connect(self) -> None:
        if self._client is not None:
            return
        timeout_ms = round(1_000 * self.options.timeout_s)
        own: dict[str, Any] = {
            "retryWrites": False,
            "retryReads": False,
            "socketTimeoutMS": timeout_ms,
            "connectTimeoutMS": timeout_ms,
            # The retrier decides how long an absent server is waited for.
            "serverSelectionTimeoutMS": round(1_000 * min(self.options.timeout_s, self.retrier.budget_s, 5.0)),
            "maxPoolSize": 2 * self.options.concurrency + 4,
            "appname": "ingest-service",
        }
        given = {name.lower() for name, _ in parse_qsl(self._uri.partition("?")[2])}
        if not given & {"w", "journal"}:
            own |= _SAFE_WRITES
        try:
            self._client = AsyncMongoClient(self._uri, **own)
        except errors.PyMongoError as error:  # mongodb+srv is looked up in the DNS
            raise SinkUnavailable(
                f"{self.name} cannot be found ({type(error).__name__}); check the host in its URL."
            ) from error

    @property
    def database(self) -> AsyncDatabase[Document]:
        if self._client is None:
            raise RuntimeError("the sink is not open")
        return self._client[self.database_name]

    @property
    def collection(self) -> AsyncCollection[Document]:
        return self.database[self.options.collection]

    async def call(self, request: Any) -> Any:
        """One request, a function without arguments, tried again as long as its fault may pass."""

        async def attempt() -> Any:
            with _errors_translated():
                return await _finished(request())

        return await self.retrier.call(attempt)

    async def write(self, chunk: Chunk) -> Written:
        wanted = await asyncio.to_thread(chunk.last_of_each_key)
        dead: list[DeadRow] = []
        for first in range(0, len(wanted), _SLICE_ROWS):
            slice_rows = wanted[first : first + _SLICE_ROWS]
            documents = await asyncio.to_thread(self.documents.of, chunk.columns.take(slice_rows))
            good: list[tuple[int, Document]] = []
            for row, document in zip(slice_rows.tolist(), documents, strict=True):
                if isinstance(document, Refusal):
                    dead.append(chunk.dead_row(row, self.name, document.code, document.reason))
                else:
                    good.append((row, document))
            await self._send_all(good, chunk, dead)
        return Written(len(wanted) - len(dead), chunk.accepted - len(wanted), dead)

    async def _send_all(self, rows: list[tuple[int, Document]], chunk: Chunk, dead: list[DeadRow]) -> None:
        size = self._rate.piece(_BATCH_ROWS)
        batches = iter([rows[start : start + size] for start in range(0, len(rows), size)])

        async def worker() -> None:
            for batch in batches:
                await self._rate.take(len(batch))
                for row, refusal in (await self.put(dict(batch))).items():
                    dead.append(chunk.dead_row(row, self.name, refusal.code, refusal.reason))

        async with task_group() as workers:
            for _ in range(min(self.options.concurrency, -(-len(rows) // size))):
                workers.create_task(worker())

    async def put(self, documents: dict[int, Document]) -> dict[int, Refusal]:
        """Store the documents, whatever was there under their `_id`s. Returns those that are refused for good."""
        batch = _Batch(documents)

        async def attempt() -> None:
            while batch.left:
                async with self.limit.slot():
                    began = time.monotonic()
                    try:
                        with _errors_translated():
                            await _finished(self._write_once(batch))
                    except Retry as later:
                        if later.throttled:
                            self.limit.throttled()
                        raise
                    self.limit.answered(time.monotonic() - began)

        await self.retrier.call(attempt)
        return batch.refused

    async def _write_once(self, batch: "_Batch") -> None:
        """Insert the rows taken for new, else replace the others. Retry if some are left that may pass later."""
        is_insert = bool(batch.new)
        rows = list(batch.new or batch.known)
        documents = [batch.documents[row] for row in rows]
        left = batch.left
        try:
            if is_insert:
                await self.collection.insert_many(documents, ordered=False)
            else:
                replacements = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
                await self.collection.bulk_write(replacements, ordered=False)
        except errors.BulkWriteError as error:
            again = batch.answered(rows, dict(error.details))
        else:
            again = batch.answered(rows, {})
        fault.point("mongodb-reply")
        if again is not None:
            if batch.left < left:
                self.retrier.progressed()
            raise again

    async def check(self, *, create: bool) -> list[Finding]:
        await self.open()
        found: dict[str, Any] = {}
        if self.options.collection in await self.call(self.database.list_collection_names):
            found = await self.call(self.collection.index_information)
        findings = [Finding(f"collection {self.options.collection}", True, "can be reached")]
        for index in self.documents.indexes:
            name = str(index.document["name"])
            is_there, detail = name in found, "is there"
            if not is_there and create:
                await self.call(lambda index=index: self.collection.create_indexes([index]))
                is_there, detail = True, "was made"
            findings.append(
                Finding(f"index {name}", is_there, detail if is_there else "is missing; make it with --create")
            )
        return findings

    def preview(self, columns: Columns) -> list[str]:
        return [
            f"{self.options.collection}: {document.reason if isinstance(document, Refusal) else document}"
            for document in self.documents.of(columns)
        ]

    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first."""
        low = f"{user_id}#{timestamp_text(since) if since else ''}"
        high = f"{user_id}#{timestamp_text(until) if until else '~'}"

        async def find() -> list[Document]:
            return await self.collection.find({"_id": {"$gte": low, "$lt": high}}).sort("_id", 1).to_list()

        return [VideoInteraction.model_validate(document) for document in await self.call(find)]

    async def stored(self, users: Sequence[str]) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.stored import STORED_SCHEMA

        rows: list[tuple[str, str, str]] = []
        for first in range(0, len(users), _PIECE_USERS):
            ranges = [{"_id": {"$gte": f"{user}#", "$lt": f"{user}$"}} for user in users[first : first + _PIECE_USERS]]
            found: list[Document] = await self.call(lambda: self.collection.find({"$or": ranges}).to_list())  # noqa: B023
            rows += [_stored_row(document) for document in found]
        return await asyncio.to_thread(pl.DataFrame, rows, schema=STORED_SCHEMA, orient="row")

    @asynccontextmanager
    async def scratch(self, url: str, folder: Path) -> AsyncIterator[str]:
        """A database of its own on the same server, dropped on leaving."""
        name = f"ingest-trial-{uuid4().hex[:12]}"
        sink = MongoDBSink(place := urlunsplit(split_url(url)._replace(path=f"/{name}")))
        try:
            await sink.open()
            yield place
        finally:
            await sink.call(lambda: sink.database.client.drop_database(name))
            await sink.close()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _stored_row(document: Document) -> tuple[str, str, str]:
    """User, event key and value of a document; fields that are not ours make it another value."""
    from ingest_service.stored import VALUE_COLUMNS

    del document["_id"]
    user, key = str(document.pop("user_id", "")), str(document.pop("event_key", ""))
    parts = [str(document.pop(name, "")) for name in VALUE_COLUMNS]
    if document:
        parts.append(json.dumps(document, sort_keys=True, default=str))
    return user, key, "\x1f".join(parts)


class _Batch:
    """Documents on their way, by row: `new` are to be inserted, `known` have an `_id` that is there already."""

    def __init__(self, documents: dict[int, Document]) -> None:
        self.documents = documents
        self.new = set(documents)
        self.known: set[int] = set()
        self.refused: dict[int, Refusal] = {}

    @property
    def left(self) -> int:
        return len(self.new) + len(self.known)

    def answered(self, rows: Sequence[int], details: Document) -> Retry | None:
        """What became of `rows`, sent in this order. The reason to try some again, if there is one."""
        if details.get("writeConcernErrors"):
            return Retry("MongoDB does not confirm the write")  # written maybe, but not where it must be: all again
        passing: set[int] = set()
        known: set[int] = set()
        codes = set()
        for error in details.get("writeErrors", ()):
            row, code = rows[error["index"]], error.get("code")
            if code == _DUPLICATE_KEY and _is_own_key(error):
                known.add(row)  # a replacement that lost a race for the key comes here too, and is made again
            elif code == _DUPLICATE_KEY:
                self.refused[row] = Refusal("duplicate_key", "Another document has this value in a unique index.")
            elif code in _PASSING:
                passing.add(row)
                codes.add(code)
            else:
                self.refused[row] = Refusal("refused", f"MongoDB refuses the document (code {code}).")
        was_new = self.new.intersection(rows)
        self.new = self.new.difference(rows) | (passing & was_new)
        self.known = self.known.difference(rows) | known | (passing - was_new)
        if passing:
            return Retry("MongoDB is busy", throttled=bool(codes & _THROTTLES))
        return None


def _is_own_key(error: Document) -> bool:
    if "keyPattern" in error:
        return bool(error["keyPattern"] == {"_id": 1})
    return "index: _id_ " in error.get("errmsg", "")  # servers before 4.4


class _Checkpoints(CheckpointStore):
    """Collection `ingest_checkpoints`: `_id` is `<sink>:<stream>`, and the text stands in `body`."""

    def __init__(self, sink: MongoDBSink) -> None:
        self._sink = sink

    @property
    def _collection(self) -> AsyncCollection[Document]:
        name = self._sink.options.checkpoint_collection
        return self._sink.database.get_collection(name, write_concern=pymongo.WriteConcern(w="majority", j=True))

    def _id(self, stream: str) -> str:
        return f"{self._sink.name}:{stream}"

    async def read(self, stream: str) -> str | None:
        found = await self._sink.call(lambda: self._collection.find_one({"_id": self._id(stream)}))
        return None if found is None else str(found["body"])

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        async def change() -> bool:
            if old is None:
                document = {"_id": self._id(stream), "stream": stream, "sink": self._sink.name, "body": new}
                try:
                    await self._collection.insert_one(document)
                except errors.DuplicateKeyError:
                    return False
                return True
            query = {"_id": self._id(stream), "body": old}
            return (await self._collection.update_one(query, {"$set": {"body": new}})).matched_count == 1

        return bool(await self._sink.call(change))

    async def streams(self) -> list[str]:
        async def find() -> list[Document]:
            return await self._collection.find({"sink": self._sink.name}, {"stream": 1}).to_list()

        return sorted(document["stream"] for document in await self._sink.call(find))


def mongodb_url_with(url: str, **options: object) -> str:
    """The URL with some of our options set, whatever it said about them."""
    parts = split_url(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in options]
    return urlunsplit(parts._replace(query=urlencode([*query, *options.items()])))


def _parse(url: str) -> tuple[str, str, MongoDBOptions]:
    """The driver's own URI, the database's name, and our options: the query holds both kinds."""
    parts = split_url(url)
    database = parts.path.strip("/")
    if not parts.netloc or not database or "/" in database:
        raise ConfigurationError("A MongoDB URL names the database: mongodb://localhost:27017/movielens.")
    query = parse_qsl(parts.query, keep_blank_values=True)
    ours = urlencode([(name, value) for name, value in query if name in MongoDBOptions.model_fields])
    theirs = urlencode([(name, value) for name, value in query if name not in MongoDBOptions.model_fields])
    _, options = parse_options(urlunsplit((parts.scheme, "host", "", ours, "")), MongoDBOptions)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the driver only warns of an option that it does not know
            # Not as mongodb+srv, which would ask the DNS.
            uri_parser.parse_uri(urlunsplit(("mongodb", parts.netloc, parts.path, theirs, "")))
    except (errors.PyMongoError, ValueError, UserWarning) as error:
        known = ", ".join(sorted(MongoDBOptions.model_fields))
        raise ConfigurationError(
            f"A {parts.scheme}:// URL is wrong ({type(error).__name__}); besides MongoDB's own options it knows: "
            f"{known}. In a password, write special characters as %XX."
        ) from None
    return urlunsplit((parts.scheme, parts.netloc, parts.path, theirs, "")), database, options


async def _finished(request: Awaitable[T]) -> T:
    """The request's result. When cancelled, it may end first: the driver leaks a connection that it is just making."""
    running = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,), timeout=_FINISH_S)
        if running.done() and not running.cancelled():
            running.exception()  # looked at, so that nobody reports it as lost
        raise
    finally:
        running.cancel()


@contextmanager
def _errors_translated() -> Iterator[None]:
    """Text of the server's errors may quote rows, and is never passed on."""
    try:
        yield
    except errors.BulkWriteError:
        raise  # is looked at row by row
    except (errors.WriteConcernError, errors.ExecutionTimeout) as error:
        raise Retry(f"MongoDB does not confirm the write (code {error.code})") from error
    except errors.OperationFailure as error:
        if error.code in _REFUSED_LOGIN:
            raise ConfigurationError(
                f"MongoDB refuses the user or its rights (code {error.code}); check the URL and the user's roles."
            ) from error
        if error.code in _PASSING or error.has_error_label("RetryableWriteError"):
            raise Retry(f"MongoDB code {error.code}", throttled=error.code in _THROTTLES) from error
        raise ConfigurationError(
            f"MongoDB refuses a request (code {error.code}); check the URL and its rights."
        ) from error
    except errors.ConnectionFailure as error:  # away, failing over, timed out, or the pool is exhausted
        raise Retry(type(error).__name__) from error
    except errors.ConfigurationError as error:
        raise ConfigurationError(
            f"MongoDB cannot be used as the URL says ({type(error).__name__}); check it."
        ) from error
