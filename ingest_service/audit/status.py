"""What the checkpoints say: where each sink stands in each source."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ingest_service.pipeline.checkpoint import Checkpoint, decode
from ingest_service.pipeline.placed import checkpoints_of
from ingest_service.pipeline.run import opened
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import EPOCH


async def status_of(sink: AnySink, folder: Path | None, wanted: Collection[str] | None) -> list[dict[str, Any]]:
    """One object a stream with a checkpoint in a sink, or for it in `folder`. The sink is opened and closed here."""
    lines = []
    async with opened([sink]):
        store = checkpoints_of(sink, folder)
        for stream in await store.streams():
            text = await store.read(stream)
            if text is not None and stream != EPOCH and (wanted is None or stream in wanted):
                lines.append(_line(decode(text, stream, sink.name)))
    return lines


def _line(checkpoint: Checkpoint) -> dict[str, Any]:
    offset, size = checkpoint.watermark.position.offset, checkpoint.source.size
    percent = 100.0 if checkpoint.complete else round(min(100.0, 100 * offset / size), 1) if size else None
    return {
        "sink": checkpoint.sink,
        "stream": checkpoint.stream,
        "source": checkpoint.source.uri,
        "complete": checkpoint.complete,
        "percent": percent,
        "offset": offset,
        **asdict(checkpoint.watermark.counts),
        "holder": str(checkpoint.holder) if checkpoint.holder else None,
        "updated_at": checkpoint.updated_at,
    }
