"""Checkpoints, leases and epochs."""

import asyncio

import pytest

from ingest_service.errors import CheckpointDamaged, LeaseHeld
from ingest_service.pipeline.checkpoint import Checkpoint, Fingerprint, Lease, decode
from ingest_service.pipeline.tracker import Watermark
from ingest_service.rows.chunk import Position
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.checkpoints import EPOCH
from ingest_service.sinks.testing.kit import Kit
from ingest_service.sinks.testing.rows import chunk_of, interactions, store
from ingest_service.sinks.urls import sink_at

SOURCE = Fingerprint("file:///pairs.csv", "user,item,timestamp", 1000, "")


async def test_checkpoints_change_by_compare_and_swap(kit: Kit, sink: AnySink) -> None:
    """A text is stored only over the one that was expected; what is refused changes nothing."""
    store = sink.checkpoints
    assert await store.read("stream") is None
    assert not await store.swap("stream", "something", "first")
    assert await store.swap("stream", None, "first")
    assert not await store.swap("stream", None, "second")
    assert not await store.swap("stream", "firs", "second")
    assert await store.read("stream") == "first"
    assert await store.swap("stream", "first", 'second "é"\n')
    assert await store.read("stream") == 'second "é"\n'


async def test_checkpoints_of_streams_are_apart(kit: Kit, sink: AnySink) -> None:
    """Each stream has its own checkpoint, and all are found."""
    assert await _streams(sink) == []
    names = [f"stream-{i:02d}.csv" for i in range(20)]
    for name in reversed(names):
        assert await sink.checkpoints.swap(name, None, f"text of {name}")
    assert await _streams(sink) == names
    assert [await sink.checkpoints.read(name) for name in names] == [f"text of {name}" for name in names]


async def _streams(sink: AnySink) -> list[str]:
    return [stream for stream in await sink.checkpoints.streams() if stream != EPOCH]


async def test_of_many_swaps_at_once_one_is_made(kit: Kit, sink: AnySink) -> None:
    """Runners that take a stream at the same moment, over connections of their own, are told apart."""
    others = [sink_at(kit.url) for _ in range(4)]
    try:
        for other in others:
            await other.open()
        swaps = (other.checkpoints.swap("stream", None, f"runner {i}") for i, other in enumerate(others))
        made = await asyncio.gather(*swaps)
        assert sum(made) == 1
        assert await sink.checkpoints.read("stream") == f"runner {made.index(True)}"
    finally:
        for other in others:
            await other.close()


async def test_a_watermark_is_found_by_the_next_runner(kit: Kit, sink: AnySink) -> None:
    """What a runner saved is where the next one goes on, with a higher fence."""
    first = await _acquire(sink)
    await first.save(SOURCE, Watermark(Position(500, 20, 21, "tail")), complete=False, release=True)
    again = sink_at(kit.url)
    await again.open()
    try:
        found = await Lease(again.checkpoints, "stream", again.name).acquire(
            SOURCE, Watermark(Position()), restart=False
        )
    finally:
        await again.close()
    assert (found.watermark.position, found.fence, found.source) == (Position(500, 20, 21, "tail"), 2, SOURCE)


async def test_a_damaged_checkpoint_is_refused(kit: Kit, sink: AnySink) -> None:
    """Every store gives back what was damaged as it is, so that it is an error and not a start at 0."""
    lease = await _acquire(sink)
    await lease.save(SOURCE, Watermark(Position(500, 20, 21, "tail")), complete=False, release=True)
    whole = text = await sink.checkpoints.read("stream")
    assert whole is not None
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole.replace("500", "501"), "x"):
        assert await sink.checkpoints.swap("stream", text, damaged)
        text = damaged
        with pytest.raises(CheckpointDamaged):
            await _acquire(sink)
        assert await sink.checkpoints.read("stream") == damaged


async def test_an_epoch_stays(kit: Kit, sink: AnySink) -> None:
    """It is the same for every runner and whatever is written, and one text, whoever asks first."""
    other = sink_at(kit.url)
    await other.open()
    try:
        first = await asyncio.gather(*(one.epoch() for one in (sink, other) * 3))
        await store(sink, chunk_of(interactions(10)))
        assert {*first, await sink.epoch(), await other.epoch()} == {first[0]}
        assert first[0]
    finally:
        await other.close()


async def test_a_zombie_is_fenced(kit: Kit, sink: AnySink) -> None:
    """After another runner took a silent one's lease, the silent one can save nothing any more; the other can."""
    zombie = sink_at(kit.url)
    await zombie.open()
    try:
        stale = await _acquire(zombie)
        taken = await _acquire(sink, lease_s=0)
        await zombie.store(chunk_of(interactions(10)))
        with pytest.raises(LeaseHeld):
            await stale.save(SOURCE, Watermark(Position(900, 30, 31, "stale")), complete=True)
        await taken.save(SOURCE, Watermark(Position(100, 4, 5, "good")), complete=False)
    finally:
        await zombie.close()
    checkpoint = await _checkpoint(sink)
    assert (checkpoint.watermark.position.offset, checkpoint.fence) == (100, 2)


async def _acquire(sink: AnySink, lease_s: float = 15) -> Lease:
    lease = Lease(sink.checkpoints, "stream", sink.name)
    await lease.acquire(SOURCE, Watermark(Position()), restart=False, lease_s=lease_s)
    return lease


async def _checkpoint(sink: AnySink) -> Checkpoint:
    text = await sink.checkpoints.read("stream")
    assert text is not None
    return decode(text, "stream", sink.name)
