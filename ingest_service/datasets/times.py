"""Many timestamps to their stored text at once, without a formatting call a row."""

from functools import cache

import numpy as np
import polars as pl

from ingest_service.records import Ints

_DAY_US = 86_400 * 1_000_000


def texts_and_dates(micros: Ints) -> tuple[pl.Series, pl.Series]:
    """int64[n] microseconds since 1970 UTC to `YYYY-MM-DDTHH:MM:SS.ffffffZ` and `YYYY-MM-DD`.

    Days and seconds of the day are few, so each is formatted once and shared by its rows.
    """
    days, of_day = np.divmod(micros, _DAY_US)
    seconds, fractions = np.divmod(of_day, 1_000_000)
    first, last = (int(days.min()), int(days.max())) if len(days) else (0, 0)
    calendar = pl.Series(np.arange(first, last + 1, dtype=np.int32)).cast(pl.Date).cast(pl.String)
    dates = calendar.gather(days - first)
    texts = pl.select(pl.concat_str(dates, _clock().gather(seconds), _fractions(fractions))).to_series()
    return texts, dates


def _fractions(micros: Ints) -> pl.Series:
    if not micros.any():
        return pl.Series([".000000Z"])
    millis, rest = np.divmod(micros, 1_000)
    if not rest.any():
        return _millis().gather(millis)
    return pl.select(pl.format(".{}Z", pl.Series(micros).cast(pl.String).str.zfill(6))).to_series()


@cache
def _clock() -> pl.Series:
    """`THH:MM:SS` for each second of a day."""
    nanoseconds = pl.int_range(86_400) * 1_000_000_000
    return pl.select(nanoseconds.cast(pl.Time).dt.strftime("T%H:%M:%S")).to_series()


@cache
def _millis() -> pl.Series:
    """The fraction for each millisecond of a second."""
    return pl.Series([f".{ms:03}000Z" for ms in range(1_000)])
