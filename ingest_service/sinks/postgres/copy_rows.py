"""Rows as the bytes of a binary COPY (PostgreSQL documentation, "COPY", binary format), made a column at a time."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Ints
from ingest_service.rows.distinct import distinct
from ingest_service.rows.parse import Bytes
from ingest_service.rows.texts import Piece, Texts, concatenate, lengths

# Texts as Texts; numbers, and times in microseconds since 1970 UTC, as arrays.
Values: TypeAlias = Texts | NDArray[Any]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01
_UUID_CHARS, _UUID_BYTES, _TIME_CHARS = 36, 16, 26
_GROUPS = (slice(0, 8), slice(9, 13), slice(14, 18), slice(19, 23), slice(24, 36))  # the digits of a UUID's text


def _hex_pairs() -> NDArray[np.uint8]:
    """The byte that two hex digits, taken for a little-endian number, stand for."""
    table = np.zeros(1 << 16, np.uint8)
    for value in range(256):
        for text in (f"{value:02x}", f"{value:02X}"):
            table[int.from_bytes(text.encode(), "little")] = value
    return table


_HEX_PAIRS = _hex_pairs()


def tuples(values: Mapping[str, Values], types: Mapping[str, str]) -> Texts:
    """Each row as the bytes that stand between `HEADER` and `TRAILER`; `types` are PostgreSQL's, by column."""
    n_rows = len(next(iter(values.values())))
    fields = [piece for name, column in values.items() for piece in _field(column, types[name])]
    return concatenate([Texts.constant("", n_rows), len(values).to_bytes(2, "big"), *fields])


def _field(values: Values, kind: str) -> list[Piece]:
    """Its length, and its bytes."""
    if isinstance(values, Texts):
        if values.are_one:
            return [_constant(values, kind)]
        return _of_length(_of_texts(values, kind))
    if kind == "timestamptz":
        return _of_length([_fixed((values - _POSTGRES_EPOCH_US).astype(">i8"))])
    if kind == "int8":
        return _of_length([_fixed(values.astype(">i8"))])
    if kind == "float8":
        return _of_length([_fixed(values.astype(">f8"))])
    raise TypeError(f"no {kind} of {values.dtype}")


def _of_texts(texts: Texts, kind: str) -> list[Piece]:
    match kind:
        case "uuid":
            return [uuids(texts)]
        case "timestamptz":
            return [_fixed((_micros(texts) - _POSTGRES_EPOCH_US).astype(">i8"))]
        case "bool":
            return [_by_distinct(texts, lambda text: bytes([text == "true"]))]
        case "numeric":
            return [_by_distinct(texts, numeric)]
        case "jsonb":
            return [b"\x01", texts]
        case _:
            return [texts]


def _constant(values: Texts, kind: str) -> bytes:
    """One that all rows have."""
    made = concatenate(_of_texts(values.take(slice(1)), kind)).buffer.tobytes()
    return len(made).to_bytes(4, "big") + made


def _of_length(pieces: list[Piece]) -> list[Piece]:
    length = lengths(pieces)
    if isinstance(length, int):
        return [length.to_bytes(4, "big"), *pieces]
    return [_fixed(length.astype(">i4")), *pieces]


def uuids(texts: Texts) -> Texts:
    """The 16 bytes of each. Neighbours that share a text are taken apart once, and all of a short dictionary too."""
    changes = np.append(True, texts.starts[1:] != texts.starts[:-1]) if len(texts) else np.zeros(0, np.bool_)
    runs = np.flatnonzero(changes)
    if len(texts.buffer) < len(runs) * _UUID_CHARS and not (texts.starts % _UUID_CHARS).any():
        return Texts(_bytes_of(texts.buffer), texts.starts // _UUID_CHARS * _UUID_BYTES, _UUID_BYTES)
    places = (np.cumsum(changes) - 1) * _UUID_BYTES
    return Texts(_bytes_of(concatenate([texts.take(runs)]).buffer), places, _UUID_BYTES)


def _bytes_of(uuid_texts: Bytes) -> Bytes:
    chars = uuid_texts[: len(uuid_texts) // _UUID_CHARS * _UUID_CHARS].reshape(-1, _UUID_CHARS)
    digits = np.concatenate([chars[:, group] for group in _GROUPS], axis=1)
    made: Bytes = _HEX_PAIRS[digits.view("<u2")].reshape(-1)
    return made


def _micros(texts: Texts) -> Ints:
    """Of stored times: without the Z they are what numpy reads."""
    chars = concatenate([texts]).buffer.reshape(len(texts), -1)[:, :_TIME_CHARS]
    stripped = np.ascontiguousarray(chars).view(f"S{_TIME_CHARS}").reshape(-1)
    return stripped.astype("datetime64[us]").astype(np.int64)


def _by_distinct(texts: Texts, encode: Any) -> Texts:
    """Few different ones, each made once."""
    different, inverse = distinct(texts)
    return Texts.of_bytes([encode(text) for text in different.to_list()]).take(inverse)


def numeric(text: str) -> bytes:
    """A decimal number as `numeric_recv` reads it: digits to the base 10,000, and how many decimals to show."""
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int), "a number"
    decimals = max(0, -exponent)
    whole, fraction = text.lstrip("+-").partition(".")[::2]
    padded = whole.zfill(-(-len(whole) // 4) * 4) + fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int(padded[at : at + 4]) for at in range(0, len(padded), 4)]
    weight = -(-len(whole) // 4) - 1
    while groups and groups[0] == 0:
        groups, weight = groups[1:], weight - 1
    while groups and groups[-1] == 0:
        groups = groups[:-1]
    head = (len(groups), weight if groups else 0, 0x4000 if sign and any(digits) else 0, decimals)
    return b"".join(value.to_bytes(2, "big", signed=value < 0) for value in (*head, *groups))


def _fixed(values: NDArray[Any]) -> Texts:
    """The bytes of each value."""
    width = values.dtype.itemsize
    return Texts(np.ascontiguousarray(values).view(np.uint8), np.arange(len(values)) * width, width)


def with_zero_bytes(texts: Sequence[Texts]) -> Ints:
    """The rows with a text that has a zero byte, which PostgreSQL's texts cannot hold."""
    found = np.zeros(len(texts[0]) if texts else 0, np.bool_)
    for one in texts:
        if one.buffer.all():
            continue  # the usual case, by one look at more than these texts
        own = concatenate([one])
        if len(own.buffer) and not own.buffer.all():
            at = np.flatnonzero(own.buffer == 0)
            found[np.searchsorted(own.starts, at, side="right") - 1] = True
    return np.flatnonzero(found)
