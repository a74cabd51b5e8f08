"""Parquet files of the folder read back, by polars."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from ingest_service.rows.interaction import INTERACTION, VideoInteraction
from ingest_service.rows.schema import FieldKind, Schema
from ingest_service.sinks.fields import interaction_of
from ingest_service.sinks.parquet.tables import OFFSET, SOURCE
from ingest_service.sinks.readback import STORED_SCHEMA, frame_of_stored


def stored_frame(paths: Sequence[Path], users: Sequence[str], schema: Schema) -> pl.DataFrame:
    """What the files have of these users, as `abilities.ReadBack.stored` has it."""
    if not paths or not users:
        return pl.DataFrame(schema=STORED_SCHEMA)
    wanted = pl.scan_parquet(list(paths), hive_partitioning=False).filter(pl.col(schema.owner).is_in(users))
    rows = _newest(wanted, schema).collect()
    return frame_of_stored(_as_texts(rows, schema).iter_rows(named=True), schema)


def interactions_of(
    paths: Sequence[Path], user: str, since: datetime | None, until: datetime | None
) -> list[VideoInteraction]:
    """A user's interactions in [since, until), oldest first."""
    if not paths:
        return []
    wanted = pl.scan_parquet(list(paths), hive_partitioning=False).filter(pl.col(INTERACTION.owner) == user)
    time = INTERACTION.key[0]
    if since is not None:
        wanted = wanted.filter(pl.col(time) >= since)
    if until is not None:
        wanted = wanted.filter(pl.col(time) < until)
    rows = _newest(wanted, INTERACTION).sort(INTERACTION.key).collect()
    return [interaction_of(fields) for fields in _as_texts(rows, INTERACTION).iter_rows(named=True)]


def _newest(rows: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
    """Of records with one key the one that stood last in its source; of several sources' that of one of them."""
    newest = rows.sort(SOURCE, OFFSET, maintain_order=True)
    return newest.unique([schema.owner, *schema.key], keep="last").drop(SOURCE, OFFSET)


def _as_texts(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Times and truths as the records have them."""
    truths = [field.name for field in schema.fields if field.kind is FieldKind.TRUTH]
    shown: list[Any] = [pl.col(schema.key[0]).dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ")]
    shown += [pl.when(pl.col(name)).then(pl.lit("true")).otherwise(pl.lit("false")).alias(name) for name in truths]
    return rows.with_columns(shown)
