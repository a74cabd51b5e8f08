"""The bytes of Feast's online store, a column at a time: `Value` and `Timestamp` messages, entity keys, field hashes.

Messages are in the wire format of protobuf (protobuf.dev, "Encoding"); the keys are Feast's entity key serialization
version 3. tests/sinks/feast_golden.json has what Feast makes of the same values.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Ints
from ingest_service.rows.parse import Bytes
from ingest_service.rows.texts import Piece, Texts, concatenate
from ingest_service.sinks.feast.hashes import murmur3_32, murmur3_128

_STRING, _INT64 = 2, 4  # of feast.types.ValueType: what an entity key says of a name and of a value


def varints(numbers: Ints) -> Texts:
    """int64[n] as varints; a negative number takes ten bytes."""
    rest = np.ascontiguousarray(numbers).view(np.uint64)
    n_bytes = max(1, -(-int(rest.max(initial=0)).bit_length() // 7))
    table = np.empty((len(rest), n_bytes), np.uint8)
    widths = np.ones(len(rest), np.int64)
    for place in range(n_bytes):
        table[:, place] = rest.astype(np.uint8) | 0x80
        rest = rest >> np.uint64(7)
        widths += rest != 0
    table[np.arange(len(rest)), widths - 1] &= 0x7F
    return Texts(table.reshape(-1), np.arange(len(rest)) * n_bytes, widths)


def _fixed(numbers: NDArray[Any]) -> Texts:
    """Numbers in little endian."""
    size = numbers.dtype.itemsize
    buffer: Bytes = np.ascontiguousarray(numbers).astype(numbers.dtype.newbyteorder("<")).view(np.uint8)
    return Texts(buffer, np.arange(len(numbers)) * size, size)


def _widths(texts: Texts) -> Ints:
    return np.broadcast_to(np.asarray(texts.widths, np.int64), len(texts))


def _text(texts: Texts) -> list[Piece]:
    return [b"\x12", varints(_widths(texts)), texts]


# What a column of a type becomes: the `val` of a `Value`, which is there even if it is 0 or empty.
VALUES: dict[str, Callable[[Any], list[Piece]]] = {
    "STRING": _text,
    "INT32": lambda numbers: [b"\x18", varints(numbers)],
    "INT64": lambda numbers: [b"\x20", varints(numbers)],
    "DOUBLE": lambda numbers: [b"\x29", _fixed(numbers)],
    "FLOAT": lambda numbers: [b"\x35", _fixed(numbers.astype(np.float32))],
    "BOOL": lambda truths: [b"\x38", varints(truths.astype(np.int64))],
    "UNIX_TIMESTAMP": lambda seconds: [b"\x40", varints(seconds)],
}


def timestamps(micros: Ints) -> Texts:
    """Microseconds since 1970 as `Timestamp` messages, in which a 0 is left out."""
    seconds, fractions = np.divmod(micros, 1_000_000)
    return concatenate([_unless_zero(b"\x08", seconds), _unless_zero(b"\x10", fractions * 1_000)])


def moment_us(message: bytes | None) -> int | None:
    """Microseconds since 1970 of a `Timestamp` message, None if it is none."""
    if message is None:
        return None
    found, rest = {0x08: 0, 0x10: 0}, list(message)
    while rest:
        tag, value, bits = rest.pop(0), 0, 0
        if tag not in found:
            return None
        while rest and rest[0] & 0x80:
            value, bits = value | (rest.pop(0) & 0x7F) << bits, bits + 7
        if not rest or bits > 63:
            return None
        found[tag] = value | rest.pop(0) << bits
    seconds, nanos = found.values()
    return (seconds - (seconds >> 63 << 64)) * 1_000_000 + nanos // 1_000


def _unless_zero(tag: bytes, numbers: Ints) -> Texts:
    texts = concatenate([tag, varints(numbers)])
    return Texts(texts.buffer, texts.starts, np.where(numbers == 0, 0, texts.widths))


def entity_keys(join_key: str, ids: Ints | Texts, project: str) -> list[Piece]:
    """The keys of entities that have one join key, in a project."""
    name = join_key.encode()
    head = struct.pack("<III", 1, _STRING, len(name)) + name
    if isinstance(ids, Texts):
        sizes = _fixed(_widths(ids).astype(np.int32))
        return [head + struct.pack("<I", _STRING), sizes, ids, project.encode()]
    return [head + struct.pack("<II", _INT64, 8), _fixed(ids), project.encode()]


def entity_ids(join_key: str, ids: Ints | Texts) -> list[str]:
    """The same as DynamoDB has them, where the project is in the table's name."""
    return [key.hex() for key in murmur3_128(concatenate(entity_keys(join_key, ids, "")))]


def field_hash(view: str, feature: str) -> bytes:
    """The name of a feature's field in an entity's hash."""
    return struct.pack("<I", murmur3_32(f"{view}:{feature}".encode()))
