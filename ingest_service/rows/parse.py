"""Bytes of fields to typed columns, for a whole block at once.

Everything here is *sound*: a row is accepted only with the value that `models.py` gives it. It need not be complete:
whatever is not plainly right (a sign, 19 digits, odd blanks) is left to the row-by-row specification, which then
accepts it or words the error.
"""

from functools import cache

import numpy as np
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
_U64 = np.uint64
_WORD_BYTES = 8
_ZEROS = np.frombuffer(b"0" * _WORD_BYTES, "<u8")[0]
_NINES, _PAIRS = (np.frombuffer(each, "<u8")[0] for each in (b"\x09" * _WORD_BYTES, b"\x09\x09\0\x09\x09\0\x09\x09"))
_SEVEN_BITS = _U64(0x7F7F7F7F7F7F7F7F)
_LAST_BYTES = np.array([((1 << 8 * n) - 1) << 8 * (_WORD_BYTES - n) for n in range(_WORD_BYTES + 1)], np.uint64)
_ISO_LENGTH = len("2020-01-01T00:00:00")


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
    words = _words(buffer)
    values = np.zeros(len(starts), np.uint64)
    for skipped in range(0, width, _WORD_BYTES):  # eight digits at once, the last ones first
        digits = words[ends - skipped - _WORD_BYTES]
        digits ^= _ZEROS
        digits &= _LAST_BYTES[np.clip(lengths - skipped, 0, _WORD_BYTES)]
        valid &= _are_within(digits, _NINES)
        digits *= _U64(10 * 256 + 1)
        digits >>= _U64(8)  # two digits in each second byte
        digits &= _U64(0x00FF00FF00FF00FF)
        digits *= _U64((100 << 16) + 1)
        digits >>= _U64(16)
        digits &= _U64(0x0000FFFF0000FFFF)
        digits *= _U64((10_000 << 32) + 1)
        digits >>= _U64(32)
        digits *= _U64(10**skipped)
        values += digits
    return values.view(np.int64), valid


def _words(buffer: Bytes) -> NDArray[np.uint64]:
    """The eight bytes from each place on as one number, the first of them its lowest."""
    words: NDArray[np.uint64] = np.ndarray(len(buffer) - _WORD_BYTES + 1, "<u8", buffer.data, 0, (1,))
    return words


def _are_within(words: NDArray[np.uint64], highest: np.uint64) -> Bools:
    """Which words have no byte above that of `highest`, each of which is below 128."""
    within: Bools = ((words + (_SEVEN_BITS - highest) | words) & ~_SEVEN_BITS) == 0
    return within


def without_zero_fraction(buffer: Bytes, starts: Ints, ends: Ints) -> Ints:
    """The ends of fields, before a final `.0`: pandas writes whole numbers so in a column that had gaps."""
    is_float = (buffer[ends - 2] == ord(".")) & (buffer[ends - 1] == _ZERO) & (ends - starts > 2)
    return ends - 2 * is_float if is_float.any() else ends


def timestamps(buffer: Bytes, starts: Ints, ends: Ints, unit: TimeUnit) -> tuple[Ints, Bools]:
    """A Unix epoch, or ISO 8601: microseconds since 1970 UTC, and which fields are such."""
    lengths = ends - starts
    if lengths.size and (lengths >= _ISO_LENGTH).all() and (buffer[starts + 4] == ord("-")).all():
        micros, valid = _iso(buffer, starts, ends)  # the whole column, and no other form is tried
    else:
        micros, valid = _unix(buffer, starts, ends, unit)
        _add_decimals(buffer, starts, ends, unit, micros, valid)
        rest = np.flatnonzero(~valid & (lengths >= _ISO_LENGTH))
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
    seconds, valid = _date_time(buffer, starts)
    micros = seconds * 1_000_000
    lengths = ends - starts
    if (lengths == _ISO_LENGTH).all():
        return micros, valid
    has_fraction = (lengths > _ISO_LENGTH) & (buffer[starts + _ISO_LENGTH] == ord("."))
    is_utc = buffer[ends - 1] == ord("Z")
    sign = buffer[ends - 6]
    has_zone = ~is_utc & (lengths >= _ISO_LENGTH + 6) & ((sign == ord("+")) | (sign == ord("-")))
    tail = lengths - _ISO_LENGTH - is_utc - 6 * has_zone  # the fraction with its dot, or nothing
    valid &= np.where(has_fraction, (tail >= 2) & (tail <= 7), tail == 0)
    _add_fractions(buffer, starts, np.where(has_fraction & valid, tail - 1, 0), micros, valid)
    _subtract_zones(buffer, ends, np.flatnonzero(has_zone & valid), micros, valid)
    return micros, valid


def _date_time(buffer: Bytes, starts: Ints) -> tuple[Ints, Bools]:
    """`YYYY-MM-DD[T ]HH:MM:SS` to seconds since 1970; years from 1 on, days as many as the month has."""
    mark = buffer[starts + len("2020-01-01")]
    year, month, day, is_date = _three_pairs(buffer, starts + len("20"), b"00-00-00")
    hour, minute, second, is_clock = _three_pairs(buffer, starts + len("2020-01-01T"), b"00:00:00")
    century, is_century = integers(buffer, starts, starts + len("20"))
    first_days = _first_days()
    months = (century * 100 + year) * 12 + month - 1
    valid = is_century & is_date & is_clock & ((mark == ord("T")) | (mark == ord(" ")))
    valid &= (months >= 12) & (month >= 1) & (month <= 12)
    months *= valid
    days = first_days[months] + (day - 1)
    valid &= (day >= 1) & (days < first_days[months + 1])
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    return days * 86_400 + (hour * 3_600 + minute * 60 + second), valid


def _three_pairs(buffer: Bytes, starts: Ints, like: bytes) -> tuple[Ints, Ints, Ints, Bools]:
    """Three numbers of two digits each with marks between them as in `like`, and which texts are such."""
    words = _words(buffer)[starts]
    words ^= np.frombuffer(like, "<u8")
    valid = _are_within(words, _PAIRS)
    words *= _U64(10 * 256 + 1)  # a number of two digits in the second byte of each pair
    first, second, third = ((words >> _U64(shift) & _U64(0xFF)).view(np.int64) for shift in (8, 32, 56))
    return first, second, third, valid


@cache
def _first_days() -> Ints:
    """The first day of each month from the year 0 on, in days since 1970, and that of the year 10000."""
    months = np.arange("0000-01", "10000-02", dtype="datetime64[M]")
    return months.astype("datetime64[D]").astype(np.int64)


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
