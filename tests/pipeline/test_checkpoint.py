"""Checkpoints: never silently other values, one writer, durable."""

import asyncio
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest_service.errors import CheckpointDamaged, LeaseHeld, LocalIOError
from ingest_service.pipeline import checkpoint
from ingest_service.pipeline.checkpoint import Checkpoint, Fingerprint, Holder, Lease, decode, encode
from ingest_service.pipeline.tracker import Counts, Watermark
from ingest_service.rows.chunk import Position
from ingest_service.sinks.checkpoints import CheckpointStore
from ingest_service.sinks.file_checkpoints import FileCheckpoints

SOURCE = Fingerprint("file:///data/päirs.csv", 'user,"item",timestamp', 1234, "")
BEGIN = Watermark(Position(20, 0, 1, "aa"))
LATER = Watermark(Position(120, 10, 11, "bb"), Counts(10, 8, 2, 6, 1, 1))
HOLDER = Holder("host", "boot", 4242, "99", "id")
FULL = Checkpoint("s", "redis", SOURCE, LATER, True, 7, 3, HOLDER, "2026-01-01T00:00:00.000000Z")


class MemoryCheckpoints(CheckpointStore):
    """Texts in memory. `lose_reply`: the next swap happens, and then looks like one that lost. `refuse`: it fails."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.lose_reply = False
        self.refuse = False

    async def read(self, stream: str) -> str | None:
        return self.texts.get(stream)

    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        if self.refuse:
            raise ConnectionError
        if self.texts.get(stream) != old:
            return False
        self.texts[stream] = new
        lost, self.lose_reply = self.lose_reply, False
        return not lost

    async def streams(self) -> list[str]:
        return sorted(self.texts)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return MemoryCheckpoints() if request.param == "memory" else FileCheckpoints(tmp_path, "redis")


async def put(store: CheckpointStore, found: Checkpoint) -> None:
    assert await store.swap("s", await store.read("s"), encode(found))


async def stored(store: CheckpointStore) -> Checkpoint:
    text = await store.read("s")
    assert text is not None
    return decode(text, "s", "redis")


# --- encoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [FULL, replace(FULL, holder=None, source=replace(SOURCE, size=None))])
def test_a_checkpoint_comes_back_as_it_was(found: Checkpoint) -> None:
    """Encoding and decoding lose nothing, and the text is JSON on one line."""
    assert decode(encode(found), "s", "redis") == found
    assert "\n" not in encode(found)


@pytest.mark.fault(21)
def test_every_prefix_is_damaged() -> None:
    """A torn checkpoint is never taken for a whole one, however much of it there is."""
    text = encode(FULL)
    for length in range(len(text)):
        with pytest.raises(CheckpointDamaged):
            decode(text[:length], "s", "redis")


@pytest.mark.fault(21)
def test_every_changed_byte_is_noticed() -> None:
    """One other byte anywhere is damage, unless the JSON still says the very same."""
    text = encode(FULL)
    for index, old in enumerate(text):
        for new in {chr(ord(old) ^ 1), chr(ord(old) ^ 0x20), "0", "9", '"', " ", "}", ",", "x", "\\", "\ufffd"} - {old}:
            changed = text[:index] + new + text[index + 1 :]
            try:
                found = decode(changed, "s", "redis")
            except CheckpointDamaged:
                continue
            assert json.loads(changed) == json.loads(text)
            assert found == FULL


def test_every_lost_or_doubled_byte_is_noticed() -> None:
    """One byte too few or too many is damage, unless the JSON still says the very same."""
    text = encode(FULL)
    for index in range(len(text)):
        for changed in (text[:index] + text[index + 1 :], text[:index] + text[index] + text[index:]):
            try:
                found = decode(changed, "s", "redis")
            except CheckpointDamaged:
                continue
            assert json.loads(changed) == json.loads(text)
            assert found == FULL


@pytest.mark.parametrize("text", ["", "null", "5", '"x"', "[]", "{}", "[1,2]", '{"checksum":1}', "\ufffd" * 20])
def test_what_is_no_checkpoint_is_damaged(text: str) -> None:
    """Other JSON, or none, is an error with a way out, not a crash."""
    with pytest.raises(CheckpointDamaged, match="--restart"):
        decode(text, "s", "redis")


@pytest.mark.fault(21)
def test_a_newer_version_is_told_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newer program wrote asks for an upgrade."""
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    text = encode(FULL)
    monkeypatch.undo()
    with pytest.raises(CheckpointDamaged, match="newer version"):
        decode(text, "s", "redis")
    with pytest.raises(CheckpointDamaged, match="is damaged"):
        decode(text.replace('"row":10', '"row":11'), "s", "redis")


@pytest.mark.parametrize(("stream", "sink"), [("other", "redis"), ("s", "other")])
def test_a_checkpoint_of_something_else_is_refused(stream: str, sink: str) -> None:
    """A checkpoint that was copied to another stream or sink does not apply there."""
    with pytest.raises(CheckpointDamaged, match="belongs to s in redis"):
        decode(encode(FULL), stream, sink)


# --- the lease --------------------------------------------------------------------------------------


async def test_a_stream_without_a_checkpoint_begins_at_its_start(store: CheckpointStore) -> None:
    """The first runner gets fence 1 and the start that it named; what it saves is what the next one finds."""
    lease = Lease(store, "s", "redis")
    found = await lease.acquire(SOURCE, BEGIN, restart=False)
    assert (found.fence, found.watermark, found.complete) == (1, BEGIN, False)
    await lease.save(SOURCE, LATER, complete=True, release=True)
    assert lease.is_released
    found = await Lease(store, "s", "redis").acquire(SOURCE, BEGIN, restart=False)
    assert (found.fence, found.watermark, found.complete, found.source) == (2, LATER, True, SOURCE)
    assert await store.streams() == ["s"]


async def test_a_restart_begins_again_with_a_higher_fence(store: CheckpointStore) -> None:
    """--restart forgets the watermark but not the fence; it also gets past a damaged checkpoint."""
    await put(store, replace(FULL, holder=None))
    lease = Lease(store, "s", "redis")
    found = await lease.acquire(SOURCE, BEGIN, restart=True)
    assert (found.fence, found.watermark) == (8, BEGIN)
    await store.swap("s", await store.read("s"), "damaged")
    with pytest.raises(CheckpointDamaged):
        await Lease(store, "s", "redis").acquire(SOURCE, BEGIN, restart=False)
    assert await store.read("s") == "damaged"
    assert (await Lease(store, "s", "redis").acquire(SOURCE, BEGIN, restart=True)).watermark == BEGIN


async def test_a_second_runner_is_turned_away_while_the_first_one_lives(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat seen while waiting means LeaseHeld, and the message names the holder."""
    monkeypatch.setattr(checkpoint, "_POLL_S", 0.01)
    first = Lease(store, "s", "redis")
    await first.acquire(SOURCE, BEGIN, restart=False)

    async def beat() -> None:
        while True:
            await first.save(SOURCE, BEGIN, complete=False)
            await asyncio.sleep(0.02)

    beating = asyncio.create_task(beat())
    for restart in (False, True):
        with pytest.raises(LeaseHeld, match=f"process {os.getpid()} on "):
            await Lease(store, "s", "redis").acquire(SOURCE, BEGIN, restart=restart)
    beating.cancel()
    await asyncio.wait((beating,))


async def test_a_silent_runner_is_taken_over_and_fenced(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a heartbeat for the lease's time another takes over; the old one is told so, and saves no more."""
    monkeypatch.setattr(checkpoint, "_POLL_S", 0.01)
    first, second = Lease(store, "s", "redis"), Lease(store, "s", "redis")
    await first.acquire(SOURCE, BEGIN, restart=False)
    await first.assure()
    found = await second.acquire(SOURCE, BEGIN, restart=False, lease_s=0.05)
    assert found.fence == 2
    await second.assure()
    with pytest.raises(LeaseHeld, match="taken this source over"):
        await first.assure()
    for release in (False, True):
        with pytest.raises(LeaseHeld, match="taken this source over"):
            await first.save(SOURCE, LATER, complete=False, release=release)
    assert (await stored(store)).watermark == BEGIN
    await second.save(SOURCE, LATER, complete=False)
    with pytest.raises(LeaseHeld):
        await first.save(SOURCE, LATER, complete=False)
    assert (await stored(store)).fence == 2


@pytest.mark.fault(27)
async def test_only_the_monotonic_clock_decides(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is watched for its whole time, whatever its written times say, and then taken."""
    clock = [5000.0]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    await put(store, replace(FULL, updated_at="1999-01-01T00:00:00.000000Z"))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    found = await Lease(store, "s", "redis").acquire(SOURCE, BEGIN, restart=False, lease_s=15)
    assert found.fence == 8
    assert 15 <= sum(slept) <= 16


async def test_the_lease_of_a_dead_process_is_taken_at_once(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder on this host that is no more need not be waited for; nor one whose number another process has now."""

    async def sleep(seconds: float) -> None:
        pytest.fail("it waited")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    here = checkpoint._this_process()
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await ended.wait()
    for dead in (replace(here, pid=ended.pid, started="1"), replace(here, started="1")):
        await put(store, replace(FULL, holder=dead))
        assert (await Lease(store, "s", "redis").acquire(SOURCE, BEGIN, restart=False)).watermark == LATER


def test_a_process_that_cannot_be_seen_is_not_called_dead() -> None:
    """Another host, another boot or another container: only the heartbeat can tell. This very process lives."""
    here = checkpoint._this_process()
    gone = replace(here, started="0")
    assert checkpoint.is_dead(gone)
    for holder in (here, replace(gone, host="elsewhere"), replace(gone, boot="another")):
        assert not checkpoint.is_dead(holder)


async def test_a_lost_reply_to_a_swap_is_no_failure() -> None:
    """If the swap was made and only its answer got lost, the text is ours, and the next save works."""
    store = MemoryCheckpoints()
    lease = Lease(store, "s", "redis")
    store.lose_reply = True
    assert (await lease.acquire(SOURCE, BEGIN, restart=False)).fence == 1
    store.lose_reply = True
    await lease.save(SOURCE, LATER, complete=False)
    await lease.save(SOURCE, LATER, complete=True, release=True)
    assert (await stored(store)).beat == 2


async def test_a_save_that_was_cancelled_after_it_was_made_does_not_lock_the_runner_out() -> None:
    """A save whose answer nobody waited for is recognised as this runner's own by the next save."""

    class Cancelling(MemoryCheckpoints):
        async def swap(self, stream: str, old: str | None, new: str) -> bool:
            done = await super().swap(stream, old, new)
            if self.lose_reply:
                raise asyncio.CancelledError
            return done

    store = Cancelling()
    lease = Lease(store, "s", "redis")
    await lease.acquire(SOURCE, BEGIN, restart=False)

    async def swap_and_die(stream: str, old: str | None, new: str) -> bool:
        store.texts[stream] = new
        raise asyncio.CancelledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "swap", swap_and_die)
        with pytest.raises(asyncio.CancelledError):
            await lease.save(SOURCE, BEGIN, complete=False)
    await lease.save(SOURCE, LATER, complete=True, release=True)
    assert (await stored(store)).watermark == LATER


async def test_a_watermark_never_falls(store: CheckpointStore) -> None:
    """A save below the stored watermark is refused, and nothing is written."""
    await put(store, replace(FULL, holder=None))
    lease = Lease(store, "s", "redis")
    await lease.acquire(SOURCE, BEGIN, restart=False)
    with pytest.raises(ValueError, match="never falls"):
        await lease.save(SOURCE, BEGIN, complete=False)
    assert (await stored(store)).watermark == LATER


async def test_of_runners_that_start_together_one_can_save(store: CheckpointStore) -> None:
    """Of many that acquire at once with no time to wait, no two have one fence, and only the highest can save."""
    leases = [Lease(store, "s", "redis") for _ in range(5)]
    found = await asyncio.gather(
        *(lease.acquire(SOURCE, BEGIN, restart=False, lease_s=0) for lease in leases), return_exceptions=True
    )
    fences = {one.fence: lease for one, lease in zip(found, leases, strict=True) if isinstance(one, Checkpoint)}
    assert len(fences) + sum(isinstance(one, LeaseHeld) for one in found) == 5
    assert sorted(fences) == list(range(1, len(fences) + 1))
    for fence in sorted(fences):
        if fence == len(fences):
            await fences[fence].save(SOURCE, LATER, complete=False)
        else:
            with pytest.raises(LeaseHeld):
                await fences[fence].save(SOURCE, LATER, complete=False)


# --- files ------------------------------------------------------------------------------------------


def _count_up(folder: str, times: int) -> None:
    async def count() -> None:
        store = FileCheckpoints(Path(folder), "x")
        for _ in range(times):
            while True:
                old = await store.read("s")
                if await store.swap("s", old, str(int(old or 0) + 1)):
                    break

    asyncio.run(count())


async def test_two_processes_never_overwrite_each_other(tmp_path: Path) -> None:
    """Compare-and-swap holds between processes: no increment of either one is lost."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count_up, args=(str(tmp_path), 40)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        await asyncio.to_thread(worker.join)
        assert worker.exitcode == 0
        worker.close()
    assert await FileCheckpoints(tmp_path, "x").read("s") == "80"


async def test_leftovers_of_a_crash_are_no_checkpoint(tmp_path: Path) -> None:
    """A torn temporary file is ignored and overwritten; only whole checkpoints count as streams."""
    store = FileCheckpoints(tmp_path, "redis:a")
    assert await store.swap("s", None, "one")
    path = tmp_path / "s.redis-a.json"
    path.with_suffix(".tmp").write_text("torn")
    assert await store.read("s") == "one"
    assert await store.streams() == ["s"]
    assert await FileCheckpoints(tmp_path, "other").streams() == []
    assert await store.swap("s", "one", "two")
    assert await store.read("s") == "two"
    assert not await store.swap("s", "one", "three")
    assert not await store.swap("s", None, "three")


async def test_a_file_is_synced_before_its_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write, fsync of the file, rename, fsync of the folder: no crash leaves half a checkpoint, or none."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink()
        events.append(f"fsync {'folder' if name.is_dir() else name.suffix + ' of ' + name.read_text()}")
        fsync(fd)

    def watched_rename(self: Path, target: Any) -> Path:
        events.append(f"rename {self.suffix}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    assert await FileCheckpoints(tmp_path, "redis").swap("s", None, "text")
    assert events == ["fsync .tmp of text", "rename .tmp", "fsync folder"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.fault(19, 20)
async def test_a_failing_disk_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """ENOSPC or EIO ends the run with LocalIOError, and the old checkpoint is still whole."""
    store = FileCheckpoints(tmp_path, "redis")
    assert await store.swap("s", None, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(LocalIOError, match="No space left"):
        await store.swap("s", "old", "new")
    monkeypatch.undo()
    assert await store.read("s") == "old"


async def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    """A checkpoint file of garbage is CheckpointDamaged, not a crash and not a start at 0."""
    store = FileCheckpoints(tmp_path, "redis")
    await store.swap("s", None, "x")
    path = tmp_path / "s.redis.json"
    for garbage in (b"", b"\xff\x00\xfe", os.urandom(100)):
        path.write_bytes(garbage)
        with pytest.raises(CheckpointDamaged):
            await Lease(store, "s", "redis").acquire(SOURCE, BEGIN, restart=False)


async def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder in the checkpoint's place is LocalIOError, never a start at 0."""
    store = FileCheckpoints(tmp_path, "redis")
    (tmp_path / "s.redis.json").mkdir()
    with pytest.raises(LocalIOError):
        await store.read("s")


class Disk:
    """What a folder may hold after a loss of power: of names and contents only what was synced is sure.

    It watches fsync and rename. A rename that its folder's fsync did not cover may have happened or not; of a content
    that was not synced any part may be there.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.durable: dict[str, int] = {}  # inodes by name
        self.renamed: list[tuple[str, str, int]] = []  # since the folder was synced
        self.synced: dict[int, bytes] = {}  # contents by inode
        self.live: dict[int, bytes] = {}
        self.found: list[set[str | None]] = []  # what the checkpoint may be, at each moment looked at
        fsync, rename = os.fsync, Path.rename

        def watched_fsync(fd: int) -> None:
            self.look()
            fsync(fd)
            path = Path(f"/proc/self/fd/{fd}").readlink()
            if path.is_dir():
                self.durable = {one.name: one.stat().st_ino for one in path.iterdir()}
                self.renamed = []
            else:
                self.synced[path.stat().st_ino] = path.read_bytes()
            self.look()

        def watched_rename(path: Path, target: Path) -> Path:
            self.look()
            self.renamed.append((path.name, target.name, path.stat().st_ino))
            renamed = rename(path, target)
            self.look()
            return renamed

        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(Path, "rename", watched_rename)

    def look(self) -> None:
        self.live |= {one.stat().st_ino: one.read_bytes() for one in self.folder.iterdir() if one.suffix != ".lock"}
        self.found.append(set(self.checkpoints()))

    def checkpoints(self) -> Iterator[str | None]:
        for names in self.namings():
            inode = names.get("s.redis.json")
            for content in [None] if inode is None else self.contents(inode):
                yield None if content is None else content.decode()

    def namings(self) -> Iterator[dict[str, int]]:
        names = dict(self.durable)
        yield dict(names)
        for old, new, inode in self.renamed:
            names.pop(old, None)
            names[new] = inode
            yield dict(names)

    def contents(self, inode: int) -> list[bytes]:
        live = self.live[inode]
        return [live] if self.synced.get(inode) == live else [live[: len(live) * part // 4] for part in range(5)]


@pytest.mark.fault(22)
async def test_a_loss_of_power_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment of a save the disk holds the last checkpoint or this one, whole; after it only this one."""
    disk = Disk(tmp_path, monkeypatch)
    store = FileCheckpoints(tmp_path, "redis")
    old: str | None = None
    for beat in range(4):
        new = encode(replace(FULL, beat=beat))
        disk.found = []
        assert await store.swap("s", old, new)
        assert len(disk.found) >= 6
        assert set.union(*disk.found) == {old, new}
        assert disk.found[-1] == {new}
        disk.look()
        assert disk.found[-1] == {new}
        old = new
