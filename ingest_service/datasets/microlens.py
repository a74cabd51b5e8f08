"""MicroLens pairs (user, item, time), and any file of that shape. Column names live only here.

Format: recsys.westlake.edu.cn, MicroLens-50k-Dataset. As published the header is `user,item,timestamp` in Unix
milliseconds; as its readme and most loaders describe it, `userID,videoID,timestamp` in ISO 8601 without a zone.
"""

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from ingest_service.datasets.base import Column, Dataset
from ingest_service.datasets.uuids import UuidDictionary
from ingest_service.models import EPOCH, Device, EventType, VideoInteraction, microlens_interaction
from ingest_service.records import Ints

_users = UuidDictionary("user_")
_videos = UuidDictionary("video_")


def _frame(values: Mapping[str, Ints]) -> pl.DataFrame:
    at = pl.from_epoch(pl.col("timestamp"), time_unit="us")
    text = at.dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
    user = pl.col("user")
    frame = pl.DataFrame({"user": values["user"], "timestamp": values["timestamp"]})
    return frame.select(
        _users.uuids(values["user"]).alias("user_id"),
        _videos.uuids(values["item"]).alias("video_id"),
        pl.lit(EventType.CLICK.value).alias("event_type"),
        text.alias("timestamp"),
        pl.lit(Device.MOBILE.value).alias("device"),
        pl.concat_str(pl.lit("session_"), user.cast(pl.String), pl.lit("_"), text.str.head(10)).alias("session_id"),
        (pl.col("timestamp") // 1_000).alias("epoch_ms"),
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
