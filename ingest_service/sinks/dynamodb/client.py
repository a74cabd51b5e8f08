"""The way to DynamoDB: aiobotocore's client, and a lean transport for bulk writes beside it.

Credentials and their refresh, region and endpoint are always aiobotocore's. The bulk transport posts bodies that are
already JSON, signed here, where botocore would build, check and parse every item as Python objects.
"""

import json
import os
import ssl
import zlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.sinks.dynamodb.http_post import HttpPoster
from ingest_service.sinks.dynamodb.sigv4 import Signer

# AWS error codes by what follows from them. Everything else that is the client's fault is a setting to fix.
THROTTLED = frozenset(
    (
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottledException",
        "ThrottlingException",
    )
)
PASSING = frozenset(
    (
        "InternalFailure",
        "InternalServerError",
        "ItemCollectionSizeLimitExceededException",
        "LimitExceededException",
        "RequestTimeout",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "TransactionInProgressException",
    )
)
EXPIRED = frozenset(("ExpiredToken", "ExpiredTokenException", "RequestExpired"))
INVALID = frozenset(("RequestEntityTooLarge", "SerializationException", "ValidationException"))


class Refused(Exception):
    """DynamoDB refuses the request as such: some item in it is not valid. `code` is AWS's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Transport(Protocol):
    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        """One BatchWriteItem request, ready-made JSON; returns its unprocessed put requests.

        Retry for what may pass, Refused if an item is not valid, ConfigurationError for what must be fixed first.
        """
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
        self._transport: Transport | None = None

    async def open(self) -> None:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session
        from botocore.exceptions import BotoCoreError

        if self._client is not None:
            return
        session = get_session()
        config = AioConfig(
            # Retries are the sink's: what botocore does by itself depends on its version and the user's files.
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=self._connections,
            connect_timeout=min(10, self._timeout_s),
            read_timeout=self._timeout_s,
        )
        try:
            client = session.create_client(
                "dynamodb",
                # botocore knows AWS_DEFAULT_REGION only; every other AWS tool takes AWS_REGION too.
                region_name=self._region or os.environ.get("AWS_REGION"),
                endpoint_url=self._endpoint or None,
                config=config,
                verify=self._ca_file or None,
            )
            self._client = await self._stack.enter_async_context(client)
            credentials = await session.get_credentials()
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"DynamoDB cannot be set up: {type(error).__name__}; check region and endpoint."
            ) from error
        if credentials is None:
            raise ConfigurationError(
                "No AWS credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret."
            )
        if self._kind == "sdk":
            self._transport = _SdkTransport(self)
        else:
            transport = _BulkTransport(self._client.meta, credentials, self._timeout_s, self._ca_file)
            self._stack.callback(transport.close)
            self._transport = transport

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call through aiobotocore, its errors translated; see `Transport.batch_write`."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            return cast("dict[str, Any]", await getattr(self._client, operation)(**parameters))
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise translated(error.response.get("Error", {}).get("Code", ""), status) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigurationError("No AWS credentials were found; set AWS_PROFILE, or the access keys.") from error
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise Retry(f"connection fault ({type(error).__name__})") from error

    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        assert self._transport is not None, "open comes first"
        return await self._transport.batch_write(body)

    async def close(self) -> None:
        self._client = None
        await self._stack.aclose()


class ConditionFailed(Exception):
    """A conditional write found something else than it was told to expect."""


def translated(code: str, status: int) -> Exception:
    """An AWS error code and HTTP status in the terms of this program. Texts are left out: they may quote the row."""
    code = code.rpartition("#")[2]
    if code in THROTTLED:
        return Retry(f"DynamoDB answers {code}", throttled=True)
    if code in PASSING or code in EXPIRED or status >= 500:
        return Retry(f"DynamoDB answers {code or status}")
    if code in INVALID or status == 413:
        return Refused(code or str(status))
    if code == "ConditionalCheckFailedException":
        return ConditionFailed(code)
    if code == "ResourceNotFoundException":
        return ConfigurationError("The DynamoDB table does not exist; make it with: ingest-service check --create.")
    return ConfigurationError(
        f"DynamoDB refuses the request ({code or status}); check credentials, permissions and region."
    )


class _SdkTransport:
    """The portable path: every request through aiobotocore."""

    def __init__(self, client: DynamoDBClient) -> None:
        self._client = client

    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        reply = await self._client.call("batch_write_item", **json.loads(body))
        return [write for writes in reply.get("UnprocessedItems", {}).values() for write in writes]


class _BulkTransport:
    """Ready-made bodies, signed here. Checks the reply's CRC as the SDK does."""

    _TARGET = "DynamoDB_20120810.BatchWriteItem"

    def __init__(self, meta: Any, credentials: Any, timeout_s: float, ca_file: str) -> None:
        url: str = meta.endpoint_url
        self._credentials = credentials
        self._signer = Signer("dynamodb", meta.region_name, urlsplit(url).netloc)
        tls = ssl.create_default_context(cafile=ca_file or None) if url.startswith("https:") else None
        self._http = HttpPoster(url, tls=tls, connect_timeout_s=min(10, timeout_s), timeout_s=timeout_s)

    async def batch_write(self, body: bytes) -> Sequence[dict[str, Any]]:
        keys = await self._credentials.get_frozen_credentials()
        headers = self._signer.headers(
            self._TARGET, body, keys.access_key, keys.secret_key, keys.token, datetime.now(UTC)
        )
        try:
            response = await self._http.post(headers, body)
        except (OSError, TimeoutError) as error:
            raise Retry(f"connection fault ({type(error).__name__})") from error
        reply = response.body
        checksum = response.headers.get(b"x-amz-crc32")
        if checksum is not None and checksum != b"%d" % zlib.crc32(reply):
            raise Retry("DynamoDB's reply was damaged on the way")
        if response.status == 200 and reply == b'{"UnprocessedItems":{}}':
            return []
        try:
            content: dict[str, Any] = json.loads(reply) if reply else {}
        except ValueError:
            content = {}
        if response.status != 200:
            raise translated(str(content.get("__type", "")), response.status)
        return [write for writes in content.get("UnprocessedItems", {}).values() for write in writes]

    def close(self) -> None:
        self._http.close()
