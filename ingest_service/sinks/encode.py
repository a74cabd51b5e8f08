"""Texts into JSON, a column at a time, and the part of a record's key that several stores share."""

import json

import numpy as np

from ingest_service.columns import Columns
from ingest_service.texts import Piece, Texts

_NEEDS_ESCAPE = np.ones(256, np.bool_)
_NEEDS_ESCAPE[0x20:0x7F] = False
_NEEDS_ESCAPE[list(b'"\\')] = True


def json_escaped(texts: Texts) -> Texts:
    """The texts as they stand between the quotes of a JSON string, escaped as `json.dumps` does it.

    Almost always nothing needs it, which one look at their bytes tells.
    """
    if not _NEEDS_ESCAPE[texts.buffer].any():
        return texts
    return Texts.of([json.dumps(text)[1:-1] for text in texts.to_list()])


def event_key(columns: Columns) -> list[Piece]:
    """What tells a user's events apart, as pieces of a concatenation; it sorts by time."""
    return [columns.texts["timestamp"], b"#", columns.texts["video_id"]]
