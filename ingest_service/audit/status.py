"""What the checkpoints say: where each sink stands in each source."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ingest_service.pipeline.checkpoint import Checkpoint
from ingest_service.pipeline.placed import checkpoint_if_any, checkpoints_of
from ingest_service.pipeline.plan import Plan
from ingest_service.pipeline.run import opened
from ingest_service.pipeline.together import parts_in
from ingest_service.pipeline.tracker import Counts
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import EPOCH


async def status_of(sink: AnySink, folder: Path | None, wanted: Collection[str] | None) -> list[dict[str, Any]]:
    """One object a stream with a checkpoint in a sink, or for it in `folder`. The sink is opened and closed here."""
    lines = []
    async with opened([sink]):
        store = checkpoints_of(sink, folder)
        for stream in await store.streams():
            if stream == EPOCH or (wanted is not None and stream not in wanted):
                continue
            found = await checkpoint_if_any(stream, sink, store)
            if found is None or found.of_plan:
                continue  # a shard is told of with its stream, and no more once all are brought together
            lines.append(_line(found) if found.plan is None else await _divided(found, found.plan, sink, folder))
    return lines


async def _divided(whole: Checkpoint, plan: Plan, sink: AnySink, folder: Path | None) -> dict[str, Any]:
    """The shards together, and each by itself."""
    found = list(zip(plan, await parts_in(whole.stream, plan, sink, folder), strict=True))
    size = whole.source.size or 0
    shards = []
    done, counts, n_complete = plan.starts[0].offset, whole.watermark.counts, 0
    for shard, part in found:
        end = shard.end.offset if shard.end else size
        offset = part.watermark.position.offset if part else shard.start.offset
        done += offset - shard.start.offset
        counts += part.watermark.counts if part else Counts()
        n_complete += part is not None and part.complete
        percent = round(100 * (offset - shard.start.offset) / max(1, end - shard.start.offset), 1)
        about = {"complete": part.complete, "holder": _holder(part)} if part else {"complete": False, "holder": None}
        shards.append({"shard": shard.number, "start": shard.start.offset, "end": end, "percent": percent, **about})
    return {
        **_line(whole),
        "percent": round(min(100.0, 100 * done / size), 1) if size else None,
        "offset": done,
        **asdict(counts),
        "holder": next((shard["holder"] for shard in shards if shard["holder"]), None),
        "updated_at": max([whole.updated_at, *(part.updated_at for _, part in found if part)]),
        "shards_complete": n_complete,
        "shards": shards,
    }


def _holder(checkpoint: Checkpoint) -> str | None:
    return str(checkpoint.holder) if checkpoint.holder else None


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
        "holder": _holder(checkpoint),
        "updated_at": checkpoint.updated_at,
    }
