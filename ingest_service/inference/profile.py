"""What the values of a column are."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, Literal
from uuid import UUID

from ingest_service.inference.found import Sampled
from ingest_service.inference.lists import ListShape, list_shape
from ingest_service.inference.times import TimeShape, time_shape
from ingest_service.rows.interaction import INT64_MAX, INT64_MIN, WHITESPACE

Holds = Literal["nothing", "integer", "number", "uuid", "text"]

# What stands for nothing wherever it is found, and what does so among numbers, times and UUIDs alone.
_NOTHING = frozenset({r"\N", "NULL", "null", "NaN", "nan", "<NA>"})
_NO_NUMBER = frozenset({"NA", "N/A", "n/a", "None", "none", "-", "?", "--", "#N/A", "Null"})
_WHOLE = re.compile(r"(?:0|-?[1-9][0-9]{0,18})(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_BOOLEANS = frozenset({"true", "True", "TRUE", "false", "False", "FALSE"})
_CLOCKS: Final = {
    re.compile("(?:[01]?[0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"): "%H:%M:%S",
    re.compile("(?:[01]?[0-9]|2[0-3]):[0-5][0-9]"): "%H:%M",
    re.compile("(?:0?[1-9]|1[0-2]):[0-5][0-9]:[0-5][0-9] [AaPp][Mm]"): "%I:%M:%S %p",
    re.compile("(?:0?[1-9]|1[0-2]):[0-5][0-9] [AaPp][Mm]"): "%I:%M %p",
}
_FEW, _TIMES_EACH = 40, 4


@dataclass(frozen=True)
class Profile:
    """`values` are those that are there, without the blanks around them; `missing` what stands for nothing."""

    column: Sampled
    values: list[str]
    holds: Holds
    missing: frozenset[str]

    @property
    def n_missing(self) -> int:
        return len(self.column.texts) - len(self.values)

    @cached_property
    def different(self) -> list[str]:
        return list(dict.fromkeys(self.values))

    @cached_property
    def width(self) -> int:
        """That of the longest."""
        return max(map(len, self.different), default=0)

    @property
    def is_category(self) -> bool:
        return len(self.different) <= _FEW and len(self.different) * _TIMES_EACH <= len(self.values)

    @property
    def is_grouped(self) -> bool:
        """Whether equal values stand together, as those of users in many logs."""
        changes = sum(one != other for one, other in pairwise(self.values))
        return 0 < changes + 1 == len(self.different) < len(self.values)

    @property
    def is_rating(self) -> bool:
        """Whether they are a few small numbers."""
        return (
            self.holds in ("integer", "number")
            and self.is_category
            and all(0 <= float(text) <= 10 for text in self.different)
        )

    @property
    def is_row_number(self) -> bool:
        if self.holds != "integer" or len(self.values) < 3:
            return False
        first = int(float(self.values[0]))
        return all(text == str(first + place) for place, text in enumerate(self.values[:50]))

    @property
    def has_blanks(self) -> bool:
        """Whether values are of several words, as names and lists are and ids are not."""
        return any(" " in text for text in self.different[:200])

    @property
    def is_boolean(self) -> bool:
        return bool(self.values) and _BOOLEANS.issuperset(self.different)

    @cached_property
    def clock(self) -> str:
        """The pattern of times of day; "" if the column holds none, or not always."""
        if self.holds != "text" or self.n_missing:
            return ""
        return next((pattern for form, pattern in _CLOCKS.items() if all(map(form.fullmatch, self.different))), "")

    @cached_property
    def items(self) -> ListShape | None:
        """How it lists ids, in delimited text."""
        return list_shape(self.different) if self.holds == "text" and not self.column.path else None

    @cached_property
    def time(self) -> TimeShape | None:
        return None if self.holds in ("nothing", "uuid") else time_shape(self.different)


def profile_of(column: Sampled) -> Profile:
    texts = [text.strip(WHITESPACE) for text in column.texts]
    there = [text for text in texts if text and text not in _NOTHING]
    numbers = [text for text in there if text not in _NO_NUMBER]
    holds = _holds(list(dict.fromkeys(numbers)))
    if holds == "text" and (len(numbers) == len(there) or time_shape(list(dict.fromkeys(numbers))) is None):
        numbers = there
    if holds == "nothing" and there:
        numbers, holds = there, "text"
    values = numbers
    missing = frozenset(texts) & (_NOTHING | (_NO_NUMBER if len(numbers) < len(there) else frozenset()))
    return Profile(column, values, holds, missing)


def _holds(different: list[str]) -> Holds:
    if not different:
        return "nothing"
    if all(_WHOLE.fullmatch(text) for text in different):
        within = all(INT64_MIN <= int(text.partition(".")[0]) <= INT64_MAX for text in different)
        return "integer" if within else "text"
    if all(_NUMBER.fullmatch(text) for text in different):
        is_code = any(map(_leads_with_zero, different)) or all(text.isdigit() for text in different)
        return "text" if is_code else "number"
    return "uuid" if all(map(_is_uuid, different)) else "text"


def _leads_with_zero(text: str) -> bool:
    """A number written so is a code, of which zeros are a part."""
    digits = text.lstrip("+-")
    return digits.startswith("0") and digits[1:2].isdigit()


def _is_uuid(text: str) -> bool:
    if len(text) != 36:
        return False
    try:
        return bool(UUID(text))
    except ValueError:
        return False
