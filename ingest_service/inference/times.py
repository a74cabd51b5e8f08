"""How a column writes times, told by the very kinds that will read it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ingest_service.datasets.kinds import FormattedTime
from ingest_service.errors import RowError
from ingest_service.rows.interaction import parse_timestamp

Reads: TypeAlias = Callable[[str], bool]

_EPOCH = re.compile(r"[1-9][0-9]{0,18}(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,2})?")
_FIRST_S, _LAST_S = 631_152_000, 2_208_988_800  # 1990 to 2040: no such numbers are years, prices or places
_UNITS = {"s": (1, "seconds"), "ms": (10**3, "milliseconds"), "us": (10**6, "microseconds"), "ns": (10**9, "ns")}
_MOST = 0.9  # of the values must be times
_AT_FIRST = 20  # tell most formats off
_LOOKED_AT = 400

_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")
_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y", "%d-%b-%Y",
         "%d %b %Y", "%b %d, %Y", "%B %d, %Y", "%d %B %Y", "%m %d, %Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y")  # fmt: skip
_FORMATS = (
    *(day + clock for day in _DAYS for clock in _CLOCKS),
    "%Y%m%d %H:%M:%S",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%d %H:%M:%S.%f UTC",
    "%Y-%m-%d %H:%M:%S %z",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%dT%H:%M:%S.%f%z",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
    "%d-%b-%Y %H:%M:%S.%f",
)


_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # by the width that all must have


@dataclass(frozen=True, slots=True)
class TimeShape:
    """`type`, `unit` and `format` are those of a schema file. `is_day`: it has no time of the day."""

    type: str
    words: str
    unit: str = ""
    format: str = ""
    is_day: bool = False
    doubt: str = ""


def time_shape(texts: Sequence[str]) -> TimeShape | None:
    """Of different values that are there; None if they are no times."""
    texts = texts[:_LOOKED_AT]
    return (_epoch(texts) or _iso(texts) or _formatted(texts)) if texts else None


def _epoch(texts: Sequence[str]) -> TimeShape | None:
    if not all(map(_EPOCH.fullmatch, texts)):
        return None
    numbers = [float(text) for text in texts]
    is_whole = all(text.isdigit() for text in texts)
    for unit, (per_second, word) in _UNITS.items():
        within = sum(_FIRST_S <= number / per_second < _LAST_S for number in numbers)
        if within >= _MOST * len(numbers):
            return TimeShape("integer" if is_whole else "number", f"a Unix epoch in {word}", unit=unit)
    return None


def _iso(texts: Sequence[str]) -> TimeShape | None:
    if not _fits(texts, lambda text: text[4:5] == "-" and parse_timestamp(text, "") is not None):
        return None
    no_zone = not any(text.endswith("Z") or re.search(r"[+-]\d\d:\d\d$", text) for text in texts)
    words = "ISO 8601, without a zone and so in UTC" if no_zone else "ISO 8601"
    return TimeShape("datetime", words)


def _formatted(texts: Sequence[str]) -> TimeShape | None:
    if not any(character.isdigit() for character in texts[0]):
        return None
    widths = {len(text) if text.isdigit() else 0 for text in texts}
    patterns = _FORMATS if widths == {0} else [_DIGITS.get(min(widths), "")] if len(widths) == 1 else []
    found = [pattern for pattern in patterns if pattern and _fits(texts[:_AT_FIRST], pattern) and _fits(texts, pattern)]
    if not found:
        return None
    pattern, *others = found
    is_day = "%H" not in pattern and "%I" not in pattern
    doubt = f"day and month may be the other way round, as in {others[0]}" if others else ""
    if pattern == "%Y-%m-%d":
        return TimeShape("date", "a date", is_day=True)
    words = "a date" if is_day else "a date and time"
    return TimeShape(
        "date" if is_day else "datetime", f"{words} by {pattern}", format=pattern, is_day=is_day, doubt=doubt
    )


def _fits(texts: Sequence[str], how: str | Reads) -> bool:
    reads = how if callable(how) else lambda text: FormattedTime(how).one(text, "") >= 0
    allowed = len(texts) * (1 - _MOST)
    failed = 0
    for text in texts:
        try:
            failed += not reads(text)
        except RowError:
            failed += 1
        if failed > allowed:
            return False
    return True
