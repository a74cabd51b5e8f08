"""MicroLens pairs (user, item, time), and any file of that shape. Column names live only here.

Format: recsys.westlake.edu.cn, MicroLens-50k-Dataset. As published the header is `user,item,timestamp` in Unix
milliseconds; as its readme and most loaders describe it, `userID,videoID,timestamp` in ISO 8601 without a zone.
"""

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from ingest_service.datasets.base import Column, Dataset
from ingest_service.datasets.times import texts_and_dates
from ingest_service.datasets.uuids import UuidDictionary
from ingest_service.models import EPOCH, Device, EventType, VideoInteraction, microlens_interaction
from ingest_service.records import Ints

_users = UuidDictionary("user_")
_videos = UuidDictionary("video_")


def _frame(values: Mapping[str, Ints]) -> pl.DataFrame:
    texts, dates = texts_and_dates(values["timestamp"])
    session = pl.format("session_{}_{}", pl.lit(pl.Series(values["user"])), pl.lit(dates))
    return pl.select(
        _users.uuids(values["user"]).alias("user_id"),
        _videos.uuids(values["item"]).alias("video_id"),
        pl.lit(EventType.CLICK.value).alias("event_type"),
        texts.alias("timestamp"),
        pl.lit(Device.MOBILE.value).alias("device"),
        session.alias("session_id"),
        pl.Series(values["timestamp"] // 1_000).alias("epoch_ms"),
    )


def _interaction(values: Mapping[str, int]) -> VideoInteraction:
    at = EPOCH + timedelta(microseconds=values["timestamp"])
    return microlens_interaction(values["user"], values["item"], at)


MICROLENS = Dataset(
    name="microlens",
    columns=(
        Column("user", "id", frozenset({"user", "userid", "user_id"})),
        Column("item", "id", frozenset({"item", "itemid", "item_id", "video", "videoid", "video_id", "movieid"})),
        Column("timestamp", "timestamp", frozenset({"timestamp", "time", "ts", "event_time", "datetime"})),
    ),
    unit="auto",
    frame=_frame,
    interaction=_interaction,
)
