"""What several stores share: the fields of a record, the part of its key, and texts into JSON, a column at a time."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import RECORD_NUMBERS, RECORD_TEXTS
from ingest_service.rows.texts import Piece, Texts, concatenate

# In stores that keep a record as fields; `event_key` tells a user's events apart.
FIELDS = ("user_id", "event_key", "video_id", "timestamp", "event_type", "device", "session_id")

_NEEDS_ESCAPE = np.ones(256, np.bool_)
_NEEDS_ESCAPE[0x20:0x7F] = False
_NEEDS_ESCAPE[list(b'"\\')] = True


def json_escaped(texts: Texts) -> Texts:
    """The texts as they stand between the quotes of a JSON string, escaped as `json.dumps` does it.

    Almost always nothing needs it, which one look at their bytes tells.
    """
    # The buffer may hold the texts of many more rows than these.
    if not len(texts) or not _NEEDS_ESCAPE[concatenate([texts]).buffer].any():
        return texts
    return Texts.of([json.dumps(text)[1:-1] for text in texts.to_list()])


def event_key(columns: Columns) -> list[Piece]:
    """What tells a user's events apart, as pieces of a concatenation; it sorts by time."""
    key: list[Piece] = [columns.texts["timestamp"], b"#", columns.texts["video_id"]]
    if "tag" in columns.texts:  # of one movie in one second there may be several
        key += [b"#", columns.texts["tag"]]
    return key


def field_texts(columns: Columns) -> dict[str, Texts]:
    """The texts by `FIELDS`, then those of the data set's own."""
    texts = {**columns.texts, "event_key": concatenate(event_key(columns))}
    return {name: texts[name] for name in (*FIELDS, *own_texts(columns))}


def own_texts(columns: Columns) -> dict[str, Texts]:
    """The texts that a data set has beyond those of an interaction."""
    return {name: texts for name, texts in columns.texts.items() if name not in RECORD_TEXTS}


def own_numbers(columns: Columns) -> dict[str, NDArray[Any]]:
    """The numbers that a data set has beyond those of an interaction."""
    return {name: numbers for name, numbers in columns.numbers.items() if name not in RECORD_NUMBERS}


def own_number_texts(columns: Columns) -> dict[str, Texts]:
    """The same as JSON writes them."""
    return {name: _number_texts(numbers) for name, numbers in own_numbers(columns).items()}


def own_fields(columns: Columns) -> list[Piece]:
    """All of these as the fields of a JSON object, by name and without its braces; empty where there are none."""
    texts = {name: json_escaped(texts) for name, texts in own_texts(columns).items()}
    fields: dict[str, list[Piece]] = {name: [b'"', escaped, b'"'] for name, escaped in texts.items()}
    fields |= {name: [numbers] for name, numbers in own_number_texts(columns).items()}
    pieces: list[Piece] = []
    for name in sorted(fields):
        pieces += [f'{"," if pieces else ""}"{name}":'.encode(), *fields[name]]
    return pieces


def _number_texts(numbers: NDArray[Any]) -> Texts:
    """Few different ones, each written once."""
    distinct, inverse = np.unique(numbers, return_inverse=True)
    return Texts.of([json.dumps(number) for number in distinct.tolist()]).take(inverse)
