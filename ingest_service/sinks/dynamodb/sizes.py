"""What rows take in DynamoDB: write units, money, and the time that its limits ask for.

How items are counted: DynamoDB developer guide, "DynamoDB Item sizes and formats" and "Read and write capacity".
"""

import tomllib
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest_service.errors import ConfigurationError
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.sinks.dynamodb.items import EXPIRES_AT, UNIT_BYTES, expiry_s, line_bytes, text_bytes
from ingest_service.sinks.sizes import Found, Sizes, Tally

PARTITION_UNITS = 1_000  # a second, which one partition takes, and so one user
NEW_TABLE_UNITS = 4_000  # a second, which a new table on demand takes
_OVERHEAD_BYTES = 100  # of each item, in what storage is billed by
_GB = 1 << 30
_LIST = Path(__file__).with_name("prices.toml")


class Prices(BaseModel):
    """What the units cost, where and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str
    date: date
    usd_per_million_write_units: float = Field(ge=0)
    usd_per_unit_hour: float = Field(ge=0)
    usd_per_gb_month: float = Field(ge=0)
    usd_per_gb_imported: float = Field(ge=0)

    @classmethod
    def of(cls, path: Path | None) -> "Prices":
        """ConfigurationError if the file cannot be read, or is no list of prices."""
        try:
            return cls.model_validate(tomllib.loads((path or _LIST).read_text("utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read ({error}).") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{path} is no TOML: {error}.") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigurationError(
                f"{path}: {place}: {first['msg']}; it needs: {', '.join(cls.model_fields)}."
            ) from None


class DynamoDBTally(Tally):
    rows_per_s: ClassVar[int] = 150_000
    means: ClassVar[frozenset[str]] = frozenset({"item_bytes"})

    def __init__(self, ttl_s: int | None, units_per_s: float | None, prices: Path | None) -> None:
        self._ttl_s = ttl_s
        self._units_per_s = units_per_s or NEW_TABLE_UNITS
        self._prices = Prices.of(prices)
        self._n = self._units = self._bytes = self._line_bytes = 0

    def add(self, chunk: Chunk) -> None:
        columns = chunk.columns
        sizes = _item_bytes(columns, self._ttl_s)
        self._n += len(columns)
        self._units += int((-(-sizes // UNIT_BYTES)).sum())
        self._bytes += int(sizes.sum())
        self._line_bytes += int(line_bytes(columns, self._ttl_s).sum())

    def sizes(self, found: Found) -> Sizes:
        item_bytes = self._bytes / max(self._n, 1)
        imported = found.kept * self._line_bytes / max(self._n, 1)
        stored = found.kept * (item_bytes + _OVERHEAD_BYTES) / _GB
        prices, units = self._prices, self._units_of(found)
        sizes: Sizes = {
            "items": found.kept,
            "item_bytes": round(item_bytes, 1),
            "write_units": units,
            "usd_on_demand": round(units / 1e6 * prices.usd_per_million_write_units, 4),
            "usd_provisioned": round(units / 3_600 * prices.usd_per_unit_hour, 4),
            "usd_storage_a_month": round(stored * prices.usd_per_gb_month, 4),
            "import_bytes": round(imported),
            "usd_import_from_s3": round(imported / _GB * prices.usd_per_gb_imported, 4),
            "prices": f"{prices.region}, {prices.date}",
            "units_of_largest_user": self._of_largest(found),
        }
        return sizes

    def least_s(self, found: Found) -> float:
        return max(self._units_of(found) / self._units_per_s, self._of_largest(found) / PARTITION_UNITS)

    def _units_of(self, found: Found) -> int:
        return round(self._units * found.scale)

    def _of_largest(self, found: Found) -> int:
        return round(found.largest_user * self._units / max(self._n, 1))


def _item_bytes(columns: Columns, ttl_s: int | None) -> Ints:
    """What DynamoDB counts for each item: its names and values, all in UTF-8, and numbers by their digits."""
    sizes = text_bytes(columns)
    numbers: dict[str, NDArray[Any]] = dict(columns.numbers)
    if ttl_s is not None:
        numbers[EXPIRES_AT] = expiry_s(columns, ttl_s)
    for name, values in numbers.items():
        different, inverse = np.unique(values, return_inverse=True)
        sizes += len(name.encode()) + np.array([_number_bytes(one) for one in different.tolist()], np.int64)[inverse]
    return sizes


def _number_bytes(number: float) -> int:
    """A byte for two significant digits, one more, and one for the sign of a negative number."""
    sign, digits, _ = Decimal(repr(number)).normalize().as_tuple()
    return 1 + -(-len(digits) // 2) + sign
