"""Many timestamps to their stored text at once, without a formatting call a row."""

from datetime import timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.interaction import EPOCH
from ingest_service.rows.parse import SLICE_ROWS, Bytes
from ingest_service.rows.texts import Piece, Texts, concatenate, fill

_US = timedelta(microseconds=1)
_MINUTE_US = 60 * 1_000_000
_DAY_US = 86_400 * 1_000_000
_TIME_BYTES = len("YYYY-MM-DDTHH:MM:SS.ffffffZ")


def texts_and_dates(micros: Ints) -> tuple[Texts, Texts]:
    """int64[n] microseconds since 1970 UTC to `YYYY-MM-DDTHH:MM:SS.ffffffZ` and `YYYY-MM-DD`.

    Days and seconds of the day are few, so each is formatted once and shared by its rows.
    """
    n = len(micros)
    first, last = (int(micros.min()) // _DAY_US, int(micros.max()) // _DAY_US) if n else (0, -1)
    calendar = np.datetime_as_string(np.arange(first, last + 1).astype("datetime64[D]"), unit="D").astype("S10")
    dates = Texts(calendar.view(np.uint8), np.empty(n, np.int64), 10)
    times = np.empty(n * _TIME_BYTES, np.uint8)
    for start in range(0, n, SLICE_ROWS):
        rows = slice(start, start + SLICE_ROWS)
        days = micros[rows] // _DAY_US
        np.multiply(days - first, 10, out=dates.starts[rows])
        clocks = _clocks(micros[rows] - days * _DAY_US)
        fill(times[start * _TIME_BYTES : (start + SLICE_ROWS) * _TIME_BYTES], [dates.take(rows), *clocks])
    return Texts(times, np.arange(n) * _TIME_BYTES, _TIME_BYTES), dates


def _clocks(micros: Ints) -> list[Piece]:
    """`THH:MM:SS.ffffffZ`, of microseconds since midnight."""
    seconds = micros // 1_000_000
    clock = Texts(_clock(), seconds * len("THH:MM:SS."), len("THH:MM:SS."))
    fractions = micros - seconds * 1_000_000
    if not fractions.any():
        return [clock, b"000000Z"]
    millis = fractions // 1_000
    return [clock, *(Texts(_thousand(), part * 3, 3) for part in (millis, fractions - millis * 1_000)), b"Z"]


def micros_of_texts(times: Texts) -> Ints:
    """The microseconds since 1970 UTC of stored texts."""
    width = len("YYYY-MM-DDTHH:MM:SS.ffffff")
    rows = concatenate([times, b""]).buffer.reshape(len(times), width + 1)[:, :width]
    found: Ints = np.ascontiguousarray(rows).view(f"S{width}").reshape(-1).astype("datetime64[us]").astype(np.int64)
    return found


def to_utc(local: Ints, zone: str) -> Ints:
    """int64[n] microseconds of local times to those since 1970 UTC; of an hour that is there twice the first is meant.

    No zone changes within a minute, so each minute is looked up once.
    """
    if zone == "UTC":
        return local
    known = ZoneInfo(zone)
    minutes, inverse = np.unique(local // _MINUTE_US, return_inverse=True)
    offsets = [
        (EPOCH + timedelta(minutes=minute)).replace(tzinfo=known).utcoffset() or timedelta()
        for minute in minutes.tolist()
    ]
    return local - np.array([offset // _US for offset in offsets], np.int64)[inverse]


@cache
def _clock() -> Bytes:
    """`THH:MM:SS.` for each second of a day."""
    seconds = np.arange(86_400)
    two_digits = np.frombuffer("".join(f"{number:02}" for number in range(60)).encode(), np.uint8)
    hour, minute, second = (
        Texts(two_digits, part * 2, 2) for part in (seconds // 3_600, seconds // 60 % 60, seconds % 60)
    )
    return concatenate([b"T", hour, b":", minute, b":", second, b"."]).buffer


@cache
def _thousand() -> Bytes:
    return np.frombuffer("".join(f"{number:03}" for number in range(1_000)).encode(), np.uint8)
