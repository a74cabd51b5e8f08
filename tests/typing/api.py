"""How the public surface is used, as its users' type checkers see it: checked by mypy, never run."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type
from uuid import UUID

from ingest_service import (
    Device,
    EventType,
    IngestError,
    InteractionStore,
    MicroLensIngestor,
    MicroLensPairsReader,
    Report,
    Sink,
    VideoInteraction,
    ingest,
)


def read(path: Path) -> Iterator[VideoInteraction]:
    for interaction in MicroLensPairsReader(path).read(limit=10):
        assert_type(interaction, VideoInteraction)
        assert_type(interaction.user_id, UUID)
        assert_type(interaction.timestamp, datetime)
        assert_type(interaction.event_type, EventType)
        assert_type(interaction.device, Device)
        assert_type(interaction.session_id, str)
        yield interaction


def load(path: str) -> int:
    store = InteractionStore(sinks=["sqlite:///interactions.db"])
    assert_type(store.health_check(), dict[str, bool])
    assert_type(store.sinks(), list[Sink[Any]])
    stats = MicroLensIngestor(store).ingest_from_csv(path, limit=5_000)
    assert_type(stats["failed"], int)
    return stats["processed"] - stats["successful"]


async def load_and_ask(paths: list[Path], user: UUID) -> AsyncIterator[VideoInteraction]:
    try:
        report = await ingest(paths, to=["redis://localhost:6379/0"], limit=10, dataset="microlens", restart=True)
    except IngestError as error:
        assert_type(error.exit_code, int)
        raise
    assert_type(report, Report)
    assert_type(report.total("redis").written, int)
    async with InteractionStore() as store:
        assert_type(await store.recent(str(user), limit=5), list[VideoInteraction])
        for interaction in await store.history(user, since=datetime(2020, 1, 1, tzinfo=UTC), until=None):
            yield interaction
