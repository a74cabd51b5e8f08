"""What a column of a source may hold, each kind with two readings that agree: of one text, and of a whole block.

`one` is the specification. `many` is sound: what it marks as right has the value that `one` gives; whatever is not
plainly right it leaves to `one`, which then accepts it or words the error.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from ingest_service.errors import RowError, declare_codes
from ingest_service.rows import interaction, parse
from ingest_service.rows.arrays import Bools, Ints, hold_none
from ingest_service.rows.columns import Values, taken
from ingest_service.rows.distinct import distinct
from ingest_service.rows.interaction import WHITESPACE, TimeUnit, micros_of, within_range
from ingest_service.rows.parse import Bytes
from ingest_service.rows.texts import Texts, decimals

declare_codes(
    {
        "bad_number": "not a number, or not a whole one",
        "bad_value": "none of the values that the schema has",
        "missing_value": "nothing, where something must be",
    }
)
T = TypeVar("T")

_UUID_BYTES, _DASHES = 36, frozenset({8, 13, 18, 23})
_IS_HEX = np.isin(np.arange(256), list(b"0123456789abcdef"))  # not upper case, which has another form
_IS_WHITESPACE = np.isin(np.arange(256), list(WHITESPACE.encode()))
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HOURS_AND_MINUTES = re.compile(r"[0-9]{1,4}")
_NOT_IN_KEYS = re.compile(r"[\x00-\x1f\x7f#{}]")  # `#` parts the keys of records, braces are hash tags in Redis's
_IS_NOT_IN_KEYS = np.isin(np.arange(256), [*range(0x20), 0x7F, *b"#{}"])
MAX_ID_BYTES = 512  # two of them, and a time, fit into DynamoDB's keys
_DAY_MICROS = 86_400 * 1_000_000
_DIGITS = 40  # the longest number that could be a time has fewer


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

    def texts(self, read: Texts) -> tuple[Values, Bools]:
        """The same of texts by themselves, with the blanks around them. One with a NUL byte is not surely right."""
        buffer = parse.padded(read.buffer.tobytes())
        starts = read.starts + parse.PAD
        ends = starts + read.widths
        good = np.ones(len(read), np.bool_)
        if len(nuls := np.flatnonzero(read.buffer == 0)):
            good = hold_none(nuls + parse.PAD, starts, ends)
        if not self.is_verbatim:
            starts, ends = parse.bare(buffer, starts, ends, has_quotes=False)
        values, valid = self.many(buffer, starts, ends)
        return values, valid & good

    def whole(self, numbers: Ints) -> tuple[Values, Bools]:
        """The same of whole numbers in decimal."""
        texts = decimals(numbers)
        starts = texts.starts + parse.PAD
        return self.many(parse.padded(texts.buffer.tobytes()), starts, starts + texts.widths)

    def reals(self, numbers: NDArray[np.float64]) -> Values | None:
        """The same of finite numbers, of which all are right; None if it goes by how they are written."""
        return None

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

    def whole(self, numbers: Ints) -> tuple[Values, Bools]:
        return numbers, np.ones(len(numbers), np.bool_)


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

    def whole(self, numbers: Ints) -> tuple[Values, Bools]:
        return parse.epochs(numbers, self.unit)


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


@dataclass(frozen=True, slots=True)
class TextId(Kind):
    """An id that is a text, without the blanks around it."""

    def one(self, text: str, column: str) -> str:
        text = text.strip(WHITESPACE)
        if not text:
            raise RowError("validate", "bad_id", f"{column} is empty.")
        return text

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        outer = _IS_WHITESPACE[buffer[starts]] | _IS_WHITESPACE[buffer[ends - 1]]
        return Texts(buffer, starts, ends - starts), (ends > starts) & ~outer

    def gathered(self, values: Sequence[Any]) -> Values:
        return Texts.of(values)


@dataclass(frozen=True, slots=True)
class RawId(TextId):
    """An id that is stored as it stands. What would be doubtful in the key of some store is refused."""

    advice: ClassVar[Mapping[str, str]] = {"bad_id": "Without x-stored, ids of any text become UUIDs."}

    def one(self, text: str, column: str) -> str:
        text = TextId.one(self, text, column)
        if _NOT_IN_KEYS.search(text) or len(text.encode()) > MAX_ID_BYTES:
            reason = f"{column} has #, a brace or a control character in it, or more than {MAX_ID_BYTES} bytes."
            raise RowError("validate", "bad_id", reason)
        return text

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        texts, good = TextId.many(self, buffer, starts, ends)
        good &= hold_none(np.flatnonzero(_IS_NOT_IN_KEYS[buffer]), starts, ends)
        return texts, good & (ends - starts <= MAX_ID_BYTES)


@dataclass(frozen=True, slots=True)
class UuidId(TextId):
    """An id that is a UUID; it is kept in its usual form."""

    advice: ClassVar[Mapping[str, str]] = {"bad_id": "A UUID is written like 6ba7b810-9dad-11d1-80b4-00c04fd430c8."}

    def one(self, text: str, column: str) -> str:
        try:
            return str(UUID(text.strip(WHITESPACE)))
        except ValueError:
            raise RowError("validate", "bad_id", f"{column} is not a UUID.") from None

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        valid = ends - starts == _UUID_BYTES
        at = np.where(valid, starts, 0)
        for index in range(_UUID_BYTES):
            valid &= buffer[at + index] == ord("-") if index in _DASHES else _IS_HEX[buffer[at + index]]
        return Texts(buffer, starts, ends - starts), valid


@dataclass(frozen=True, slots=True)
class AnyText(Kind):
    """A text, without the blanks around it. Where it is missing it is `default`, and without one the row is refused."""

    missing: frozenset[str] = frozenset()
    default: str | None = None

    def one(self, text: str, column: str) -> str:
        text = text.strip(WHITESPACE)
        return _or_refused(self.default, column) if text in self.missing else text

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        outer = _IS_WHITESPACE[buffer[starts]] | _IS_WHITESPACE[buffer[ends - 1]]
        good = ~outer | (ends == starts)
        widths = ends - starts
        is_missing = _are_missing(buffer, starts, ends, self.missing)
        if self.default is None or not is_missing.any():
            return Texts(buffer, starts, widths), good & ~is_missing
        text = self.default.encode()
        starts = np.where(is_missing, len(buffer), starts)
        widths = np.where(is_missing, len(text), widths)
        return Texts(np.concatenate((buffer, np.frombuffer(text, np.uint8))), starts, widths), good

    def gathered(self, values: Sequence[Any]) -> Values:
        return Texts.of(values)


class Listed(Kind):
    """A kind whose columns have few different texts: each is read once, by the specification."""

    @property
    @abstractmethod
    def filler(self) -> Any:
        """A value to stand where none could be read."""

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        texts, inverse = distinct(Texts(buffer, starts, ends - starts))
        values: list[Any] = []
        good = np.zeros(len(texts), np.bool_)
        for index, text in enumerate(texts.to_list()):
            try:
                values.append(self.one(text, ""))
                good[index] = True
            except RowError:
                values.append(self.filler)
        return taken(self.gathered(values), inverse), good[inverse]


class ListedText(Listed):
    """One whose values are texts."""

    filler: ClassVar[str] = ""

    def gathered(self, values: Sequence[Any]) -> Values:
        return Texts.of(values)


@dataclass(frozen=True, slots=True)
class Number(Listed):
    """A decimal number: float64. Where it is missing it is `default`, and without one the row is refused."""

    missing: frozenset[str] = frozenset()
    default: float | None = None
    filler: ClassVar[float] = 0.0

    def one(self, text: str, column: str) -> float:
        text = text.strip(WHITESPACE)
        if text in self.missing:
            return _or_refused(self.default, column)
        if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
            raise RowError("validate", "bad_number", f"{column} is not a number.")
        return number

    def reals(self, numbers: NDArray[np.float64]) -> Values | None:
        return numbers if self.missing <= {""} else None

    def gathered(self, values: Sequence[Any]) -> Values:
        return np.array(values, np.float64)


@dataclass(frozen=True, slots=True)
class Whole(Listed):
    """A whole number: int64. Where it is missing it is `default`, and without one the row is refused."""

    missing: frozenset[str] = frozenset()
    default: int | None = None
    filler: ClassVar[int] = 0

    def one(self, text: str, column: str) -> int:
        if text.strip(WHITESPACE) in self.missing:
            return _or_refused(self.default, column)
        try:
            return interaction.parse_id(text, column)
        except RowError:
            raise RowError("validate", "bad_number", f"{column} is not a whole number within 64 bits.") from None

    def whole(self, numbers: Ints) -> tuple[Values, Bools]:
        if self.missing <= {""}:
            return numbers, np.ones(len(numbers), np.bool_)
        return Listed.whole(self, numbers)


@dataclass(frozen=True, slots=True)
class Category(ListedText):
    """A text, and what it stands for: `values` maps it, and where there are any no other may stand there."""

    values: Mapping[str, str] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    default: str | None = None

    def one(self, text: str, column: str) -> str:
        text = text.strip(WHITESPACE)
        if text in self.missing:
            return _or_refused(self.default, column)
        if self.values and text not in self.values:
            raise RowError("validate", "bad_value", f"{column} is none of the values that the schema has.")
        return self.values.get(text, text)

    def __hash__(self) -> int:
        return hash((*self.values.items(), self.missing, self.default))


@dataclass(frozen=True, slots=True)
class Exact(ListedText):
    """A decimal number with all its digits: a text, without an exponent."""

    missing: frozenset[str] = frozenset()
    default: str | None = None

    def one(self, text: str, column: str) -> str:
        text = text.strip(WHITESPACE)
        if text in self.missing:
            return _or_refused(self.default, column)
        if not _NUMBER.fullmatch(text) or abs((number := Decimal(text)).adjusted()) > _DIGITS:
            raise RowError("validate", "bad_number", f"{column} is not a number, or one of very many digits.")
        return f"{number:f}"


@dataclass(frozen=True, slots=True)
class ListOfTexts(ListedText):
    """Texts with a delimiter between them: the JSON list of them."""

    delimiter: str
    missing: frozenset[str] = frozenset()
    default: str | None = None

    def one(self, text: str, column: str) -> str:
        text = text.strip(WHITESPACE)
        if text in self.missing:
            return _or_refused(self.default, column)
        return json.dumps([part.strip(WHITESPACE) for part in text.split(self.delimiter)], ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Clock(Listed):
    """A time of day: int64, in microseconds since midnight. By a pattern of strptime, or as a number: 905 is 9:05."""

    pattern: str = ""
    filler: ClassVar[int] = 0

    def one(self, text: str, column: str) -> int:
        text = text.strip(WHITESPACE)
        if not self.pattern:
            text = text.zfill(4) if _HOURS_AND_MINUTES.fullmatch(text) else ""
        try:
            at = datetime.strptime(text, self.pattern or "%H%M")
        except ValueError:
            raise RowError("validate", "bad_timestamp", f"{column} is not written as the schema says.") from None
        return ((at.hour * 60 + at.minute) * 60 + at.second) * 1_000_000 + at.microsecond


@dataclass(frozen=True, slots=True)
class FormattedTime(Listed):
    """A time written by a pattern of strptime: int64, in microseconds since 1970 UTC.

    `zone` is that of times that name none; of one that is there twice, as summer time ends, it is the first.
    """

    pattern: str
    zone: str = "UTC"
    advice: ClassVar[Mapping[str, str]] = {"bad_timestamp": "Is the format of the time in the schema its own?"}
    filler: ClassVar[int] = 0

    def one(self, text: str, column: str) -> int:
        try:
            at = datetime.strptime(text.strip(WHITESPACE), self.pattern)
        except ValueError:
            raise RowError("validate", "bad_timestamp", f"{column} is not written as the schema says.") from None
        return within_range(micros_of(at if at.tzinfo else at.replace(tzinfo=ZoneInfo(self.zone))), column)


@dataclass(frozen=True, slots=True)
class Day(Listed):
    """The day of a time whose clock is in another column: int64, midnight in no zone, in microseconds since 1970.

    The first and the last of the days that can be stored are none, since in some zone the time would not be.
    """

    pattern: str
    filler: ClassVar[int] = 0

    def one(self, text: str, column: str) -> int:
        micros = FormattedTime(self.pattern).one(text, column)
        within_range(micros - _DAY_MICROS, column)
        within_range(micros + 2 * _DAY_MICROS, column)
        return micros


@dataclass(frozen=True, slots=True)
class Epoch(Listed):
    """A Unix epoch in a stated unit, a fraction or a power of ten included (`1.5833664e12`): int64, in microseconds."""

    micros: int  # of one unit, or 0 for nanoseconds
    filler: ClassVar[int] = 0

    def one(self, text: str, column: str) -> int:
        text = text.strip(WHITESPACE)
        if not _NUMBER.fullmatch(text) or not (number := Decimal(text)).is_finite() or abs(number.adjusted()) > _DIGITS:
            raise RowError("validate", "bad_timestamp", f"{column} is not a Unix epoch.")
        return within_range(math.floor(number * self.micros if self.micros else number / 1_000), column)


@dataclass(frozen=True, slots=True)
class Missable(Kind):
    """Numbers of another kind, or nothing: where it is missing it is `default`, and without one the row is refused."""

    kind: Kind
    missing: frozenset[str]
    default: int | None = None

    def one(self, text: str, column: str) -> int:
        if text.strip(WHITESPACE) in self.missing:
            return _or_refused(self.default, column)
        number: int = self.kind.one(text, column)
        return number

    def many(self, buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Values, Bools]:
        values, valid = self.kind.many(buffer, starts, ends)
        assert isinstance(values, np.ndarray)
        are_missing = _are_missing(buffer, starts, ends, self.missing)
        values = np.where(are_missing, self.default or 0, values)
        return values, np.where(are_missing, self.default is not None, valid)


def _are_missing(buffer: Bytes, starts: Ints, ends: Ints, missing: frozenset[str]) -> Bools:
    """Which fields are one of these texts."""
    are_missing = np.zeros(len(starts), np.bool_)
    for text in map(str.encode, missing):
        rows = np.flatnonzero(ends - starts == len(text))
        same = np.ones(len(rows), np.bool_)
        for index, byte in enumerate(text):
            same &= buffer[starts[rows] + index] == byte
        are_missing[rows[same]] = True
    return are_missing


def _or_refused(default: T | None, column: str) -> T:
    if default is None:
        raise RowError("validate", "missing_value", f"{column} is missing.")
    return default


ID = Integer()
TEXT = Text()
