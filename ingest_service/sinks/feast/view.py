"""A feature view of Feast as a URL names it: which records are written, and what of them."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from ingest_service.errors import ConfigurationError, declare_codes
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.rows.parse import PAD, padded, timestamps
from ingest_service.rows.schema import ITEM_ID, FieldKind
from ingest_service.rows.texts import Piece, Texts, concatenate
from ingest_service.sinks.base import Finding, SinkOptions
from ingest_service.sinks.feast.values import VALUES

declare_codes(
    {
        "out_of_range": "a number that the type of its feature cannot hold",
    }
)

_UNFIT = "A number does not fit into its type, INT32 or FLOAT; INT64 and DOUBLE hold it."
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


class ViewOptions(SinkOptions):
    """What every sink of a view takes."""

    entity: Annotated[Typed, BeforeValidator(_typed), AfterValidator(_entity)] = Field(
        description="the view's join key and its type: `user_id:INT64`, or `STRING` for the id as stored"
    )
    features: Annotated[tuple[Typed, ...], BeforeValidator(_all_typed), AfterValidator(_different)] = Field(
        description="fields of the data set, each with its type where it is not the usual one: `rating:FLOAT,device`"
    )
    # Of equal times the later row counts, for which chunks must come one after the other.
    consumers: int = Field(1, ge=1, le=1, description="one: chunks are written in the order of the file")

    @cached_property
    def what(self) -> str:
        """Tells what is kept about the rows apart: other features are another load."""
        return blake2b(",".join(map(str, (self.entity, *self.features))).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, slots=True)
class View:
    """What is written of each record."""

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

    def check(self, columns: Columns) -> list[Finding]:
        """The same as a finding."""
        try:
            self.require(columns)
        except ConfigurationError as error:
            return [Finding("features", False, str(error))]
        return [Finding("features", True, "all can be written")]

    def chosen(self, columns: Columns) -> "Chosen":
        """What of a chunk's records is written. ConfigurationError if nothing can be."""
        self.require(columns)
        unfit = self.unfit(columns)
        return Chosen(newest(columns, np.flatnonzero(~unfit)), np.flatnonzero(unfit))

    def ids(self, columns: Columns) -> Ints | Texts:
        """Each record's entity."""
        return columns.owner[0] if self.entity.type == "INT64" else columns.texts[columns.schema.owner]

    def values(self, columns: Columns) -> dict[str, list[Piece]]:
        """Of each feature the column of its `Value` messages."""
        found = {}
        for feature in self.features:
            type_name = feature.type or _TYPES[_kind(feature.name, columns)][0]
            found[feature.name] = VALUES[type_name](_values(Typed(feature.name, type_name), columns))
        return found


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows of a chunk: each entity's newest, and those that have a number which its type cannot hold."""

    newest: Ints
    unfit: Ints

    def dead(self, chunk: Chunk, sink: str) -> list[DeadRow]:
        return [chunk.dead_row(row, sink, "out_of_range", _UNFIT) for row in self.unfit.tolist()]


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
