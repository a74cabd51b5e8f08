"""Records as a store gives them back: the form in which `verify` compares what is there with what should be.

Only what reads back imports this, so that a load does without polars.
"""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from ingest_service.rows.columns import Columns
from ingest_service.rows.texts import concatenate
from ingest_service.sinks.fields import own_fields

# One record: its key, and all else that it says as one text. That is only compared, never taken apart.
STORED_SCHEMA = {"user_id": pl.String, "event_key": pl.String, "value": pl.String}
VALUE_COLUMNS = ("video_id", "timestamp", "event_type", "device", "session_id")

_OWN = "own"  # the fields that a data set has beyond these, as JSON; there is no such column where it has none
_NEEDS_ESCAPE = r'["\\\x00-\x1f\x7f-\x{10FFFF}]'


def frame_of(columns: Columns) -> pl.DataFrame:
    """Records of a source, for the expressions below."""
    frame = columns.frame()
    if fields := own_fields(columns):
        frame = frame.with_columns(pl.Series(_OWN, concatenate([b"{", *fields, b"}"]).to_list(), dtype=pl.String))
    return frame


def event_key_of(frame: pl.DataFrame) -> pl.Expr:
    """As `sinks.encode.event_key`."""
    parts = ("timestamp", "video_id", "tag") if "tag" in frame.columns else ("timestamp", "video_id")
    return pl.concat_str(*parts, separator="#").alias("event_key")


def value_of(frame: pl.DataFrame) -> pl.Expr:
    names = (*VALUE_COLUMNS, _OWN) if _OWN in frame.columns else VALUE_COLUMNS
    return pl.concat_str(*names, separator="\x1f").alias("value")


def value_text(texts: Sequence[str], others: Mapping[str, object]) -> str:
    """The same for one record as a store has it: the texts of `VALUE_COLUMNS`, and whatever else is there."""
    if not others:
        return "\x1f".join(texts)
    return "\x1f".join((*texts, json.dumps(others, sort_keys=True, separators=(",", ":"), default=str)))


def member_of(frame: pl.DataFrame) -> pl.Series:
    """Each row as the member of a Redis set: compact JSON, escaped as `json.dumps` does it."""
    session = frame["session_id"]
    needy = session.filter(session.str.contains(_NEEDS_ESCAPE)).unique()
    if needy.len():
        escaped = [json.dumps(text)[1:-1] for text in needy.to_list()]
        frame = frame.with_columns(session.replace(needy, pl.Series(escaped, dtype=pl.String)))
    parts: list[pl.Expr] = []
    for name in VALUE_COLUMNS:
        parts += [pl.lit(f'","{name}":"' if parts else f'{{"{name}":"'), pl.col(name)]
    end = [pl.lit('",'), pl.col(_OWN).str.slice(1)] if _OWN in frame.columns else [pl.lit('"}')]
    return frame.select(pl.concat_str(*parts, *end).alias("member")).to_series()
