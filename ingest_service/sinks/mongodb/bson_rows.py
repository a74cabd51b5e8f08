"""Rows as BSON documents (bsonspec.org), made a column at a time."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Ints
from ingest_service.rows.texts import Piece, Texts, concatenate, lengths

# Strings as Texts; numbers, times (datetime64, UTC) and ObjectIds (V12) as arrays.
Values: TypeAlias = Texts | NDArray[Any]

_DOUBLE, _STRING, _OBJECT_ID, _DATE, _INT32, _INT64 = b"\x01", b"\x02", b"\x07", b"\x09", b"\x10", b"\x12"


def documents(fields: Mapping[str, Values]) -> Texts:
    """Each row as a document with these fields, in this order, at least one: bytes, one row's after the other's."""
    elements = [piece for name, values in fields.items() for piece in _element(name.encode() + b"\0", values)]
    return concatenate([_length(4 + lengths(elements) + 1), *elements, b"\0"])


def _element(name: bytes, values: Values) -> list[Piece]:
    if isinstance(values, Texts):
        return [_STRING + name, _length(values.widths + 1), values, b"\0"]
    match values.dtype.kind:
        case "f":
            return [_DOUBLE + name, _fixed(values.astype("<f8"))]
        case "M":
            return [_DATE + name, _fixed(values.astype("datetime64[ms]").astype("<i8"))]
        case "V":
            return [_OBJECT_ID + name, _fixed(values)]
        case "i":
            return _integers(name, values)
    raise TypeError(f"no BSON for {values.dtype}")


def _integers(name: bytes, values: Ints) -> list[Piece]:
    """Each in four bytes where it fits, as every driver writes it; little-endian, these are the first of eight."""
    is_small = values == values.astype(np.int32)
    kinds = np.frombuffer(_INT64 + _INT32, np.uint8)
    widths: Ints | int = 4 if is_small.all() else np.where(is_small, 4, 8)
    words = _fixed(values.astype("<i8"))
    return [Texts(kinds, is_small.astype(np.int64), 1), name, Texts(words.buffer, words.starts, widths)]


def _length(lengths: Ints | int) -> Piece:
    if isinstance(lengths, int):
        return lengths.to_bytes(4, "little")
    return _fixed(lengths.astype("<i4"))


def _fixed(values: NDArray[Any]) -> Texts:
    """The bytes of each value."""
    width = values.dtype.itemsize
    values = np.ascontiguousarray(values)
    return Texts(values.view(np.uint8), np.arange(len(values)) * width, width)
