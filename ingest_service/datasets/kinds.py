"""What a column of a source may hold, each kind with two readings that agree: of one text, and of a whole block.

`one` is the specification. `many` is sound: what it marks as right has the value that `one` gives; whatever is not
plainly right it leaves to `one`, which then accepts it or words the error.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ingest_service.rows import interaction, parse
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Values
from ingest_service.rows.interaction import TimeUnit, micros_of
from ingest_service.rows.parse import Bytes
from ingest_service.rows.texts import Texts


class Kind(ABC):
    """A kind of column. `advice` says, by the code of a refusal, what the user might do."""

    advice: ClassVar[Mapping[str, str]] = {}
    is_verbatim: ClassVar[bool] = False  # whether blanks around a value are part of it

    @abstractmethod
    def one(self, text: str, column: str) -> Any:
        """The value of one field, in column `column`; RowError says what is wrong with it."""

    @abstractmethod
    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        """The values of n fields, given by their bounds in a padded block, and which of them are surely right."""

    def gathered(self, values: Sequence[Any]) -> Values:
        """A column of what `one` has read."""
        return np.array(values, np.int64)


@dataclass(frozen=True, slots=True)
class Integer(Kind):
    """An id: int64."""

    advice: ClassVar[Mapping[str, str]] = {
        "bad_id": "Ids are whole numbers like 42; another column is named by --column, as in --column user=uid."
    }

    def one(self, text: str, column: str) -> int:
        return interaction.parse_id(text, column)

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        return parse.integers(buffer, starts, parse.without_zero_fraction(buffer, starts, ends))


@dataclass(frozen=True, slots=True)
class Time(Kind):
    """A time: int64, in microseconds since 1970 UTC. `unit` is that of an epoch."""

    unit: TimeUnit = "auto"
    advice: ClassVar[Mapping[str, str]] = {
        "bad_timestamp": "Write times like 2020-03-05T10:00:00Z, or as whole Unix seconds or milliseconds.",
        "timestamp_out_of_range": "Is it the right column, and a time?",
    }

    def one(self, text: str, column: str) -> int:
        return micros_of(interaction.parse_timestamp(text, column, self.unit))

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        return parse.timestamps(buffer, starts, ends, self.unit)


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Any text, as it stands."""

    is_verbatim = True

    def one(self, text: str, column: str) -> str:
        return text

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        return Texts(buffer, starts, ends - starts), np.ones(len(starts), np.bool_)

    def gathered(self, values: Sequence[Any]) -> Values:
        return Texts.of(values)


ID = Integer()
TEXT = Text()
