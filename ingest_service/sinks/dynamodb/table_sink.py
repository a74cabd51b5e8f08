"""What every sink in a table of DynamoDB is: a way to it, the table itself, and checkpoints in another one."""

import re
from collections.abc import Sequence
from typing import Generic, Literal

from pydantic import Field

from ingest_service.errors import ConfigurationError
from ingest_service.sinks.base import Finding, P, Sink, SinkOptions
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.dynamodb.checkpoints import DynamoDBCheckpoints
from ingest_service.sinks.dynamodb.client import DynamoDBClient
from ingest_service.sinks.dynamodb.tables import Tables
from ingest_service.sinks.pacing import AdaptiveLimit, RateLimit

_START_CONCURRENCY = 8
_NAME = re.compile(r"[A-Za-z0-9_.-]{3,255}")


class TableOptions(SinkOptions):
    """What every sink in DynamoDB takes."""

    endpoint: str = Field("", description="address instead of AWS's, for DynamoDB Local")
    region: str = Field("", description="instead of AWS_REGION")
    transport: Literal["bulk", "sdk"] = Field(
        "bulk", description="ready-made requests, or every one through aiobotocore"
    )
    concurrency: int = Field(32, ge=1, le=512, description="requests in flight at once, at most")
    wcu: float | None = Field(None, gt=0, description="write capacity units a second at most")
    checkpoint_table: str = Field("ingest_checkpoints", description="where checkpoints are kept")
    timeout_s: float = Field(30, gt=0, description="a request without an answer for so long is given up")
    ca_file: str = Field("", description="a file of certificates to trust, instead of the system's")


class TableSink(Sink[P], Generic[P]):
    """Credentials come the way of all AWS tools."""

    is_apart: bool = True  # checkpoints are in a table of their own
    options: TableOptions

    def __init__(
        self, options: TableOptions, table: str, keys: Sequence[str], *, part: str = "", expires: bool = False
    ) -> None:
        """keys: the table's. part: tells what is written into the table from what others write of the same rows."""
        super().__init__(options, AdaptiveLimit(options.concurrency, _START_CONCURRENCY))
        require_names(table, options.checkpoint_table)
        self.table = table
        self._part = part
        self.client = DynamoDBClient(
            region=options.region,
            endpoint=options.endpoint,
            transport=options.transport,
            connections=options.concurrency,
            timeout_s=options.timeout_s,
            ca_file=options.ca_file,
        )
        self.checkpoints: CheckpointStore = DynamoDBCheckpoints(
            self.client, self.retrier, options.checkpoint_table, self.name
        )
        self.place = Place(table + part, options.endpoint.rpartition("@")[2] or options.region)
        self._tables = Tables(self.client, self.retrier, table, keys, options.checkpoint_table, expires=expires)
        self._capacity = RateLimit(options.wcu)

    async def open(self) -> None:
        await self._connect()
        await self._tables.require()

    async def _connect(self) -> None:
        await self.retrier.call(self.client.open)
        if not self.place.server:
            self.place = Place(self.table + self._part, self.client.region)

    async def epoch(self) -> str:
        """The table's own id: a new table of that name has another."""
        table = (await self.retrier.call(lambda: self.client.call("describe_table", TableName=self.table)))["Table"]
        return str(table.get("TableId") or table["CreationDateTime"])

    async def check(self, *, create: bool) -> list[Finding]:
        await self._connect()
        return await self._tables.check(create=create)

    async def close(self) -> None:
        await self.client.close()


def require_names(*tables: str) -> None:
    """ConfigurationError if one of these cannot be a table's."""
    for table in tables:
        if not _NAME.fullmatch(table):
            raise ConfigurationError(
                f"{table!r} cannot be a DynamoDB table: names have 3 to 255 letters, digits, dots, - or _."
            )
