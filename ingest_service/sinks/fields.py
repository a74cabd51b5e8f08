"""What several stores share: the fields of a record, the part of its key, and texts into JSON, a column at a time."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ingest_service.errors import ConfigurationError
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import Piece, Texts, concatenate

EVENT_KEY = "event_key"  # tells an owner's records apart, in stores that keep a record as fields

_SPACE, _TILDE = b" ~"  # the first and the last of the bytes that are letters, digits and marks


def json_escaped(texts: Texts) -> Texts:
    """The texts as they stand between the quotes of a JSON string, escaped as `json.dumps` does it.

    Almost always nothing needs it, which one look at their bytes tells.
    """
    if not len(texts):
        return texts
    buffer = concatenate([texts]).buffer  # that of the texts may hold many more than these
    is_plain = not len(buffer) or (buffer.min() >= _SPACE and buffer.max() <= _TILDE)
    if is_plain and not any(mark in buffer.tobytes() for mark in (b'"', b"\\")):
        return texts
    return Texts.of([json.dumps(text)[1:-1] for text in texts.to_list()])


def stored_texts(schema: Schema) -> tuple[str, ...]:
    """The names of a record's texts, in stores that keep it as fields: the owner, the key, and the rest."""
    return (schema.owner, EVENT_KEY, *(name for name in schema.texts if name != schema.owner))


def event_key(columns: Columns) -> list[Piece]:
    """The key as pieces of a concatenation; it sorts by time."""
    pieces: list[Piece] = []
    for name in columns.schema.key:
        pieces += [b"#", columns.texts[name]] if pieces else [columns.texts[name]]
    return pieces


def field_texts(columns: Columns) -> dict[str, Texts]:
    """The texts as `stored_texts` has them."""
    texts = {**columns.texts, EVENT_KEY: concatenate(event_key(columns))}
    return {name: texts[name] for name in stored_texts(columns.schema)}


def interaction_of(fields: Mapping[str, Any]) -> VideoInteraction:
    """A record of a store that keeps it as fields; those of other data sets are None, and not of this one.

    ConfigurationError for one that is none: its ids are stored as they stand, or somebody else wrote it.
    """
    ours = {name: value for name, value in fields.items() if name not in ("_id", EVENT_KEY) and value is not None}
    try:
        return VideoInteraction.model_validate(ours)
    except ValidationError:  # it quotes the record
        raise ConfigurationError(
            "The store has a record of this user that is no interaction, or whose ids are no UUIDs (x-stored: raw)."
        ) from None


def json_safe(columns: Columns, *, but: str = "") -> Columns:
    """The same with its free texts as they stand in JSON, but for one that stands elsewhere."""
    escaped = {name: json_escaped(columns.texts[name]) for name in columns.schema.free_texts - {but}}
    return replace(columns, texts={**columns.texts, **escaped})


def number_texts(columns: Columns) -> dict[str, Texts]:
    """The numbers as JSON writes them."""
    return {name: _number_texts(columns.numbers[name]) for name in columns.schema.numbers}


def _number_texts(numbers: NDArray[Any]) -> Texts:
    """Few different ones, each written once."""
    distinct, inverse = np.unique(numbers, return_inverse=True)
    return Texts.of([json.dumps(number) for number in distinct.tolist()]).take(inverse)
