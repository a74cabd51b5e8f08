"""What the suite must know about a sink."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from ingest_service.rows.chunk import Chunk
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.sinks.testing.rows import key_of

Stored: TypeAlias = dict[tuple[str, str], object]  # by user and event key: whatever the store holds for one record


class Kit(ABC):
    """One sink: where it is, what it should hold, what it does hold."""

    url: str  # set up, empty
    down_url: str | None = None  # the same kind of sink, which cannot be opened; None where it always can

    async def set_up(self) -> None:
        """Make the tables."""

    @abstractmethod
    def stored(self) -> Stored: ...

    @abstractmethod
    def remove(self, record: VideoInteraction) -> None:
        """Take one record out, behind the program's back."""

    @abstractmethod
    def exact(self, record: VideoInteraction) -> object:
        """What `stored` has for one record."""

    def expected(self, records: Sequence[VideoInteraction]) -> Stored:
        """Later records replace earlier ones of their key."""
        return {key_of(record): self.exact(record) for record in records}

    def kept(self, records: Sequence[VideoInteraction]) -> Sequence[VideoInteraction]:
        """Those that the store keeps of so many: all, or each user's newest."""
        return records

    def poisoned(self) -> tuple[Chunk, dict[int, str]] | None:
        """A chunk, and the code for each row of it that the store must refuse; None where it refuses none."""
        return None
