"""The record that users know, and the row-by-row specification of how a row becomes one.

The functions here are the plain, slow truth: one row, Python values, one error in words. The columnar path in
`parse.py` must give the same answers and hands every row that it does not accept to these functions.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from ingest_service.errors import RowError, declare_codes
from ingest_service.rows.schema import ITEM_ID, Field, FieldKind, Schema

declare_codes(
    {
        "bad_id": "an id that is not a 64-bit integer",
        "bad_timestamp": "neither ISO 8601 nor Unix time, or a date that does not exist",
        "timestamp_out_of_range": "before 1970 or after 2261",
    }
)

NAMESPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")  # uuid.NAMESPACE_DNS
WHITESPACE = " \t\n\r\v\f"  # ASCII only: a no-break space is not trimmed
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END_S = 9_214_646_400  # 2262-01-01T00:00:00Z, the first second that is out of range
# By its whole digits an epoch counts seconds (fewer than the first), milliseconds, microseconds or nanoseconds.
MS_DIGITS, US_DIGITS, NS_DIGITS = 12, 15, 18

_MAX_DIGITS = 20  # without leading zeros; one more than int64 has
_INTEGER = re.compile(r"([+-]?[0-9]+)(?:\.0+)?")  # with a zero fraction it is a whole float, as pandas writes them
_EPOCH_NUMBER = re.compile(r"([0-9]{1,19})(?:\.([0-9]+))?")
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,6}))?(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))?"
)


# How an interaction is stored. A data set's own schema may go on from here.
INTERACTION = Schema(
    "interaction",
    (
        Field("user_id", FieldKind.UUID),
        Field("video_id", FieldKind.UUID),
        Field("timestamp", FieldKind.TIME),
        Field("event_type", FieldKind.WORD),
        Field("device", FieldKind.WORD),
        Field("session_id", FieldKind.TEXT),
    ),
    owner="user_id",
    key=("timestamp", "video_id"),
)


# What is known of an item. A data set's own schema goes on from here.
ITEM = Schema("item", (Field(ITEM_ID, FieldKind.UUID),), owner=ITEM_ID, key=())


class _Open(StrEnum):
    """Texts of a few known values. A data set of one's own may have others, which are texts all the same."""

    @classmethod
    def _missing_(cls, value: object) -> "_Open | None":
        if not isinstance(value, str):
            return None
        other = str.__new__(cls, value)
        other._name_ = other._value_ = value
        return other


class EventType(_Open):
    CLICK = "click"
    VIEW = "view"
    LIKE = "like"
    SHARE = "share"
    RATE = "rate"
    TAG = "tag"
    LINK = "link"


class Device(_Open):
    MOBILE = "mobile"
    DESKTOP = "desktop"
    TABLET = "tablet"
    TV = "tv"
    UNKNOWN = "unknown"


class VideoInteraction(BaseModel):
    """One user's event on one video. `timestamp` is UTC, in microseconds.

    What comes out of a store has the data set's own fields beside, a rating for example.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    user_id: UUID
    video_id: UUID
    event_type: EventType
    timestamp: AwareDatetime
    device: Device
    session_id: str


def parse_id(text: str, column: str) -> int:
    """An id: ASCII whitespace around it is trimmed, then an optional sign and digits, within int64; `7.0` is 7."""
    match = _INTEGER.fullmatch(text.strip(WHITESPACE))
    if not match:
        raise RowError("validate", "bad_id", f"{column} is not an integer within 64 bits.")
    text = match[1]
    # int() refuses texts of thousands of digits, leading zeros included, with an error of its own.
    digits = text.lstrip("+-").lstrip("0")[:_MAX_DIGITS] or "0"
    value = -int(digits) if text.startswith("-") else int(digits)
    if not INT64_MIN <= value <= INT64_MAX:
        raise RowError("validate", "bad_id", f"{column} is not an integer within 64 bits.")
    return value


TimeUnit = Literal["auto", "s", "ms"]


def parse_timestamp(text: str, column: str, unit: TimeUnit = "auto") -> datetime:
    """ISO 8601 date and time (no zone means UTC), or a Unix epoch in s, ms, µs or ns; years 1970 to 2261, UTC.

    An epoch may have a fraction. What is finer than a microsecond is cut off.
    """
    text = text.strip(WHITESPACE)
    if match := _EPOCH_NUMBER.fullmatch(text):
        whole, fraction = match[1], match[2] or ""
        per_second = {"s": 0, "ms": 3}.get(unit, _epoch_unit(len(whole)))  # as a power of ten
        micros = int((whole + fraction.ljust(6, "0")[:6])[: max(0, len(whole) + 6 - per_second)] or "0")
    else:
        micros = _iso_micros(text, column)
    return EPOCH + timedelta(microseconds=within_range(micros, column))


def within_range(micros: int, column: str) -> int:
    """The time, in microseconds since 1970 UTC, if it is one that can be stored."""
    if not 0 <= micros < END_S * 1_000_000:
        raise RowError("validate", "timestamp_out_of_range", f"{column} is not within the years 1970 to 2261.")
    return micros


def _epoch_unit(n_digits: int) -> int:
    """Which power of ten of a second an epoch of so many digits counts."""
    return 0 if n_digits < MS_DIGITS else 3 if n_digits < US_DIGITS else 6 if n_digits < NS_DIGITS else 9


def _iso_micros(text: str, column: str) -> int:
    match = _ISO.fullmatch(text)
    if not match:
        raise RowError(
            "validate",
            "bad_timestamp",
            f"{column} is neither an ISO 8601 date and time nor a Unix epoch.",
        )
    year, month, day, hour, minute, second = (int(group) for group in match.groups()[:6])
    fraction, _, sign, zone_hours, zone_minutes = match.groups()[6:]
    offset = timedelta(0)
    if sign:
        if int(zone_hours) > 23 or int(zone_minutes) > 59:
            raise RowError("validate", "bad_timestamp", f"{column} has an impossible zone.")
        offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes)) * (-1 if sign == "-" else 1)
    micros = int((fraction or "").ljust(6, "0"))
    try:
        at = datetime(year, month, day, hour, minute, second, micros, tzinfo=timezone(offset))
    except ValueError:
        raise RowError("validate", "bad_timestamp", f"{column} is a date or time that does not exist.") from None
    return (at - EPOCH) // timedelta(microseconds=1)


def timestamp_text(at: datetime) -> str:
    """The stored form: 27 characters that sort as text."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def micros_of(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)
