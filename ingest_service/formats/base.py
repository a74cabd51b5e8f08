"""What a format is: a reader of one source from a position on, and of one row by itself.

A new one is these two classes; its reader is registered by the entry-point group `ingest_service.formats`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from ingest_service.datasets.base import Dataset
from ingest_service.errors import RowError
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow, Position
from ingest_service.sources.base import Source

RowValues: TypeAlias = list[list[Any]]  # of each of a row's records the values, in the order of the data set's columns


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows between two positions, read and not yet parsed.

    `is_unended`: they are rows only because the source ends here, and others if it goes on.
    """

    start: Position
    end: Position
    is_unended: bool


class Rows(ABC):
    """A data set bound to the way in which one source says it.

    `recipe` is what a source must keep for its rows to mean the same: of delimited text the header.
    """

    dataset: Dataset
    recipe: str

    @abstractmethod
    def row(self, raw: bytes) -> RowValues | RowError:
        """What a text that is one row says, as a dead letter has it."""

    @abstractmethod
    def advice(self, refused: DeadRow) -> str:
        """What the user of a file whose rows are refused like this one might do: a sentence, or nothing."""


B = TypeVar("B", bound=Block)


class Reader(ABC, Generic[B]):
    """Reads one source from a position on. Blocks the caller; only `chunk` and `values` may be called side by side.

    Where a block ends depends on nothing but where it begins, so a resumed run cuts the same blocks as one that was
    never interrupted. `first` is where the first row begins, `position` where the next block does.
    """

    rows: Rows
    first: Position
    position: Position
    source_size: int | None  # in stored bytes; a file may grow while it is read
    reached_end: bool

    @property
    def length(self) -> int | None:
        """The offset of the end, as far as that is known: of what is packed the stored bytes."""
        return self.source_size

    @abstractmethod
    def __init__(
        self,
        source: Source,
        dataset: Dataset,
        *,
        columns: Mapping[str, str] | None,
        limit: int | None,
        block_bytes: int,
    ) -> None:
        """Before the first row. `columns` names the user's own by role, `limit` bounds the rows.

        Blocks. ConfigurationError if the source has no such rows, SourceNotFound if there is none.
        """

    @classmethod
    @abstractmethod
    def rows_of(cls, dataset: Dataset, recipe: str, columns: Mapping[str, str] | None = None) -> Rows:
        """What reads the rows of a source that had this recipe, one by one and without the source."""

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether there is no next block: the end or the limit is reached."""

    @property
    @abstractmethod
    def warnings(self) -> Sequence[str]:
        """What of the source was passed over so far."""

    @abstractmethod
    def require(self, recipe: str) -> None:
        """SourceChanged unless the source's rows still mean what they meant to the run that had this recipe."""

    @abstractmethod
    def resume(self, at: Position, *, was_unended: bool = False) -> None:
        """Go on at `at`, which an earlier run reached. SourceChanged if this is not the source that it read.

        LineContinued if its last row, or with `was_unended` its last record, had no end then, and went on since.
        """

    @property
    @abstractmethod
    def is_divisible(self) -> bool:
        """Whether reading can begin in the middle of the source, without what is before."""

    @abstractmethod
    def cut(self, offset: int) -> Position | None:
        """A place at or soon after `offset` where a row begins for certain, or None if none is found near it.

        Its row and line are counted from there, where they cannot be known. Blocks; the reader stays where it is.
        """

    @abstractmethod
    def until(self, end: Position) -> None:
        """Read no row from `end` on, which `cut` has found: the source ends there."""

    @abstractmethod
    def next(self) -> B | None:
        """The next block, or None at the end or the limit (`reached_end` tells which)."""

    @abstractmethod
    def chunk(self, block: B) -> Chunk:
        """A block's rows as typed columns, and those that are refused."""

    def only(self, block: B, offsets: Ints) -> B:
        """Of a block at least the rows at these offsets, for their records alone: lines are not counted any more.

        offsets: int64[n], ascending; a row of the block begins at each.
        """
        return block

    @abstractmethod
    def values(self, block: B) -> Iterator[RowValues | RowError]:
        """The same row by row, as the specification has it; slow."""

    @abstractmethod
    def ended(self, block: B, end: Position) -> B:
        """The block as it was when the source ended at `end`, within it."""

    @abstractmethod
    def stored_position(self) -> int:
        """How far the stored bytes are read."""

    @abstractmethod
    def close(self) -> None:
        """Release the source."""
