"""Rows that were rows only because the source ended there, and are others now that it went on.

A last line without an end may be half a row: `158336` is a time as well as `1583366400000` is. It is stored all the
same, since it may as well be whole, and the checkpoint remembers where it began. If the source turns out to go on, what
it became is taken back: out of the sink by its key, and out of the dead letters. The half row may have replaced an
earlier row of its key, or pushed one out where a sink keeps a user's newest only, so its users' earlier rows are
written once more: that costs another reading of the source. All of it can be repeated; the checkpoint falls back last.
"""

import asyncio
from collections.abc import Iterator

import numpy as np

from ingest_service.errors import ConfigurationError, LineContinued
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.tracker import Watermark
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.sinks.abilities import TakesBack
from ingest_service.sinks.base import AnySink


def is_continued(job: Job, mark: Watermark) -> bool:
    """Whether the source went on in the middle of what was its last row. Blocks the caller.

    LineContinued if it did, and nothing says where that row began; SourceChanged if it is another source.
    """
    reader = job.open_reader()
    try:
        reader.resume(mark.position, was_unended=mark.unended is not None)
    except LineContinued:
        if mark.unended is None:
            raise
        return True
    finally:
        reader.close()
    return False


async def take_back(job: Job, sink: AnySink, mark: Watermark) -> None:
    """Undo in an open sink, whose lease is held, what the unended rows before `mark` have done.

    SourceChanged if one of them was replayed, so that nobody knows what became of it.
    """
    before = mark.unended
    assert before is not None, "is_continued has looked"
    letters = dead_letter.Letters(
        job,
        range(before.position.offset, mark.position.offset),
        (*dead_letter.ROW_STAGES, sink.name),
    )
    await asyncio.to_thread(letters.refuse_replayed)
    gone = await asyncio.to_thread(_gone, job, before, mark)
    if len(gone) and not sink.keeps_spans:
        if not isinstance(sink, TakesBack):
            raise ConfigurationError(
                f"The source's last line had no line end when it was ingested, and was continued since; {sink.name} is "
                "a kind of sink that can take no row back: use --restart to start it again."
            )
        await sink.remove(gone)
        earlier = _earlier(job, before, gone)
        while (chunk := await asyncio.to_thread(next, earlier, None)) is not None:
            await sink.store(chunk)
    await asyncio.to_thread(letters.remove)


def _gone(job: Job, before: Watermark, mark: Watermark) -> Columns:
    """The records of the unended rows, without those that are written again under their key."""
    reader = job.open_reader()
    try:
        reader.resume(before.position)
        block = reader.next()
        assert block is not None, "the source went on"
        old = reader.chunk(reader.ended(block, mark.position)).columns
        new = set(_keys(reader.chunk(block).columns))
        return old.take(np.array([row for row, key in enumerate(_keys(old)) if key not in new], np.int64))
    finally:
        reader.close()


def _keys(columns: Columns) -> list[tuple[int, ...]]:
    return list(zip(*(part.tolist() for part in columns.identity), strict=True))


def _earlier(job: Job, before: Watermark, gone: Columns) -> Iterator[Chunk]:
    """The rows before the unended ones of the users of these records, in the order of the source."""
    reader = job.open_reader()
    try:
        while (block := reader.next()) is not None and block.start.offset < before.position.offset:
            chunk = reader.chunk(block)
            is_earlier = chunk.offsets < before.position.offset
            wanted = is_earlier & chunk.columns.may_be_owned_as(gone)
            if wanted.any():
                yield chunk.only(wanted)
    finally:
        reader.close()
