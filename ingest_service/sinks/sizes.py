"""What rows will take in a store, told before they are there: what `estimate` asks of a sink."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from ingest_service.rows.chunk import Chunk

Sizes: TypeAlias = dict[str, int | float | str]  # by name, with the unit in it


@dataclass(frozen=True, slots=True)
class Found:
    """What a source holds: rows read, refused and filtered, records, and those whose key comes again later.

    `users` says how many users have so many records with different keys each: {records: users}. `scale`: how many times
    the records that were added to a tally these are, where only some were.
    """

    read: int
    rejected: int
    filtered: int
    records: int
    repeated: int
    users: Mapping[int, int]
    scale: float = 1.0

    @property
    def kept(self) -> int:
        """Records that a store which keeps all has in the end."""
        return self.records - self.repeated

    @property
    def n_users(self) -> int:
        return sum(self.users.values())

    @property
    def largest_user(self) -> int:
        """How many records the user with the most has."""
        return max(self.users, default=0)


class Tally(ABC):
    """Adds up what a sink's rows take. `rows_per_s` is what it usually stores on two cores, its server beside it.

    within: how far what it says in bytes may be from what the store takes, as a fraction. means: the names of sizes
    that are of one record, and do not grow with the source.
    """

    rows_per_s: ClassVar[int]
    within: ClassVar[float] = 0.0
    means: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def add(self, chunk: Chunk) -> None:
        """Accepted rows that are sent together: none has another's key."""

    async def ask(self) -> Sizes:
        """What the server says of its limits. IngestError if it cannot be asked."""
        return {}

    @abstractmethod
    def sizes(self, found: Found) -> Sizes:
        """What the whole source takes, of which `found` is; all that was added was its records, or some of them."""

    def least_s(self, found: Found) -> float:
        """How long it takes at least, whatever this program does."""
        return 0.0


@runtime_checkable
class Sized(Protocol):
    """For `estimate`."""

    def tally(self, prices: Path | None) -> Tally:
        """`prices`: a file of the user's in place of the store's own list, where it has one."""
