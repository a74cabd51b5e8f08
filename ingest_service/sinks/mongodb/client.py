"""MongoDB's driver, its requests tried again here and its errors in our words.

The driver's own retries are off: it would try once, uncounted and at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl

from pymongo import AsyncMongoClient, errors
from pymongo.asynchronous.database import AsyncDatabase

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.sinks.mongodb import reach
from ingest_service.sinks.mongodb.address import MongoDBOptions
from ingest_service.sinks.mongodb.bulk import PASSING, THROTTLES
from ingest_service.sinks.retry import Retrier

T = TypeVar("T")
Document: TypeAlias = dict[str, Any]

_FINISH_S = 0.25
_LOOK_S = 0.1  # between two looks at what the driver has found out
_SILENT_S = 0.5  # of a server that says nothing, before it is asked what it is
_CLOSE_S = 0.5  # the driver says good-bye to the server, which may be silent
_REFUSED_LOGIN = frozenset({13, 18, 8000})  # Unauthorized, AuthenticationFailed, AtlasError
# Written data must survive a failover and a crash before a checkpoint says so; who writes w= in the URL knows better.
_SAFE_WRITES = {"w": "majority", "journal": True}


class MongoDBClient:
    """One database. `uri` is the driver's own."""

    def __init__(self, uri: str, database: str, options: MongoDBOptions, retrier: Retrier) -> None:
        self.uri = uri
        self.database_name = database
        self._options = options
        self._retrier = retrier
        self._client: AsyncMongoClient[Document] | None = None
        self._asked: dict[reach.Address, reach.Cause | None] = {}  # what servers are that did not answer the driver

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
        options = {name.lower(): value for name, value in parse_qsl(self.uri.partition("?")[2])}
        given = options.get("tls", options.get("ssl", ""))
        return given == "true" or (given == "" and self.uri.startswith("mongodb+srv:"))

    def _connect(self) -> None:
        if self._client is not None:
            return
        timeout_ms = round(1_000 * self._options.timeout_s)
        own: dict[str, Any] = {
            "retryWrites": False,
            "retryReads": False,
            "socketTimeoutMS": timeout_ms,
            "connectTimeoutMS": timeout_ms,
            # The retrier decides how long an absent server is waited for; before its budget ends the cause is known.
            "serverSelectionTimeoutMS": round(1_000 * min(self._options.timeout_s, self._retrier.budget_s / 2, 5.0)),
            "maxPoolSize": 2 * self._options.concurrency + 4,
            "appname": "ingest-service",
        }
        given = {name.lower() for name, _ in parse_qsl(self.uri.partition("?")[2])}
        if not given & {"w", "journal"}:
            own |= _SAFE_WRITES
        try:
            self._client = AsyncMongoClient(self.uri, **own)
        except errors.PyMongoError as error:
            raise ConfigurationError(
                f"MongoDB cannot be used as the URL says ({type(error).__name__}); check it."
            ) from error

    @property
    def database(self) -> AsyncDatabase[Document]:
        if self._client is None:
            raise RuntimeError("the sink is not open")
        return self._client[self.database_name]

    async def call(self, request: Any) -> Any:
        """One request, a function without arguments, tried again as long as its fault may pass."""

        async def attempt() -> Any:
            return await self.once(request())

        return await self._retrier.call(attempt)

    async def once(self, request: Awaitable[T]) -> T:
        """One request, tried once. Retry if its fault may pass."""
        with self._errors_translated():
            return await _finished(request)

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

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await client.close()


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
