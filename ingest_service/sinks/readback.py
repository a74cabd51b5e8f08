"""Records as a store gives them back: the form in which `verify` compares what is there with what should be.

Only what reads back imports this, so that a load does without polars.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Schema
from ingest_service.sinks.fields import number_texts

# One record: its key, and all else that it says as one text. That is only compared, never taken apart.
STORED_SCHEMA = {"user_id": pl.String, "event_key": pl.String, "value": pl.String}

_BETWEEN = "\x1f"
_MISSING = "\x00"  # no text of a record: fields that a source has are all there


def frame_of(columns: Columns) -> pl.DataFrame:
    """Records of a source, for the expressions below: fields by name as texts, the owner as `user_id`, `epoch_ms`."""
    schema = columns.schema
    texts = {name: columns.texts[name] for name in schema.texts} | number_texts(columns)
    series = [pl.Series(name, one.to_list(), dtype=pl.String) for name, one in texts.items()]
    frame = pl.DataFrame([*series, pl.Series("epoch_ms", columns.epoch_ms)])
    return frame if schema.owner == "user_id" else frame.rename({schema.owner: "user_id"})


def event_key_of(schema: Schema) -> pl.Expr:
    """As `sinks.fields.event_key`."""
    key = pl.concat_str(*schema.key, separator="#") if schema.key else pl.lit("")
    return key.alias("event_key")


def value_of(schema: Schema) -> pl.Expr:
    return pl.concat_str(*(field.name for field in schema.described), separator=_BETWEEN).alias("value")


def value_text(schema: Schema, fields: Mapping[str, Any]) -> str:
    """The same for one record as a store has it, without owner and key: what else is there makes it another value.

    Numbers are what `json` reads; None is as if it were not there.
    """
    others = {name: value for name, value in fields.items() if value is not None}
    texts = []
    for field in schema.described:
        value = others.pop(field.name, _MISSING)
        # A value that is no text was not written by this program; as text it compares as another one.
        texts.append(json.dumps(value) if field.is_number and value is not _MISSING else str(value))
    if others:
        texts.append(json.dumps(others, sort_keys=True, separators=(",", ":"), default=str))
    return _BETWEEN.join(texts)


def frame_of_stored(rows: Iterable[dict[str, Any]], schema: Schema) -> pl.DataFrame:
    """Records as `abilities.ReadBack.stored` has them, of fields by their names; owner and key are among these."""
    stored = []
    for fields in rows:
        user = fields.pop(schema.owner)
        key = "#".join(str(fields[name]) for name in schema.key)
        stored.append((str(user), key, value_text(schema, fields)))
    return pl.DataFrame(stored, schema=STORED_SCHEMA, orient="row")


def all_expected(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """What a sink should hold that keeps every record as it is: as `abilities.ReadBack.expected` has it."""
    return frame.with_columns(event_key_of(schema), value_of(schema), pl.lit(False).alias("expired"))
