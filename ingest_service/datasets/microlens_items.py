"""What MicroLens says of its videos: titles, and how many likes and views each has. Column names live only here.

Format: recsys.westlake.edu.cn, MicroLens-50k-Dataset: `titles.csv` has the header `item,title`, the 100k's
`title_en.csv` has none; `likes_and_views.txt` is item, likes and views between tabs, without a header.

Such a record is about a video, and at no time. It stands where a user's events would, under an id that follows from the
video's UUID, so that whoever has an interaction finds it, and each kind of record is an owner's only one.
"""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from ingest_service.datasets.base import About, Column, Dataset
from ingest_service.datasets.forms import Delimited
from ingest_service.datasets.kinds import ID, TEXT, Whole
from ingest_service.datasets.microlens import ITEM_NAMES
from ingest_service.datasets.times import texts_and_dates
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns, Values
from ingest_service.rows.interaction import EPOCH, INTERACTION, NAMESPACE, Device, EventType, VideoInteraction
from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.rows.texts import Texts, concatenate, decimals

_TITLED = INTERACTION.extended("microlens-titles", Field("title", FieldKind.TEXT))
_COUNTED = INTERACTION.extended(
    "microlens-likes-and-views", Field("likes", FieldKind.INT), Field("views", FieldKind.INT)
)


def about_video(video_id: UUID, event_type: EventType) -> UUID:
    """Under which id what is known of a video is stored (a contract): `TITLE` or `COUNTS`."""
    return uuid5(video_id, event_type.value)


def _columns(schema: Schema, event_type: EventType, item: Ints, own: Mapping[str, Values]) -> Columns:
    n = len(item)
    zeros = np.zeros(n, np.int64)
    videos = [uuid5(NAMESPACE, f"video_{number}") for number in item.tolist()]
    texts = {
        "user_id": Texts.of([str(about_video(video, event_type)) for video in videos]),
        "video_id": Texts.of([str(video) for video in videos]),
        "event_type": Texts.constant(event_type.value, n),
        "timestamp": texts_and_dates(zeros)[0],
        "device": Texts.constant(Device.UNKNOWN.value, n),
        "session_id": concatenate([b"video_", decimals(item)]),
    }
    texts |= {name: values for name, values in own.items() if isinstance(values, Texts)}
    numbers = {name: values for name, values in own.items() if not isinstance(values, Texts)}
    return Columns(schema, (item,), (), zeros, texts, numbers)


def _of_row(event_type: EventType) -> Callable[[Mapping[str, Any]], VideoInteraction]:
    def interaction(values: Mapping[str, Any]) -> VideoInteraction:
        video = uuid5(NAMESPACE, f"video_{values['item']}")
        return VideoInteraction(
            user_id=about_video(video, event_type),
            video_id=video,
            event_type=event_type,
            timestamp=EPOCH,
            device=Device.UNKNOWN,
            session_id=f"video_{values['item']}",
        )

    return interaction


def _titles(name: str, form: Delimited, about: About) -> Dataset:
    return Dataset(
        name,
        (Column("item", ID, ITEM_NAMES, 0), Column("title", TEXT, frozenset({"title"}), 1)),
        _TITLED,
        lambda values: _columns(_TITLED, EventType.TITLE, values["item"], {"title": values["title"]}),
        _of_row(EventType.TITLE),
        form,
        about,
    )


_PAGE = "https://recsys.westlake.edu.cn/MicroLens-50k-Dataset/"
TITLES = _titles(
    "microlens-titles",
    Delimited(),
    About("MicroLens: titles of videos", "item,title with a header", _PAGE, {"MicroLens-50k_titles.csv": 19_220}),
)
TITLES_NOHEADER = _titles(
    "microlens-titles-noheader",
    Delimited(delimiter=b",", header=False, n_fields=2),
    About("MicroLens: titles of videos", "item,title without a header, as MicroLens-100k_title_en.csv", _PAGE),
)
LIKES_AND_VIEWS = Dataset(
    "microlens-likes-and-views",
    (
        Column("item", ID, ITEM_NAMES, 0),
        Column("likes", Whole(), frozenset({"likes"}), 1),
        Column("views", Whole(), frozenset({"views"}), 2),
    ),
    _COUNTED,
    lambda values: _columns(
        _COUNTED, EventType.COUNTS, values["item"], {"likes": values["likes"], "views": values["views"]}
    ),
    _of_row(EventType.COUNTS),
    Delimited(delimiter=b"\t", header=False, n_fields=3),
    About(
        "MicroLens: likes and views of videos",
        "item, likes and views between tabs, without a header",
        _PAGE,
        {"MicroLens-50k_likes_and_views.txt": 19_220},
    ),
)
