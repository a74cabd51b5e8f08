"""What is kept of each entity, as `verify` compares it: its value, the time of the event, and the bytes of features.

Only what reads back imports this.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.texts import Texts, raws
from ingest_service.sinks.feast.view import View
from ingest_service.sinks.readback import STORED_SCHEMA


def time_key(time_us: int) -> str:
    """Of one width, so that these texts sort as the times do."""
    return f"{np.datetime_as_string(np.datetime64(time_us, 'us'), unit='us')}Z"


def value_text(values: Iterable[bytes | None]) -> str:
    return " ".join("-" if value is None else value.hex() for value in values)


def in_own_form(view: View, columns: Columns) -> pl.DataFrame:
    ids = view.ids(columns)
    values = zip(*(raws(pieces) for pieces in view.values(columns).values()), strict=True)
    return pl.DataFrame(
        {
            "user_id": ids.to_list() if isinstance(ids, Texts) else list(map(str, ids.tolist())),
            "event_key": list(map(time_key, columns.times.tolist())),
            "value": list(map(value_text, values)),
        },
        schema=STORED_SCHEMA,
    )


def ids_of(view: View, users: Sequence[str]) -> Ints | Texts:
    """Entities by their values in that form."""
    return np.array(list(map(int, users)), np.int64) if view.entity.type == "INT64" else Texts.of(users)


def newest(frame: pl.DataFrame) -> pl.DataFrame:
    """Of records in that form, which differ in their keys, each entity's newest."""
    is_newest = pl.col("event_key") == pl.col("event_key").max().over("user_id")
    return frame.filter(is_newest).with_columns(pl.lit(False).alias("expired"))


def stored_frame(rows: Iterable[tuple[str, int | None, Iterable[bytes | None]]]) -> pl.DataFrame:
    """Entities with the time that is there, None where it is none, and their values."""
    told = [(user, "" if time_us is None else time_key(time_us), value_text(values)) for user, time_us, values in rows]
    return pl.DataFrame(told, schema=STORED_SCHEMA, orient="row")
