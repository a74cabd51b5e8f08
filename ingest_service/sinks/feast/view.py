"""A feature view of Feast as a URL names it, and records as the commands that write it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, sha1
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from ingest_service.errors import ConfigurationError
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.parse import PAD, Bytes, padded, timestamps
from ingest_service.rows.schema import ITEM_ID, FieldKind
from ingest_service.rows.texts import Piece, Texts, concatenate, lengths, write
from ingest_service.sinks.feast.values import VALUES, entity_keys, field_hash
from ingest_service.sinks.feast.values import timestamps as timestamp_messages
from ingest_service.sinks.redis.address import ServerOptions
from ingest_service.sinks.redis.commands import bulk

# Writes a view's fields of an entity, unless what is there is of a later event; without a key it only becomes known.
# KEYS: the entity's hash; ARGV: the name of the time's field, the time as Feast's `Timestamp`, then fields and values.
_WRITE = rb"""
if #KEYS == 0 then return 0 end
local function moment(text)
  local found, at = {0, 0}, 1
  while at <= #text do
    local number, value, scale, byte = string.byte(text, at) / 8, 0, 1, 128
    while byte >= 128 do
      at = at + 1
      byte = string.byte(text, at)
      if not byte then return -1, 0 end
      value, scale = value + byte % 128 * scale, scale * 128
    end
    if value >= 2 ^ 63 then return -1, 0 end
    found[number], at = value, at + 1
  end
  return found[1], found[2]
end
local there = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(there) == 'table' then return there end
if there and there ~= ARGV[2] then
  local old_s, old_ns = moment(there)
  local new_s, new_ns = moment(ARGV[2])
  if old_s > new_s or (old_s == new_s and old_ns > new_ns) then return 0 end
end
return redis.pcall('HSET', KEYS[1], unpack(ARGV))
"""
MAKE_KNOWN = b"*3\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n$1\r\n0\r\n" % (len(_WRITE), _WRITE)
_KNOWN_BY = sha1(_WRITE, usedforsecurity=False).hexdigest().encode()

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
_INT32 = np.iinfo(np.int32)
# The types that a field of a kind can be written as, the usual one first. An id is also what its number can be.
_TYPES: dict[FieldKind, tuple[str, ...]] = {
    FieldKind.INT: ("INT64", "INT32"),
    FieldKind.FLOAT: ("DOUBLE", "FLOAT"),
    FieldKind.TRUTH: ("BOOL",),
    FieldKind.TIME: ("UNIX_TIMESTAMP", "STRING"),
    FieldKind.UUID: ("STRING",),
    FieldKind.WORD: ("STRING",),
    FieldKind.TEXT: ("STRING",),
    FieldKind.DECIMAL: ("STRING",),
    FieldKind.LIST: (),
}


@dataclass(frozen=True, slots=True)
class Typed:
    """A name and a type of Feast's, which may be left open."""

    name: str
    type: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.type}" if self.type else self.name


def _typed(text: Any) -> Typed:
    name, _, type_name = str(text).partition(":")
    if not name or (type_name and type_name not in VALUES):
        raise ValueError(f"it looks like user_id:INT64, the type being one of {', '.join(VALUES)}")
    return Typed(name, type_name)


def _all_typed(text: Any) -> tuple[Typed, ...]:
    return tuple(_typed(part) for part in str(text).split(","))


def _entity(entity: Typed) -> Typed:
    if entity.type not in ("INT64", "STRING"):
        raise ValueError("the entity is of the type INT64 or STRING, like user_id:INT64")
    return entity


def _different(features: tuple[Typed, ...]) -> tuple[Typed, ...]:
    if len({one.name for one in features}) < len(features):
        raise ValueError("a feature is there twice")
    return features


class FeastOptions(ServerOptions):
    project: str = Field(pattern=_NAME, description="Feast's project")
    view: str = Field(pattern=_NAME, description="the feature view")
    entity: Annotated[Typed, BeforeValidator(_typed), AfterValidator(_entity)] = Field(
        description="the view's join key and its type: `user_id:INT64`, or `STRING` for the id as stored"
    )
    features: Annotated[tuple[Typed, ...], BeforeValidator(_all_typed), AfterValidator(_different)] = Field(
        description="fields of the data set, each with its type where it is not the usual one: `rating:FLOAT,device`"
    )
    # Of equal times the later row counts, for which chunks must come one after the other.
    consumers: int = Field(1, ge=1, le=1, description="one: chunks are written in the order of the file")

    @cached_property
    def own(self) -> str:
        """Begins the keys of what is kept about the rows: other features are another load."""
        what = blake2b(",".join(map(str, (self.entity, *self.features))).encode(), digest_size=4).hexdigest()
        return f"feast:{self.project}:{self.view}:{what}:"


@dataclass(frozen=True, slots=True)
class View:
    """What is written, and how."""

    project: str
    name: str
    entity: Typed
    features: tuple[Typed, ...]

    def require(self, columns: Columns) -> None:
        """ConfigurationError unless records of these columns can be written: it says which field cannot, and why."""
        if columns.schema.is_about_items or not columns.schema.key:
            raise ConfigurationError("This data set says something of items at no time; Feast needs an event's time.")
        if self.entity.type == "INT64" and len(columns.owner) != 1:
            raise ConfigurationError(
                f"The ids of {columns.schema.owner} are texts in this data set; say entity={self.entity.name}:STRING."
            )
        for feature in self.features:
            self._require(feature, columns)

    def _require(self, feature: Typed, columns: Columns) -> None:
        kinds = {field.name: field.kind for field in columns.schema.fields}
        if feature.name not in kinds:
            raise ConfigurationError(
                f"The data set has no field {feature.name!r} for features=; it has: {', '.join(kinds)}."
            )
        possible = _TYPES[kinds[feature.name]]
        if _numbers_of_ids(feature.name, columns) is not None:
            possible = (*possible, "INT64", "INT32")
        if not possible:
            raise ConfigurationError(f"The field {feature.name!r} is a list, which this sink does not write to Feast.")
        if feature.type and feature.type not in possible:
            raise ConfigurationError(
                f"The field {feature.name!r} cannot be written as {feature.type}, only as {' or '.join(possible)}."
            )

    def unfit(self, columns: Columns) -> Bools:
        """Which records have a number that its type cannot hold."""
        found = np.zeros(len(columns), np.bool_)
        for feature in self.features:
            if feature.type == "INT32":
                numbers = _values(feature, columns)
                found |= (numbers < _INT32.min) | (numbers > _INT32.max)
            elif feature.type == "FLOAT":
                found |= np.abs(_values(feature, columns)) > np.finfo(np.float32).max
        return found

    def commands(self, columns: Columns) -> Bytes:
        """RESP commands that write records, one an entity, each with one reply: a number."""
        time_field = f"_ts:{self.name}".encode()
        n_words = 6 + 2 * len(self.features)
        head = [b"*%d\r\n$7\r\nEVALSHA\r\n" % n_words, *bulk([_KNOWN_BY]), b"$1\r\n1\r\n"]
        parts: list[Sequence[Piece]] = [
            [*head, *bulk(entity_keys(self.entity.name, self._ids(columns), self.project)), *bulk([time_field])],
            bulk([timestamp_messages(columns.times)]),
        ]
        for feature in self.features:
            type_name = feature.type or _TYPES[_kind(feature.name, columns)][0]
            value = VALUES[type_name](_values(Typed(feature.name, type_name), columns))
            parts.append([*bulk([field_hash(self.name, feature.name)]), *bulk(value)])
        return _side_by_side(parts, len(columns))

    def _ids(self, columns: Columns) -> Ints | Texts:
        return columns.owner[0] if self.entity.type == "INT64" else columns.texts[columns.schema.owner]


def newest(columns: Columns, rows: Ints) -> Ints:
    """Of these rows each owner's newest, of equal times the last: their indices, one an owner."""
    if not len(rows):
        return rows
    chosen = columns.identity_alone().take(rows)
    order, starts = chosen.by_owner()
    times = chosen.times[order]
    sizes = np.diff(starts, append=len(order))
    is_newest = times == np.repeat(np.maximum.reduceat(times, starts), sizes)
    last = np.maximum.reduceat(np.where(is_newest, np.arange(len(order)), -1), starts)
    return np.sort(rows[order[last]])


def _kind(name: str, columns: Columns) -> FieldKind:
    return next(field.kind for field in columns.schema.fields if field.name == name)


def _numbers_of_ids(name: str, columns: Columns) -> Ints | None:
    """The ids in the source, where the field is one of those and they are numbers."""
    schema = columns.schema
    if name == schema.owner:
        return columns.owner[0] if len(columns.owner) == 1 else None
    # A text in the key is two numbers, and the time is none of the parts.
    is_number = name == ITEM_ID and len(columns.parts) == 1 + 2 * len(schema.key[2:])
    return columns.parts[0] if is_number else None


def _values(feature: Typed, columns: Columns) -> Any:
    """The column of a feature as its type takes it."""
    if feature.type in ("INT64", "INT32"):
        ids = _numbers_of_ids(feature.name, columns)
        return columns.numbers[feature.name] if ids is None else ids
    if feature.type in ("DOUBLE", "FLOAT"):
        return columns.numbers[feature.name].astype(np.float64)
    texts = columns.texts[feature.name]
    if feature.type == "BOOL":
        return np.broadcast_to(np.asarray(texts.widths), len(texts)) == len("true")
    if feature.type == "UNIX_TIMESTAMP":
        return _micros(texts) // 1_000_000
    return texts


def _micros(texts: Texts) -> Ints:
    """Times from the text in which they are stored."""
    own = concatenate([texts])
    starts = own.starts + PAD
    micros, _ = timestamps(padded(own.buffer.tobytes()), starts, starts + own.widths, "auto")
    return micros


def _side_by_side(parts: Sequence[Sequence[Piece]], n: int) -> Bytes:
    """Each row's parts one after the other. Part by part, since rows of many widths are few of each together."""
    widths = [lengths(pieces) for pieces in parts]
    row_widths = np.zeros(n, np.int64) + sum(widths)
    ends = np.cumsum(row_widths)
    out = np.empty(int(ends[-1]) if n else 0, np.uint8)
    at = ends - row_widths
    for pieces, width in zip(parts, widths, strict=True):
        write(out, at, pieces)
        at = at + width
    return out
