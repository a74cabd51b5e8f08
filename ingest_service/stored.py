"""Records as a store gives them back: the form in which `verify` compares what is there with what should be.

Only what reads back imports this, so that a load does without polars.
"""

import json

import polars as pl

# One record: its key, and all else that it says as one text. That is only compared, never taken apart.
STORED_SCHEMA = {"user_id": pl.String, "event_key": pl.String, "value": pl.String}
VALUE_COLUMNS = ("video_id", "timestamp", "event_type", "device", "session_id")
VALUE = pl.concat_str(*VALUE_COLUMNS, separator="\x1f").alias("value")
EVENT_KEY = pl.concat_str("timestamp", pl.lit("#"), "video_id").alias("event_key")

_NEEDS_ESCAPE = r'["\\\x00-\x1f\x7f-\x{10FFFF}]'


def member_of(frame: pl.DataFrame) -> pl.Series:
    """`VALUE_COLUMNS` of each row as compact JSON, escaped as `json.dumps` does it."""
    session = frame["session_id"]
    needy = session.filter(session.str.contains(_NEEDS_ESCAPE)).unique()
    if needy.len():
        escaped = [json.dumps(text)[1:-1] for text in needy.to_list()]
        frame = frame.with_columns(session.replace(needy, pl.Series(escaped, dtype=pl.String)))
    parts: list[pl.Expr] = []
    for name in VALUE_COLUMNS:
        parts += [pl.lit(f'","{name}":"' if parts else f'{{"{name}":"'), pl.col(name)]
    return frame.select(pl.concat_str(*parts, pl.lit('"}')).alias("member")).to_series()
