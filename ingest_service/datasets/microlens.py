"""MicroLens pairs (user, item, time), and any file of that shape. Column names live only here.

Format: recsys.westlake.edu.cn, MicroLens-50k-Dataset. As published the header is `user,item,timestamp` in Unix
milliseconds; as its readme and most loaders describe it, `userID,videoID,timestamp` in ISO 8601 without a zone.
"""

from collections.abc import Mapping
from datetime import timedelta

from ingest_service.datasets.base import Column, Dataset
from ingest_service.datasets.times import texts_and_dates
from ingest_service.datasets.uuids import UuidDictionary
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import EPOCH, Device, EventType, VideoInteraction, microlens_interaction
from ingest_service.rows.texts import Texts, concatenate, decimals

_users = UuidDictionary("user_")
_videos = UuidDictionary("video_")


def _records(values: Mapping[str, Ints]) -> Columns:
    user, item, micros = values["user"], values["item"], values["timestamp"]
    timestamps, dates = texts_and_dates(micros)
    texts = {
        "user_id": _users.uuids(user),
        "video_id": _videos.uuids(item),
        "event_type": Texts.constant(EventType.CLICK.value, len(user)),
        "timestamp": timestamps,
        "device": Texts.constant(Device.MOBILE.value, len(user)),
        "session_id": concatenate([b"session_", decimals(user), b"_", dates]),
    }
    return Columns((user, item, micros), texts, {"epoch_ms": micros // 1_000}, follow_from_key=True)


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
    records=_records,
    interaction=_interaction,
)
