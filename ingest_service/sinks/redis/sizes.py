"""The memory that sets take in Redis: its structures (t_zset.c, dict.c, sds.h of 7.0), each in jemalloc's size class.

Members are longer than `zset-max-listpack-value`, so every set is a skiplist with a dictionary from its first row on.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.texts import lengths
from ingest_service.sinks.fields import json_safe
from ingest_service.sinks.redis.about import About
from ingest_service.sinks.redis.commands import Keeping, member
from ingest_service.sinks.sizes import Found, Sizes, Tally

KNOWN = "Redis 7.0"  # the version whose structures these are
_ENTRY, _OBJECT, _ZSET, _SKIPLIST, _DICT = 24, 16, 16, 32, 56
_NODE, _LEVEL, _LEVELS, _NEXT = 24, 16, 32, 0.25  # of a skiplist: a node, each level of it, the most, and the odds
_POINTER = 8
_LEAST_TABLE = 4


class RedisTally(Tally):
    rows_per_s: ClassVar[int] = 450_000
    within: ClassVar[float] = 0.03

    def __init__(self, keeping: Keeping, look: Callable[[], Awaitable[tuple[Sequence[About], str]]]) -> None:
        """look: what the servers say of themselves, and one of its allocator."""
        self._keeping = keeping
        self._look = look
        self._quantum = 16  # of jemalloc, as Debian's has it; Redis's own has 8
        self._n = self._member_bytes = self._key_bytes = 0
        self._widths = np.zeros(0, np.int64)  # how many members are so long
        self._n_chunks = 0

    def add(self, chunk: Chunk) -> None:
        columns = chunk.columns
        schema = columns.schema
        widths = np.zeros(len(columns), np.int64) + lengths(member(json_safe(columns, but=schema.owner)))
        counts = np.bincount(widths)
        longer = max(len(counts), len(self._widths))
        self._widths = np.pad(self._widths, (0, longer - len(self._widths)))
        self._widths[: len(counts)] += counts
        keys = lengths(self._keeping.key_pieces(columns.texts[schema.owner]))
        self._key_bytes += int(np.sum(np.zeros(len(columns), np.int64) + keys))
        self._n += len(columns)
        self._n_chunks += 1

    async def ask(self) -> Sizes:
        servers, allocator = await self._look()
        if "Quantum size: 8\n" in allocator.replace("\r", ""):
            self._quantum = 8
        limits: Sizes = {}
        if most := sum(one.maxmemory for one in servers):
            limits = {"maxmemory_bytes": most, "maxmemory_policy": servers[0].policy}
        if others := sorted(one.program for one in servers if not one.program.startswith(f"{KNOWN}.")):
            limits["formula"] = f"that of {KNOWN}; the server is {others[0]}"
        return limits

    def sizes(self, found: Found) -> Sizes:
        limit = self._keeping.limit
        kept = sum(min(rows, limit) * users for rows, users in found.users.items())
        tables = sum(self._table(rows, limit) * users for rows, users in found.users.items())
        of_users = found.n_users * self._user_bytes() + 2 * self._allocated(_POINTER * _power(found.n_users))
        return {
            "rows": kept,
            "keys": found.n_users,
            "memory_bytes": round(kept * self._row_bytes() + tables + of_users),
        }

    def _row_bytes(self) -> float:
        widths = np.arange(len(self._widths))
        members = int((self._sds(widths) * self._widths).sum()) / max(self._n, 1)
        levels = range(1, _LEVELS + 1)
        odds = [(1 - _NEXT) * _NEXT ** (level - 1) for level in levels]
        node = sum(odd * self._allocated(_NODE + level * _LEVEL) for odd, level in zip(odds, levels, strict=True))
        return members + node + self._allocated(_ENTRY)

    def _user_bytes(self) -> int:
        key = int(self._sds(np.array([round(self._key_bytes / max(self._n, 1))]))[0])
        parts = (_NODE + _LEVELS * _LEVEL, _DICT, _SKIPLIST, _ZSET, _OBJECT, _ENTRY, _ENTRY)
        return key + sum(map(self._allocated, parts))

    def _table(self, rows: int, limit: int) -> int:
        """A user's dictionary: it doubles as rows come, and is made smaller once it is nearly empty."""
        at_once = -(-rows // max(self._n_chunks, 1))
        return self._allocated(_POINTER * max(_LEAST_TABLE, _power(min(rows, limit + at_once))))

    def _sds(self, lengths: Ints) -> Ints:
        """Strings of so many bytes: a header as long as their length needs, and a zero."""
        header = np.select([lengths < 1 << 5, lengths < 1 << 8, lengths < 1 << 16], [1, 3, 5], 9)
        sizes = lengths + header + 1
        different, inverse = np.unique(sizes, return_inverse=True)
        return np.array([self._allocated(size) for size in different.tolist()], np.int64)[inverse]

    def _allocated(self, size: int) -> int:
        """What jemalloc gives for so many bytes: four classes between a power of two and the next."""
        if size <= 8:
            return 8
        spacing = max(self._quantum, 1 << ((size - 1).bit_length() - 3))
        return -(-size // spacing) * spacing


def _power(n: int) -> int:
    """The first power of two that is not smaller."""
    return 1 << max(n - 1, 0).bit_length()
