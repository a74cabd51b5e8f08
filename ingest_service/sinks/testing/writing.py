"""Rows: what is stored, merged, refused, and in which order."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest_service.datasets.base import Column, Dataset
from ingest_service.datasets.kinds import ID
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.load import load
from ingest_service.pipeline.run import Silent
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.texts import concatenate, decimals
from ingest_service.sinks.abilities import (
    TakesBack,
)
from ingest_service.sinks.base import AnySink, Written
from ingest_service.sinks.testing.kit import Kit
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions, store
from ingest_service.sinks.urls import sink_at
from ingest_service.sources.local import FileSource


async def test_rows_are_stored_as_the_design_says(kit: Kit, sink: AnySink) -> None:
    """Each record lies in the store field by field as section 3 has it, odd text and microseconds included."""
    rows = interactions(200)
    rows += [
        interaction(1, 1, 0),
        interaction(2, 2, 9_214_646_399_999),  # the last millisecond of 2261
        interaction(-3, 3, session_id='a "quoted" \\ text\twith\n\x01 é 𝄞 and }'),
        interaction(4, 4).model_copy(update={"timestamp": interaction(4, 4).timestamp.replace(microsecond=123_456)}),
    ]
    assert await store(sink, chunk_of(rows)) == Written(len(rows))
    assert kit.stored() == kit.expected(rows)


async def test_an_empty_chunk_is_nothing_to_write(kit: Kit, sink: AnySink) -> None:
    """A chunk whose rows were all refused before the sink changes nothing."""
    assert await store(sink, chunk_of([])) == Written(0)
    assert kit.stored() == {}


async def test_writing_again_changes_nothing(kit: Kit, sink: AnySink) -> None:
    """A chunk may be written any number of times, whole or in part, with one result."""
    rows = interactions(100)
    chunk = chunk_of(rows)
    for part in (chunk, chunk, chunk_of(rows[20:60])):
        assert await store(sink, part) == Written(part.accepted)
        assert kit.stored() == kit.expected(rows)


async def test_records_are_taken_out_by_their_rows(kit: Kit, sink: AnySink) -> None:
    """Those and no others, again and again, and where they are not there."""
    rows = interactions(100)
    rows[3] = interaction(1, 7, session_id='quoted "\\\n \u00e9')
    await store(sink, chunk_of(rows))
    if not isinstance(sink, TakesBack):
        pytest.skip("it takes no row back")
    gone = chunk_of([*rows[:5], *rows[40:60]])
    for _ in range(2):
        await sink.remove(gone.columns)
        await sink.flush()
        assert kit.stored() == kit.expected([*rows[5:40], *rows[60:]])
    assert await store(sink, chunk_of(rows)) == Written(100)
    assert kit.stored() == kit.expected(rows)


async def test_of_equal_keys_in_a_chunk_the_last_wins(kit: Kit, sink: AnySink) -> None:
    """Rows that a later one of the chunk replaces are counted as merged, and never fail a batch."""
    rows = [
        interaction(user, 1, FIRST_MS, session_id=f"version {version}") for version in range(5) for user in range(40)
    ]
    assert await store(sink, chunk_of(rows)) == Written(40, merged=160)
    assert kit.stored() == kit.expected(rows[-40:])


async def test_chunks_written_side_by_side_do_not_mix(kit: Kit, sink: AnySink) -> None:
    """Several chunks may be in flight in one sink at once."""
    rows = interactions(400)
    parts = [chunk_of(rows[i : i + 50]) for i in range(0, 400, 50)]
    written = await asyncio.gather(*(sink.store(part) for part in parts))
    await sink.flush()
    assert written == [Written(50)] * 8
    assert kit.stored() == kit.expected(rows)


async def test_only_culprits_are_refused(kit: Kit, sink: AnySink) -> None:
    """Rows that the store refuses come back as dead, each with its place, bytes and code; all others are stored."""
    poisoned = kit.poisoned()
    if poisoned is None:
        pytest.skip("this store refuses no row")
    chunk, culprits = poisoned
    before = kit.stored()
    written = await store(sink, chunk)
    places = {row.offset: (row.line, row.raw, row.stage, row.code) for row in written.dead}
    assert places == {
        int(chunk.offsets[row]): (row + 2, f"row {row}".encode(), sink.name, code) for row, code in culprits.items()
    }
    assert all(row.reason.endswith(".") for row in written.dead)
    assert (written.written, written.merged) == (chunk.accepted - len(culprits), 0)
    good = [row for i, row in enumerate(chunk.columns.frame().to_dicts()) if i not in culprits]
    records = [VideoInteraction.model_validate(row) for row in good]
    assert kit.stored() == before | kit.expected(records)


@pytest.mark.parametrize("delay_s", [0, 0.005, 0.05])
async def test_a_cancelled_write_leaves_the_sink_usable(kit: Kit, sink: AnySink, delay_s: float) -> None:
    """Wherever a write was cancelled, the same chunk can be written next, and everything is there once."""
    rows = interactions(1500)
    chunk = chunk_of(rows)
    writing = asyncio.create_task(sink.store(chunk))
    await asyncio.sleep(delay_s)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert await store(sink, chunk) == Written(1500)
    assert kit.stored() == kit.expected(kit.kept(rows))


async def test_a_cancellation_is_never_swallowed(sink: AnySink) -> None:
    """In whichever turn of the loop it comes: a heartbeat that outlives its run holds the lease for ever."""
    checkpoints = sink.checkpoints
    for turns in range(20):
        await checkpoints.swap(f"pairs-{turns}", None, "0")
        beating = asyncio.create_task(checkpoints.swap(f"pairs-{turns}", "0", "1"))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_cancelled = beating.cancel()
        await asyncio.wait((beating,))
        assert beating.cancelled() == was_cancelled
        assert await checkpoints.read(f"pairs-{turns}") in ("0", "1")


_VERSIONED = replace(MICROLENS.schema, name="versioned", follows_from_key=False)


def _versioned_records(values: Mapping[str, Ints]) -> Columns:
    columns = MICROLENS.records(values)
    session = concatenate([b"version ", decimals(values["version"])])
    return replace(columns, schema=_VERSIONED, texts={**columns.texts, "session_id": session})


VERSIONED = Dataset(
    "versioned",
    (*MICROLENS.columns, Column("version", ID, frozenset({"version"}))),
    _VERSIONED,
    _versioned_records,
    MICROLENS.interaction,
)


async def test_of_equal_keys_in_different_chunks_the_later_row_wins(kit: Kit, tmp_path: Path) -> None:
    """With several chunks in flight, and earlier ones held up, a key has the value of its last row in the file."""
    path = tmp_path / "versions.csv"
    expected: dict[int, VideoInteraction] = {}
    with path.open("w") as file:
        file.write("user,item,timestamp,version,note\n")
        for version in range(700):
            user = version % 40
            file.write(f"{user},1,{FIRST_MS},{version},{'n' * (BLOCK_BYTES // 100)}\n")
            expected[user] = interaction(user, 1, session_id=f"version {version}")

    sink = sink_at(kit.url + ("&" if "?" in kit.url else "?") + "consumers=4")
    write = sink.write
    n_written = 0

    async def write_slowly(chunk: Chunk, prepared: Any) -> Written:
        nonlocal n_written
        n_written += 1
        await asyncio.sleep(0.3 if n_written % 2 else 0)
        return await write(chunk, prepared)

    sink.write = write_slowly  # type: ignore[method-assign]
    await sink.open()
    try:
        job = Job(FileSource(path), "versions", VERSIONED, tmp_path / "state")
        report = await load(job, [sink], asyncio.Event(), Silent())
    finally:
        await sink.close()
    assert n_written > 4
    assert report.balanced
    assert kit.stored() == kit.expected(list(expected.values()))
