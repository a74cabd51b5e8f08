"""Made-up rows."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from ingest_service.datasets.identity import numbers_of
from ingest_service.datasets.microlens import microlens_interaction
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import EPOCH, INTERACTION, VideoInteraction, micros_of, timestamp_text
from ingest_service.rows.texts import Texts
from ingest_service.sinks.base import AnySink, Written

FIRST_MS = 1_583_366_400_000  # 2020-03-05T00:00:00Z


def interaction(user: int, item: int, ms: int = FIRST_MS, **changes: Any) -> VideoInteraction:
    """What the row `user,item,ms` becomes, but for `changes`."""
    return microlens_interaction(user, item, EPOCH + timedelta(milliseconds=ms)).model_copy(update=changes)


def interactions(n: int, users: int = 7) -> list[VideoInteraction]:
    """Different ones, of a few users, in time order."""
    return [interaction(1 + i % users, 100 + i, FIRST_MS + i) for i in range(n)]


def chunk_of(rows: Sequence[VideoInteraction], *, follows_from_key: bool = True, **texts: Sequence[str]) -> Chunk:
    """A chunk that a parser might have made of these rows; `texts` replace some of its columns.

    The bytes of row i are `row i`, on line i + 2. Rows that are different versions of one record do not follow from
    their key.
    """
    raws = Texts.of([f"row {i}\n" for i in range(len(rows))])
    widths = np.asarray(raws.widths)
    end = Position(int(widths.sum()), len(rows), len(rows) + 1)
    columns = columns_of(rows, **texts)
    columns = replace(columns, schema=replace(columns.schema, follows_from_key=follows_from_key))
    lines = np.arange(2, len(rows) + 2)
    return Chunk(Position(0, 0, 1), end, columns, raws.starts, lines, replace(raws, widths=widths - 1))


def columns_of(rows: Sequence[VideoInteraction], **texts: Sequence[str]) -> Columns:
    """The rows as columns; `texts` replace some of them."""
    values: dict[str, Sequence[str]] = {
        "user_id": [str(row.user_id) for row in rows],
        "video_id": [str(row.video_id) for row in rows],
        "event_type": [row.event_type.value for row in rows],
        "timestamp": [timestamp_text(row.timestamp) for row in rows],
        "device": [row.device.value for row in rows],
        "session_id": [row.session_id for row in rows],
    }
    assert set(texts) <= set(values) == set(INTERACTION.texts)
    values |= texts
    columns = {name: Texts.of(column) for name, column in values.items()}
    time_us = np.array([micros_of(row.timestamp) for row in rows], np.int64)
    return Columns(
        INTERACTION,
        numbers_of(columns["user_id"]),
        numbers_of(columns["video_id"]),
        time_us,
        columns,
        {},
    )


def key_of(record: VideoInteraction) -> tuple[str, str]:
    return str(record.user_id), f"{timestamp_text(record.timestamp)}#{record.video_id}"


async def store(sink: AnySink, chunk: Chunk) -> Written:
    """Write a chunk so that other clients see it, too."""
    written = await sink.store(chunk)
    await sink.flush()
    return written
