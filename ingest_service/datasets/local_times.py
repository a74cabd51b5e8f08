"""Times as clocks in a zone show them: parts of them, dates, and when a minute, hour or day began."""

from datetime import timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from ingest_service.datasets.times import texts_and_dates, to_utc
from ingest_service.rows.arrays import Ints
from ingest_service.rows.interaction import EPOCH
from ingest_service.rows.texts import Texts

_MINUTE_US = 60 * 1_000_000
_HOUR_US = 60 * _MINUTE_US
_DAY_US = 24 * _HOUR_US
_DAY_MINUTES = 24 * 60
_UNITS_US = {"minute": _MINUTE_US, "hour": _HOUR_US, "day": _DAY_US}
_US = timedelta(microseconds=1)


def part_of(times: Ints, part: str, zone: str) -> Ints:
    """int64[n] microseconds since 1970 UTC to the hour, weekday (Monday is 0), day of the month or month in a zone."""
    local = times + _offsets(times, zone)
    if part == "hour":
        return local // _HOUR_US % 24
    days = local // _DAY_US
    if part == "weekday":
        return (days + 3) % 7  # 1970 began with a Thursday
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    found: Ints = months.astype(np.int64) % 12 + 1 if part == "month" else (dates - months).astype(np.int64) + 1
    return found


def dates_of(times: Ints, zone: str) -> Texts:
    """The date in a zone, as `YYYY-MM-DD`."""
    return texts_and_dates(times + _offsets(times, zone))[1]


def begin_of(times: Ints, unit: str, zone: str) -> Ints:
    """When the minute, hour or day began that it was in a zone; not before 1970, as no stored time is.

    A minute or an hour is one by the offset that holds at the time; a day begins with its first midnight.
    """
    offsets = _offsets(times, zone)
    local = times + offsets
    begun = local - local % _UNITS_US[unit]
    found: Ints = np.maximum(to_utc(begun, zone) if unit == "day" else begun - offsets, 0)
    return found


def _offsets(times: Ints, zone: str) -> Ints | int:
    """What local clocks are ahead of UTC, in microseconds: by day, and by minute on days on which that changes."""
    if zone == "UTC" or not len(times):
        return 0
    known = ZoneInfo(zone)
    days = times // _DAY_US
    first = int(days.min())
    days -= first
    is_there = np.zeros(int(days.max()) + 1, np.bool_)
    is_there[days] = True
    ahead, changes = np.zeros(len(is_there), np.int64), np.zeros(len(is_there), np.bool_)
    for index in np.flatnonzero(is_there).tolist():
        at = (first + index) * _DAY_MINUTES
        ahead[index] = _ahead(at, known)
        changes[index] = ahead[index] != _ahead(at + _DAY_MINUTES, known)
    offsets: Ints = ahead[days]
    for row in np.flatnonzero(changes[days]).tolist():
        offsets[row] = _ahead(int(times[row]) // _MINUTE_US, known)
    return offsets


@lru_cache(maxsize=1 << 15)  # a file that is not in order of time has the same days in every block
def _ahead(minute: int, zone: ZoneInfo) -> int:
    """In microseconds, at a minute since 1970 UTC. No zone changes within one."""
    return ((EPOCH + timedelta(minutes=minute)).astimezone(zone).utcoffset() or timedelta()) // _US
