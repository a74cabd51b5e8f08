"""The two tables of a sink: whether they are there, have the keys that they must, and take what will be written."""

from collections.abc import Mapping, Sequence
from typing import Any

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.sinks.base import Finding
from ingest_service.sinks.dynamodb.client import DynamoDBClient
from ingest_service.sinks.dynamodb.errors import TableMissing
from ingest_service.sinks.dynamodb.items import EXPIRES_AT
from ingest_service.sinks.retry import Retrier

_KINDS = {"S": "text", "N": "number", "B": "binary value"}
_ENABLED = ("ENABLED", "ENABLING")


ROW_KEYS = ("user_id", "event_key")


def definition(table: str, keys: Sequence[str] = ROW_KEYS) -> dict[str, Any]:
    """What a new table is made with."""
    return {
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in keys],
        "KeySchema": [
            {"AttributeName": name, "KeyType": kind} for name, kind in zip(keys, ("HASH", "RANGE"), strict=False)
        ],
    }


class Tables:
    """`table` is for rows, which expire or not, and `checkpoint_table` for checkpoints."""

    def __init__(
        self,
        client: DynamoDBClient,
        retrier: Retrier,
        table: str,
        keys: Sequence[str],
        checkpoint_table: str,
        *,
        expires: bool,
    ) -> None:
        self._client = client
        self._retrier = retrier
        self._table = table
        self._expires = expires
        self._keys = {table: tuple(keys), checkpoint_table: ("stream", "sink")}

    async def require(self) -> None:
        """ConfigurationError unless both are there, with their keys."""
        for table in self._keys:
            if await self._found(table) is None:
                raise ConfigurationError(
                    f"There is no DynamoDB table {table}; make it with: ingest-service check --create."
                )

    async def check(self, *, create: bool) -> list[Finding]:
        findings = []
        for table in self._keys:
            found = await self._found(table) is not None
            detail = "is there" if found else "is missing; make it with --create"
            if not found and create:
                await self._create(table)
                found, detail = True, "was made"
            findings.append(Finding(f"table {table}", found, detail))
        if create and self._expires:
            findings.append(await self._enable_expiry())
        return findings

    async def survey(self, kinds: Mapping[str, str]) -> list[Finding]:
        """Indexes whose keys are of another type than the rows' attributes, and rows that expire where nothing does."""
        found = await self._found(self._table) or {}
        types = {one["AttributeName"]: one["AttributeType"] for one in found.get("AttributeDefinitions", ())}
        findings = []
        for index in (*found.get("GlobalSecondaryIndexes", ()), *found.get("LocalSecondaryIndexes", ())):
            for name in (one["AttributeName"] for one in index["KeySchema"]):
                wanted, given = types.get(name), kinds.get(name)
                if given is not None and wanted != given:
                    findings.append(_mismatch(str(index["IndexName"]), name, wanted, given))
        if self._expires and (expiry := await self._expiry()) is not None:
            findings.append(expiry)
        return findings

    async def _found(self, table: str) -> dict[str, Any] | None:
        """The table's description once it is ready, None if there is none; ConfigurationError if it has other keys."""

        async def attempt() -> dict[str, Any] | None:
            try:
                reply = await self._client.call("describe_table", TableName=table)
            except TableMissing:
                return None
            found = reply.get("Table")
            if not isinstance(found, dict):  # a captive portal, or any other server that answers 200
                raise ConfigurationError("The DynamoDB endpoint does not answer as DynamoDB does; check endpoint=….")
            if found["TableStatus"] not in ("ACTIVE", "UPDATING"):
                raise Retry(f"table {table} is {found['TableStatus'].lower()}")
            types = {one["AttributeName"]: one["AttributeType"] for one in found["AttributeDefinitions"]}
            keys = [(one["AttributeName"], types[one["AttributeName"]]) for one in found["KeySchema"]]
            if keys != [(name, "S") for name in self._keys[table]]:
                wanted = " and ".join(self._keys[table])
                raise ConfigurationError(f"DynamoDB table {table} has other keys than {wanted}; name another table.")
            return found

        return await self._retrier.call(attempt)

    async def _create(self, table: str) -> None:
        async def attempt() -> None:
            await self._client.call("create_table", **definition(table, self._keys[table]))

        await self._retrier.call(attempt)
        await self._found(table)

    async def _enable_expiry(self) -> Finding:
        """Let DynamoDB delete rows at their `expires_at`, unless the table's time to live is another attribute's."""
        if (now := await self._expiry()) is None:
            return self._about_expiry(f"is enabled on {EXPIRES_AT}", warning=False)
        if now.detail != _DISABLED:
            return now
        wanted = {"Enabled": True, "AttributeName": EXPIRES_AT}
        try:
            await self._retrier.call(
                lambda: self._client.call("update_time_to_live", TableName=self._table, TimeToLiveSpecification=wanted)
            )
        except ConfigurationError:
            return self._about_expiry("could not be enabled: that needs dynamodb:UpdateTimeToLive")
        return self._about_expiry(f"was enabled on {EXPIRES_AT}", warning=False)

    async def _expiry(self) -> Finding | None:
        """What is wrong with the table's time to live, if rows are to expire."""
        try:
            reply = await self._retrier.call(lambda: self._client.call("describe_time_to_live", TableName=self._table))
        except ConfigurationError:
            return self._about_expiry("could not be looked at: that needs dynamodb:DescribeTimeToLive")
        found = reply.get("TimeToLiveDescription", {})
        if found.get("TimeToLiveStatus") not in _ENABLED:
            return self._about_expiry(_DISABLED)
        if found.get("AttributeName") != EXPIRES_AT:
            return self._about_expiry(
                f"is on another attribute than {EXPIRES_AT}, so that rows stay longer than ttl_s says"
            )
        return None

    def _about_expiry(self, detail: str, *, warning: bool = True) -> Finding:
        return Finding(f"time to live of table {self._table}", True, detail, warning=warning)


_DISABLED = "is not enabled, so that rows stay longer than ttl_s says; enable it with: ingest-service check --create"


def _mismatch(index: str, name: str, wanted: str | None, given: str) -> Finding:
    wants, has = _KINDS.get(wanted or "", "other value"), _KINDS[given]
    return Finding(
        f"index {index}",
        False,
        f"its key {name} is a {wants}, but rows have a {has} there, so that DynamoDB refuses each of them; "
        "remove the index or name another table.",
    )
