"""Columns to JSON text, without a Python object a row."""

import json

import polars as pl

_NEEDS_ESCAPE = r'["\\\x00-\x1f\x7f-\x{10FFFF}]'


def json_strings(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The frame with the text in `columns` escaped for use between the quotes of a JSON string.

    Almost always nothing needs it, which one scan tells; what does is escaped as `json.dumps` does it.
    """
    for name in columns:
        column = frame[name]
        needy = column.str.contains(_NEEDS_ESCAPE)
        if needy.any():
            texts = column.filter(needy).unique()
            escaped = [json.dumps(text)[1:-1] for text in texts.to_list()]
            frame = frame.with_columns(column.replace(texts, pl.Series(escaped, dtype=pl.String)))
    return frame
