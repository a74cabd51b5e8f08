"""A DynamoDB that stores nothing and takes no more than it is told to: what it does not take, it says is unprocessed.

    python -m benchmarks.limited_dynamodb [--port 0] [--capacity 2000] [--partitions 8] [--refuse 0.3]

`--capacity` is in write capacity units a second, of each partition; a token bucket of a tenth of a second. A user's
items lie in one partition. `--refuse` is a share of items refused at random besides. GET / answers what was consumed.
"""

import argparse
import json
import random
import time
import zlib
from typing import Any, Final

import uvloop

from benchmarks.null_dynamodb import Counts, NullDynamoDB, response, serve

_UNIT_BYTES: Final = 1024
_BURST_S: Final = 0.1
_SLOT_S: Final = 0.1


class Table(Counts):
    """What was asked for and taken, and what it may take."""

    def __init__(self, capacity: float, partitions: int, refuse: float) -> None:
        super().__init__()
        self.refused = 0
        self.units: dict[int, int] = {}  # consumed, by tenth of a second
        self._capacity = capacity
        self._refuse = refuse
        self._free_at = [0.0] * partitions
        self._random = random.Random(1)

    def counts(self) -> dict[str, Any]:
        return {"requests": self.requests, "items": self.items, "refused": self.refused, "units": self.units}

    def take(self, item: dict[str, dict[str, str]]) -> bool:
        """Whether there is capacity for the item; if so it is consumed."""
        units = -(-sum(len(name) + len(*value.values()) for name, value in item.items()) // _UNIT_BYTES)
        now = time.monotonic()
        partition = zlib.crc32(item["user_id"]["S"].encode()) % len(self._free_at)
        free_at = max(self._free_at[partition], now - _BURST_S)
        if self._random.random() < self._refuse or (self._capacity and free_at > now):
            self.refused += 1
            return False
        if self._capacity:
            self._free_at[partition] = free_at + units / self._capacity
        self.items += 1
        slot = int(now / _SLOT_S)
        self.units[slot] = self.units.get(slot, 0) + units
        return True


class LimitedDynamoDB(NullDynamoDB):
    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._table = table

    def batch_write(self, body: bytes) -> bytes:
        ((name, writes),) = json.loads(body)["RequestItems"].items()
        left = [write for write in writes if not self._table.take(write["PutRequest"]["Item"])]
        return response({"UnprocessedItems": {name: left} if left else {}})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limited_dynamodb", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--capacity", type=float, default=0, help="0 for no limit")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--refuse", type=float, default=0)
    options = parser.parse_args()
    table = Table(options.capacity, options.partitions, options.refuse)
    uvloop.run(serve(options.port, table, lambda: LimitedDynamoDB(table)))


if __name__ == "__main__":
    main()
