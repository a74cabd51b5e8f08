"""MicroLens pairs (user, item, time), and any file of that shape. Column names live only here.

Format: recsys.westlake.edu.cn, MicroLens-50k-Dataset. As published the header is `user,item,timestamp` in Unix
milliseconds; as its readme and most loaders describe it, `userID,videoID,timestamp` in ISO 8601 without a zone.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import uuid5

from ingest_service.datasets.base import About, Column, Dataset
from ingest_service.datasets.kinds import ID, Time
from ingest_service.datasets.times import texts_and_dates
from ingest_service.datasets.uuids import UuidDictionary
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import (
    EPOCH,
    INTERACTION,
    NAMESPACE,
    Device,
    EventType,
    VideoInteraction,
)
from ingest_service.rows.schema import FieldKind
from ingest_service.rows.texts import Texts, numbered

# A session is a number and a day here, and no free text.
_SCHEMA = INTERACTION.with_kind(FieldKind.WORD, "session_id").extended("microlens", follows_from_key=True)
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
        "session_id": numbered(b"session_", user, b"_", dates),
    }
    return Columns(_SCHEMA, (user,), (item,), micros, texts, {})


def microlens_interaction(user: int, item: int, at: datetime) -> VideoInteraction:
    """What a row of a MicroLens file becomes (a contract: stored ids depend on it)."""
    return VideoInteraction(
        user_id=uuid5(NAMESPACE, f"user_{user}"),
        video_id=uuid5(NAMESPACE, f"video_{item}"),
        event_type=EventType.CLICK,
        timestamp=at,
        device=Device.MOBILE,
        session_id=f"session_{user}_{at:%Y-%m-%d}",
    )


def _interaction(values: Mapping[str, int]) -> VideoInteraction:
    at = EPOCH + timedelta(microseconds=values["timestamp"])
    return microlens_interaction(values["user"], values["item"], at)


MICROLENS = Dataset(
    name="microlens",
    columns=(
        Column("user", ID, frozenset({"user", "userid", "user_id"})),
        Column("item", ID, frozenset({"item", "itemid", "item_id", "video", "videoid", "video_id", "movieid"})),
        Column("timestamp", Time(), frozenset({"timestamp", "time", "ts", "event_time", "datetime"})),
    ),
    schema=_SCHEMA,
    records=_records,
    interaction=_interaction,
    about=About(
        "MicroLens pairs, and any file of that shape",
        homepage="https://github.com/westlake-repl/MicroLens",
        rows={"MicroLens-50k": 359_708, "MicroLens-100k": 719_405, "MicroLens-1M": 9_095_620},
        sha256={"MicroLens-50k": "7ff8b91bcc84f5434ac2c5be7d0b7d7730f5e84f79f9648b5ae67a7641f97bbd"},
    ),
)
