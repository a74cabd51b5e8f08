"""MongoDB: documents, written in unordered bulk.

Every document has an `_id` that follows from its record, so a write can be repeated: `mongodb_bulk`. The driver's own
retries are off: it would try once, uncounted and at once.
"""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import parse_qsl, urlencode, urlunsplit
from uuid import UUID, uuid4

import bson
import pymongo
from pydantic import Field
from pymongo import AsyncMongoClient, errors, uri_parser
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.rows.schema import Schema
from ingest_service.runtime import fault
from ingest_service.runtime.queues import BoundedQueue, Closed
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.base import Finding, Sink, SinkOptions, Written
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.fields import EVENT_KEY
from ingest_service.sinks.mongodb import reach
from ingest_service.sinks.mongodb.bulk import PASSING, THROTTLES, Batch
from ingest_service.sinks.mongodb.collection import survey
from ingest_service.sinks.mongodb.documents import Documents, Interactions, Refusal
from ingest_service.sinks.pacing import AdaptiveLimit
from ingest_service.sinks.urls import parse_options, split_url

if TYPE_CHECKING:
    import polars as pl

fault.declare(
    {
        "mongodb-reply": "MongoDB has acknowledged a batch",
    }
)

T = TypeVar("T")
Document = dict[str, Any]

_BATCH_ROWS = 1_000
_SLICE_ROWS = 16 * _BATCH_ROWS  # rows that are encoded at once
_PIECE_USERS = 100  # asked for in one request
_FINISH_S = 0.25
_LOOK_S = 0.1  # between two looks at what the driver has found out
_SILENT_S = 0.5  # of a server that says nothing, before it is asked what it is
_CLOSE_S = 0.5  # the driver says good-bye to the server, which may be silent
_NAMESPACE_EXISTS = 48
_NAME = r"^[^.$\x00]+(\.[^.$\x00]+)*$"  # of a collection; the driver takes no other
_REFUSED_LOGIN = frozenset({13, 18, 8000})  # Unauthorized, AuthenticationFailed, AtlasError
# Written data must survive a failover and a crash before a checkpoint says so; who writes w= in the URL knows better.
_SAFE_WRITES = {"w": "majority", "journal": True}


class MongoDBOptions(SinkOptions):
    collection: str = Field("interactions", pattern=_NAME, description="where the documents go")
    checkpoint_collection: str = Field("ingest_checkpoints", pattern=_NAME, description="where checkpoints are kept")
    concurrency: int = Field(4, ge=1, le=64, description="bulk writes in flight at once, at most")
    timeout_s: float = Field(30, gt=0, description="a request without an answer for so long is given up")


class MongoDBSink(Sink[Ints]):
    """`mongodb://host/db?collection=…` or `mongodb+srv://…`; what else stands in the query goes to the driver."""

    scheme: ClassVar[str] = "mongodb"
    is_apart: ClassVar[bool] = True  # checkpoints are a collection of their own
    options: MongoDBOptions

    def __init__(self, url: str, documents: Documents | None = None) -> None:
        self._uri, self.database_name, options = _parse(url)
        super().__init__(options, AdaptiveLimit(options.concurrency))
        self.documents = documents or Interactions()
        self._client: AsyncMongoClient[Document] | None = None
        self._asked: dict[reach.Address, reach.Cause | None] = {}  # what servers are that did not answer the driver
        self.checkpoints: CheckpointStore = _Checkpoints(self)
        self.place = Place(f"{self.database_name}.{self.options.collection}", split_url(url).netloc.rpartition("@")[2])

    async def open(self) -> None:
        self._connect()
        await self.call(self._ping)

    async def _ping(self) -> None:
        """The driver tries for seconds whatever is wrong; what waiting cannot mend is told as soon as it is seen."""
        began = time.monotonic()
        pinging = asyncio.ensure_future(self.database.command("ping"))
        try:
            while not (await asyncio.wait((pinging,), timeout=_LOOK_S))[0]:
                topology = reach.Topology.of(self.database.client.topology_description)
                if topology.silent and not self._asked and time.monotonic() - began > _SILENT_S:
                    self._asked = await reach.asked(topology.silent, with_tls=self._has_tls())
                cause = reach.cause_of(topology, self._asked)
                if cause is not None and cause.lasts:
                    raise cause.as_error()
            await pinging
        finally:
            pinging.cancel()
            await asyncio.wait((pinging,), timeout=_FINISH_S)

    def _has_tls(self) -> bool:
        options = {name.lower(): value for name, value in parse_qsl(self._uri.partition("?")[2])}
        given = options.get("tls", options.get("ssl", ""))
        return given == "true" or (given == "" and self._uri.startswith("mongodb+srv:"))

    def _connect(self) -> None:
        if self._client is not None:
            return
        timeout_ms = round(1_000 * self.options.timeout_s)
        own: dict[str, Any] = {
            "retryWrites": False,
            "retryReads": False,
            "socketTimeoutMS": timeout_ms,
            "connectTimeoutMS": timeout_ms,
            # The retrier decides how long an absent server is waited for; before its budget ends the cause is known.
            "serverSelectionTimeoutMS": round(1_000 * min(self.options.timeout_s, self.retrier.budget_s / 2, 5.0)),
            "maxPoolSize": 2 * self.options.concurrency + 4,
            "appname": "ingest-service",
        }
        given = {name.lower() for name, _ in parse_qsl(self._uri.partition("?")[2])}
        if not given & {"w", "journal"}:
            own |= _SAFE_WRITES
        try:
            self._client = AsyncMongoClient(self._uri, **own)
        except errors.PyMongoError as error:
            raise ConfigurationError(
                f"MongoDB cannot be used as the URL says ({type(error).__name__}); check it."
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
            with self._errors_translated():
                return await _finished(request())

        return await self.retrier.call(attempt)

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        """Text of the server's errors may quote rows, and is never passed on."""
        try:
            yield
        except (errors.WriteConcernError, errors.ExecutionTimeout) as error:
            raise Retry(f"MongoDB does not confirm the write (code {error.code})") from error
        except errors.OperationFailure as error:
            if error.code in _REFUSED_LOGIN:
                raise ConfigurationError(
                    f"MongoDB refuses the user or its rights (code {error.code}); check the URL and the user's roles."
                ) from error
            if error.code in PASSING or error.has_error_label("RetryableWriteError"):
                raise Retry(f"MongoDB code {error.code}", throttled=error.code in THROTTLES) from error
            raise ConfigurationError(
                f"MongoDB refuses a request (code {error.code}); check the URL and its rights."
            ) from error
        except errors.ServerSelectionTimeoutError as error:
            topology = reach.Topology.of(self.database.client.topology_description)
            cause = reach.cause_of(topology, self._asked) or reach.Cause("no server answers")
            raise cause.as_error() from error
        except errors.ConnectionFailure as error:  # away, failing over, timed out, or the pool is exhausted
            raise Retry(reach.in_words(error)) from error
        except errors.ProtocolError as error:
            raise Retry("an answer is no message of MongoDB's protocol") from error
        except errors.InvalidName as error:
            raise ConfigurationError(
                "MongoDB has no databases or collections of such a name; check those in the URL."
            ) from error
        except errors.ConfigurationError as error:
            raise reach.srv_error(error) from error

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
            await self.call(lambda wanted=wanted: self.collection.delete_many(wanted))

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
        with self._errors_translated():
            again = batch.answered(rows, await _finished(self.database.command(command)))
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
        found = await self.call(lambda: self._collections_named(name))
        if not found:
            await self.call(lambda: self.database.command({"create": name}, allowable_errors=[_NAMESPACE_EXISTS]))
            found = await self.call(lambda: self._collections_named(name))
        uuid = found[0].get("info", {}).get("uuid")
        return await self.checkpoints.epoch() if uuid is None else bytes(uuid).hex()

    async def _collections_named(self, name: str) -> list[Document]:
        return [dict(one) for one in await (await self.database.list_collections(filter={"name": name})).to_list()]

    async def survey(self, columns: Columns) -> list[Finding]:
        found = await self.call(lambda: self._collections_named(self.options.collection))
        is_indexed = bool(found) and found[0].get("type", "collection") == "collection"
        indexes = await self.call(self.collection.index_information) if is_indexed else {}
        return survey(self.options.collection, found[0] if found else {}, indexes)

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
            f"{self.options.collection}: {document.reason if isinstance(document, Refusal) else bson.decode(document)}"
            for document in self.documents.of(columns).to_list()
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

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.readback import all_expected

        return all_expected(frame, schema)

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA

        rows: list[tuple[str, str, str]] = []
        for first in range(0, len(users), _PIECE_USERS):
            ranges = [{"_id": {"$gte": f"{user}#", "$lt": f"{user}$"}} for user in users[first : first + _PIECE_USERS]]
            found: list[Document] = await self.call(lambda: self.collection.find({"$or": ranges}).to_list())  # noqa: B023
            rows += [_stored_row(document, schema) for document in found]
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
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await client.close()


def _stored_row(document: Document, schema: Schema) -> tuple[str, str, str]:
    """User, event key and value of a document; fields that are not ours make it another value."""
    from ingest_service.sinks.readback import value_text

    del document["_id"]
    user, key = str(document.pop("user_id", "")), str(document.pop(EVENT_KEY, ""))
    return user, key, value_text(schema, document)


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
    except OSError as error:
        raise ConfigurationError(
            f"A file that a {parts.scheme}:// URL names cannot be read ({error.strerror}): check tlsCAFile and such."
        ) from None
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
