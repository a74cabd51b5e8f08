"""What a sink knows of the videos of interactions, put beside them."""

from collections.abc import Sequence
from uuid import UUID

from ingest_service.datasets.microlens_items import about_video
from ingest_service.rows.interaction import EventType, VideoInteraction
from ingest_service.sinks.abilities import AnswersHistory, AnswersRecent
from ingest_service.sinks.base import AnySink


async def with_titles(sink: AnySink, interactions: Sequence[VideoInteraction]) -> list[VideoInteraction]:
    """Each with its video's `title`, where the sink has one of it. A question a video."""
    titles: dict[UUID, str] = {}
    for video in dict.fromkeys(one.video_id for one in interactions):
        for record in await _records(sink, about_video(video, EventType.TITLE)):
            titles[video] = (record.model_extra or {}).get("title", "")
    return [
        one.model_copy(update={"title": titles[one.video_id]}) if one.video_id in titles else one
        for one in interactions
    ]


async def _records(sink: AnySink, owner: UUID) -> list[VideoInteraction]:
    if isinstance(sink, AnswersRecent):
        return await sink.recent(owner, 1)
    return await sink.history(owner, None, None) if isinstance(sink, AnswersHistory) else []
