"""Bytes of fields to typed columns, for a whole block at once.

Everything here is *sound*: a row is accepted only with the value that `models.py` gives it. It need not be complete:
whatever is not plainly right (a sign, 19 digits, odd blanks) is left to the row-by-row specification, which then
accepts it or words the error.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ingest_service.rows.arrays import QUOTE, Bools, Ints, hold_none, trim
from ingest_service.rows.interaction import END_S, MS_DIGITS, NS_DIGITS, US_DIGITS, WHITESPACE, TimeUnit

Bytes = NDArray[np.uint8]
PAD = 32  # bytes before and after a block, so that a window around any field stays inside
SLICE_ROWS = 1 << 15  # rows worked on at once: what numpy makes on the way then stays in the CPU's cache
_WHITESPACE = list(WHITESPACE.encode())
_BLANKS = list(b" \t")
_MAX_DIGITS = 18  # any 18 digits fit into int64
_ZERO = ord("0")
_ISO_LENGTH = len("2020-01-01T00:00:00")
_MAX_ISO_LENGTH = len("2020-01-01T00:00:00.000000+00:00")


def padded(data: bytes) -> Bytes:
    """The block with `PAD` bytes on either side; positions in it are those in `data` plus `PAD`."""
    return np.frombuffer(b"".join((bytes(PAD), data, bytes(PAD))), np.uint8)


def are_utf8(data: bytes, starts: Ints, ends: Ints) -> Bools:
    """Which texts of `data` are surely UTF-8: all, or those that are ASCII."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return hold_none(np.flatnonzero(np.frombuffer(data, np.uint8) >= 0x80), starts, ends)
    return np.ones(len(starts), np.bool_)


def bare(buffer: Bytes, starts: Ints, ends: Ints, *, has_quotes: bool) -> tuple[Ints, Ints]:
    """The bounds of the fields' contents: without whitespace, enclosing quotes, and whitespace inside these."""
    starts, ends = trim(buffer, starts, ends, _WHITESPACE)
    if has_quotes:
        quoted = (ends - starts >= 2) & (buffer[starts] == QUOTE)
        starts, ends = trim(buffer, starts + quoted, ends - quoted, _WHITESPACE)
    return starts, ends


def unquoted(buffer: Bytes, quotes: Ints, starts: Ints, ends: Ints) -> tuple[Ints, Ints, Bools]:
    """The bounds of the fields' contents with all their blanks, and which of them are surely right.

    `quotes` are the places of all quotes; a field may stand between two. More of them are for the specification.
    """
    n_quotes = np.searchsorted(quotes, ends) - np.searchsorted(quotes, starts)
    inner, outer = trim(buffer, starts, ends, _BLANKS)
    is_quoted = (n_quotes == 2) & (buffer[inner] == QUOTE) & (buffer[outer - 1] == QUOTE)
    good = is_quoted | (n_quotes == 0)
    return np.where(is_quoted, inner + 1, starts), np.where(is_quoted, outer - 1, ends), good


def integers(buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Ints, Bools]:
    """Unsigned decimal integers of 1 to 18 digits: values, and which fields are such."""
    lengths = ends - starts
    valid = (lengths >= 1) & (lengths <= _MAX_DIGITS)
    width = int(lengths[valid].max(initial=1))
    # Each field's last `width` bytes, right-aligned: the columns before its first digit count as zeros.
    digits = sliding_window_view(buffer, width)[ends - width] - np.uint8(_ZERO)
    values = np.zeros(len(starts), np.int64)
    for column in range(width):
        inside = lengths >= width - column
        digit = digits[:, column] * inside
        valid &= digit <= 9
        values *= 10
        values += digit
    return values, valid


def without_zero_fraction(buffer: Bytes, starts: Ints, ends: Ints) -> Ints:
    """The ends of fields, before a final `.0`: pandas writes whole numbers so in a column that had gaps."""
    is_float = (buffer[ends - 2] == ord(".")) & (buffer[ends - 1] == _ZERO) & (ends - starts > 2)
    return ends - 2 * is_float if is_float.any() else ends


def timestamps(buffer: Bytes, starts: Ints, ends: Ints, unit: TimeUnit) -> tuple[Ints, Bools]:
    """A Unix epoch, or ISO 8601: microseconds since 1970 UTC, and which fields are such."""
    micros, valid = _unix(buffer, starts, ends, unit)
    _add_decimals(buffer, starts, ends, unit, micros, valid)
    rest = np.flatnonzero(~valid & (ends - starts >= _ISO_LENGTH) & (ends - starts <= _MAX_ISO_LENGTH))
    if rest.size:
        micros[rest], valid[rest] = _iso(buffer, starts[rest], ends[rest])
    valid &= (micros >= 0) & (micros < END_S * 1_000_000)
    return micros, valid


def epochs(numbers: Ints, unit: TimeUnit) -> tuple[Ints, Bools]:
    """The same of whole numbers."""
    if unit == "auto":
        has_fewer = [numbers < 10 ** (digits - 1) for digits in (MS_DIGITS, US_DIGITS)]
        per_unit = np.select(has_fewer, [1_000_000, 1_000], 1)
        numbers = np.where(numbers < 10 ** (NS_DIGITS - 1), numbers, numbers // 1_000)
    else:
        per_unit = np.full(len(numbers), 1_000 if unit == "ms" else 1_000_000)
    valid = (numbers >= 0) & (numbers < END_S * 1_000_000 // per_unit)
    return np.where(valid, numbers, 0) * per_unit, valid


def _unix(buffer: Bytes, starts: Ints, ends: Ints, unit: TimeUnit) -> tuple[Ints, Bools]:
    lengths = ends - starts
    # One look at the first fields spares an ISO file the digits of the whole column.
    if lengths.size and (lengths >= _ISO_LENGTH).all() and (buffer[starts + 4] == ord("-")).all():
        return np.zeros(len(starts), np.int64), np.zeros(len(starts), np.bool_)
    ends = without_zero_fraction(buffer, starts, ends)
    lengths = ends - starts
    if unit == "auto" and (lengths >= NS_DIGITS).any():
        is_ns = (lengths >= NS_DIGITS) & (lengths <= NS_DIGITS + 1)
        _, is_digits = integers(buffer, np.where(is_ns, ends - 3, starts), np.where(is_ns, ends, starts + 1))
        ends = ends - 3 * (is_ns & is_digits)  # what is left of nanoseconds are microseconds
    values, valid = integers(buffer, starts, ends)
    if unit == "auto":
        per_unit = np.select([lengths < MS_DIGITS, lengths < US_DIGITS], [1_000_000, 1_000], 1)
    else:
        per_unit = np.full(len(starts), 1_000 if unit == "ms" else 1_000_000)
    valid &= values < END_S * 1_000_000 // per_unit
    return np.where(valid, values * per_unit, 0), valid


def _add_decimals(buffer: Bytes, starts: Ints, ends: Ints, unit: TimeUnit, micros: Ints, valid: Bools) -> None:
    """Seconds with a fraction of up to nine digits, of which six count, into `micros` and `valid`."""
    left = np.flatnonzero(~valid & (ends - starts >= len("0.0")))
    for length in range(1, 10) if unit != "ms" and left.size else ():
        rows = left[buffer[ends[left] - 1 - length] == ord(".")]
        rows = rows[ends[rows] - 1 - length > starts[rows]]
        if not rows.size:
            continue
        dots = ends[rows] - 1 - length
        whole, good = _unix(buffer, starts[rows], dots, unit)
        decimals, are_digits = integers(buffer, dots + 1, dots + 1 + min(length, 6))
        _, all_digits = integers(buffer, dots + 1, ends[rows])
        is_s = (dots - starts[rows] < MS_DIGITS) | (unit == "s")
        micros[rows] = whole + decimals * 10 ** (6 - min(length, 6))
        valid[rows] = good & are_digits & all_digits & is_s


def _iso(buffer: Bytes, starts: Ints, ends: Ints) -> tuple[Ints, Bools]:
    """`YYYY-MM-DD[T ]HH:MM:SS[.f{1,6}][Z|±HH:MM]`. Rows are handled by the shape of what follows the seconds."""
    text = sliding_window_view(buffer, _ISO_LENGTH)[starts]
    seconds, valid = _date_time(text)
    micros = seconds * 1_000_000
    lengths = ends - starts
    has_fraction = (lengths > _ISO_LENGTH) & (buffer[starts + _ISO_LENGTH] == ord("."))
    is_utc = buffer[ends - 1] == ord("Z")
    sign = buffer[ends - 6]
    has_zone = ~is_utc & (lengths >= _ISO_LENGTH + 6) & ((sign == ord("+")) | (sign == ord("-")))
    tail = lengths - _ISO_LENGTH - is_utc - 6 * has_zone  # the fraction with its dot, or nothing
    valid &= np.where(has_fraction, (tail >= 2) & (tail <= 7), tail == 0)
    _add_fractions(buffer, starts, np.where(has_fraction & valid, tail - 1, 0), micros, valid)
    _subtract_zones(buffer, ends, np.flatnonzero(has_zone & valid), micros, valid)
    return micros, valid


def _date_time(text: Bytes) -> tuple[Ints, Bools]:
    """uint8[n, 19] to seconds since 1970, after Howard Hinnant's days_from_civil (chrono-Compatible Low-Level
    Date Algorithms); years from 1 on, days as many as the month has."""
    digits = (text - np.uint8(_ZERO)).T.copy()
    valid = np.ones(len(text), np.bool_)
    for column in (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18):
        valid &= digits[column] <= 9
    for column, mark in ((4, "-"), (7, "-"), (13, ":"), (16, ":")):
        valid &= digits[column] == (ord(mark) - _ZERO) % 256
    valid &= (text[:, 10] == ord("T")) | (text[:, 10] == ord(" "))

    def two(column: int) -> NDArray[np.int32]:
        number: NDArray[np.int32] = digits[column].astype(np.int32) * 10 + digits[column + 1]
        return number

    year, month, day = two(0) * 100 + two(2), two(5), two(8)
    hour, minute, second = two(11), two(14), two(17)
    is_leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    month_days = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int32)
    valid &= (month >= 1) & (month <= 12) & (year >= 1)
    days_in_month = month_days[np.where(valid, month, 0)] + (is_leap & (month == 2))
    valid &= (day >= 1) & (day <= days_in_month) & (hour < 24) & (minute < 60) & (second < 60)
    shifted = year - (month <= 2)
    era, year_of_era = shifted // 400, shifted % 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468
    return days.astype(np.int64) * 86_400 + (hour * 3_600 + minute * 60 + second), valid


def _add_fractions(buffer: Bytes, starts: Ints, n_digits: Ints, micros: Ints, valid: Bools) -> None:
    for length in range(1, int(n_digits.max(initial=0)) + 1):
        rows = np.flatnonzero(n_digits == length)
        if not rows.size:
            continue
        first = starts[rows] + _ISO_LENGTH + 1
        values, good = integers(buffer, first, first + length)
        micros[rows] += values * 10 ** (6 - length)
        valid[rows] &= good


def _subtract_zones(buffer: Bytes, ends: Ints, rows: Ints, micros: Ints, valid: Bools) -> None:
    if not rows.size:
        return
    end = ends[rows]
    hours, good_hours = integers(buffer, end - 5, end - 3)
    minutes, good_minutes = integers(buffer, end - 2, end)
    offset_s = (hours * 60 + minutes) * 60
    is_east = buffer[end - 6] == ord("+")
    micros[rows] -= np.where(is_east, offset_s, -offset_s) * 1_000_000
    valid[rows] &= good_hours & good_minutes & (hours < 24) & (minutes < 60) & (buffer[end - 3] == ord(":"))
