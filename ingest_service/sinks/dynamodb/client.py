"""The way to DynamoDB: aiobotocore's client, and a lean transport for bulk writes beside it.

Credentials and their refresh, region and endpoint are always aiobotocore's. The bulk transport posts bodies that are
already JSON, signed here, where botocore would build, check and parse every item as Python objects.
"""

import asyncio
import json
import logging
import os
import ssl
import zlib
from base64 import b64decode
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.sinks.dynamodb.errors import Refused, fault_of, require_same_language, translated
from ingest_service.sinks.dynamodb.http_post import HttpPoster
from ingest_service.sinks.dynamodb.sigv4 import Signer

# Its warnings are the tracebacks of errors that come here as well; who configures logging still gets them.
logging.getLogger("aiobotocore").addHandler(logging.NullHandler())

PROXIED = (
    "requests go through the proxy that {variable} names, which the bulk transport cannot do: they take the portable "
    "one (transport=sdk), which costs more CPU; if DynamoDB can be reached directly, add its host to NO_PROXY"
)


_OF_ROWS = ("batch_write_item", "update_item")  # a request that is refused as such holds a row


class Transport(Protocol):
    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        """One BatchWriteItem request, ready-made JSON; returns its unprocessed put requests.

        Retry for what may pass, Refused if an item is not valid, ConfigurationError for what must be fixed first.
        """
        ...

    async def put(self, body: bytes) -> None:
        """One PutItem request, ready-made JSON. ConditionFailed if its condition does not hold, else as above."""
        ...


class DynamoDBClient:
    """Owns aiobotocore's client and the transport. `client` is for everything but bulk writes."""

    def __init__(
        self,
        *,
        region: str,
        endpoint: str,
        transport: Literal["bulk", "sdk"],
        connections: int,
        timeout_s: float,
        ca_file: str,
    ) -> None:
        self._region = region
        self._endpoint = endpoint
        self._kind = transport
        self._connections = connections
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._credentials: Any = None
        self._transport: Transport | None = None
        self._has_answered = False
        self.warning = ""  # what the user should know of the way that was taken

    async def open(self) -> None:
        """Find credentials and endpoint. ConfigurationError for what must be fixed first, Retry for what may pass."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self._transport is not None:
            return
        try:
            await self._open()
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            await self.close()
            raise fault_of(error, may_pass=False) from error
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session
        from botocore.exceptions import NoCredentialsError

        session = get_session()
        config = AioConfig(
            # Retries are the sink's: what botocore does by itself depends on its version and the user's files.
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=self._connections,
            connect_timeout=min(10, self._timeout_s),
            read_timeout=self._timeout_s,
        )
        trusted = self._ca_file or session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        tls = _tls_context(trusted)
        client = session.create_client(
            "dynamodb",
            # botocore knows AWS_DEFAULT_REGION only; every other AWS tool takes AWS_REGION too.
            region_name=self._region or os.environ.get("AWS_REGION"),
            endpoint_url=self._endpoint or None,
            config=config,
            verify=trusted or None,
        )
        self._client = await self._stack.enter_async_context(client)
        credentials = await session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        await credentials.get_frozen_credentials()  # those of a login or a role are only looked for now
        self._credentials = credentials
        self._transport = self._chosen_transport(tls)

    @property
    def region(self) -> str:
        """The one in use, which may come from the environment or a profile."""
        return str(self._client.meta.region_name)

    def _chosen_transport(self, tls: ssl.SSLContext) -> Transport:
        from botocore.utils import get_environ_proxies

        if self._kind == "sdk":
            return _SdkTransport(self)
        url: str = self._client.meta.endpoint_url
        scheme = urlsplit(url).scheme
        if get_environ_proxies(url).get(scheme):
            self.warning = PROXIED.format(variable=f"{scheme.upper()}_PROXY")
            return _SdkTransport(self)
        transport = _BulkTransport(self, self._client.meta, tls if scheme == "https" else None, self._timeout_s)
        self._stack.callback(transport.close)
        return transport

    async def keys(self) -> Any:
        """The keys to sign with, renewed when they must be."""
        try:
            return await self._credentials.get_frozen_credentials()
        except Exception as error:
            fault = self.fault_of(error)
            if fault is error:
                raise
            raise fault from error

    async def call(self, operation: str, *, of_row: bool = False, **parameters: Any) -> dict[str, Any]:
        """One call through aiobotocore, its errors translated; see `Transport.batch_write`.

        of_row: whether it is a row's fault if the request is refused as such.
        """
        from botocore.exceptions import HTTPClientError

        try:
            answered = cast("dict[str, Any]", await getattr(self._client, operation)(**parameters))
        except Exception as error:
            fault = self.fault_of(error)
            if fault is error:
                raise
            if isinstance(fault, Retry) and isinstance(error, HTTPClientError | OSError) and not self._has_answered:
                await asyncio.to_thread(require_same_language, self._client.meta.endpoint_url)
            if isinstance(fault, Refused) and not of_row and operation not in _OF_ROWS:
                raise ConfigurationError(
                    f"DynamoDB takes no such request ({fault.code} at {operation}); check the table's name and keys."
                ) from error
            raise fault from error
        self._has_answered = True
        return answered

    def fault_of(self, error: Exception) -> Exception:
        """An error that a call came to in our terms; one that is none of AWS's or the connection's stays what it is."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        if not isinstance(error, BotoCoreError | ClientError | ResponseParserError | OSError | EOFError):
            return error
        return self.given_up(fault_of(error, may_pass=self._credentials is not None))

    def given_up(self, fault: Exception) -> Exception:
        """The same fault, but where it is said that a token has expired which nothing here can renew."""
        if isinstance(fault, Retry) and "Expired" in fault.reason and not self._can_renew():
            return ConfigurationError("The AWS session token has expired; get a new one, then run again.")
        return fault

    def _can_renew(self) -> bool:
        """Keys without a token do not expire; a token that was given as it is stays what it is."""
        token = getattr(self._credentials, "token", None) if not hasattr(self._credentials, "refresh_needed") else None
        return not token

    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        assert self._transport is not None, "open comes first"
        return await self._transport.batch_write(body)

    async def put(self, body: bytes) -> None:
        assert self._transport is not None, "open comes first"
        await self._transport.put(body)

    async def close(self) -> None:
        self._client = self._transport = None
        await self._stack.aclose()


def _tls_context(trusted: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=trusted or None)
    except OSError as error:  # ssl.SSLError among them
        raise ConfigurationError(
            f"The certificates in {trusted} cannot be read ({error.strerror or type(error).__name__}); name another "
            "file."
        ) from error


class _SdkTransport:
    """The portable path: every request through aiobotocore."""

    def __init__(self, client: DynamoDBClient) -> None:
        self._client = client

    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        return _unprocessed(await self._client.call("batch_write_item", **json.loads(body)))

    async def put(self, body: bytes) -> None:
        await self._client.call("put_item", of_row=True, **_with_bytes(json.loads(body)))


class _BulkTransport:
    """Ready-made bodies, signed here. Checks the reply's CRC as the SDK does."""

    def __init__(self, client: DynamoDBClient, meta: Any, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        url: str = meta.endpoint_url
        self._client = client
        self._signer = Signer("dynamodb", meta.region_name, urlsplit(url).netloc)
        self._http = HttpPoster(url, tls=tls, connect_timeout_s=min(10, timeout_s), timeout_s=timeout_s)

    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        reply = await self._post("BatchWriteItem", body)
        return [] if reply == b'{"UnprocessedItems":{}}' else _unprocessed(_json_object(reply))

    async def put(self, body: bytes) -> None:
        reply = await self._post("PutItem", body)
        if reply != b"{}":
            raise Retry("the reply is not DynamoDB's")

    async def _post(self, operation: str, body: bytes) -> bytes:
        """One request and its reply, once that says that all went well."""
        keys = await self._client.keys()
        headers = self._signer.headers(
            f"DynamoDB_20120810.{operation}", body, keys.access_key, keys.secret_key, keys.token, datetime.now(UTC)
        )
        try:
            response = await self._http.post(headers, body)
        except OSError as error:
            raise self._client.fault_of(error) from error
        reply = response.body
        checksum = response.headers.get(b"x-amz-crc32")
        if checksum is not None and checksum != b"%d" % zlib.crc32(reply):
            raise Retry("DynamoDB's reply was damaged on the way")
        if response.status != 200:
            content = _json_object(reply)
            message = str(content.get("message") or content.get("Message") or "")
            fault = translated(str(content.get("__type", "")), response.status, message, content.get("Item"))
            raise self._client.given_up(fault)
        return reply

    def close(self) -> None:
        self._http.close()


def _json_object(text: bytes) -> dict[str, Any]:
    """Empty unless the text is one."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _with_bytes(value: Any) -> Any:
    """Binary attributes as botocore takes them."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"B"} and isinstance(value["B"], str):
        return {"B": b64decode(value["B"])}
    return {name: _with_bytes(inner) for name, inner in value.items()}


def _unprocessed(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The put requests that were left. Retry unless the reply speaks of them: who else answers 200 stores nothing."""
    if not isinstance(reply.get("UnprocessedItems"), dict):
        raise Retry("the reply is not DynamoDB's")
    return [write for writes in reply["UnprocessedItems"].values() for write in writes]
