"""The contract of `sinks.base.Sink`, held by every sink: one suite, run against each in `kits.KITS`."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_service.api import AnswersHistory, AnswersRecent, InteractionStore
from ingest_service.audit.findings import Findings
from ingest_service.audit.replay import ReplayReport, replay
from ingest_service.audit.verify import verify
from ingest_service.config import stream_named
from ingest_service.datasets.base import Column, Dataset
from ingest_service.datasets.kinds import ID
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import CheckpointDamaged, ConfigurationError, IngestError, LeaseHeld
from ingest_service.formats.delimited.blocks import BLOCK_BYTES
from ingest_service.pipeline.checkpoint import Checkpoint, Fingerprint, Lease, decode
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.load import load
from ingest_service.pipeline.placed import checkpoints_of
from ingest_service.pipeline.run import Silent
from ingest_service.pipeline.tracker import Watermark
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import INTERACTION, VideoInteraction
from ingest_service.rows.texts import concatenate, decimals
from ingest_service.sinks.base import Sink, Written, sink_at
from ingest_service.sinks.checkpoints import EPOCH
from ingest_service.sinks.readback import STORED_SCHEMA, frame_of
from ingest_service.sources.local import FileSource
from tests.helpers import FIRST_MS, chunk_of, columns_of, interaction, interactions
from tests.sinks.kits import Kit, key_of

SOURCE = Fingerprint("file:///pairs.csv", "user,item,timestamp", 1000, "")


async def store(sink: Sink, chunk: Chunk) -> Written:
    """Write a chunk so that other clients see it, too."""
    written = await sink.write(chunk)
    await sink.flush()
    return written


# --- rows -----------------------------------------------------------------------------------------


async def test_rows_are_stored_as_the_design_says(kit: Kit, sink: Sink) -> None:
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


async def test_an_empty_chunk_is_nothing_to_write(kit: Kit, sink: Sink) -> None:
    """A chunk whose rows were all refused before the sink changes nothing."""
    assert await store(sink, chunk_of([])) == Written(0)
    assert kit.stored() == {}


async def test_writing_again_changes_nothing(kit: Kit, sink: Sink) -> None:
    """A chunk may be written any number of times, whole or in part, with one result."""
    rows = interactions(100)
    chunk = chunk_of(rows)
    for part in (chunk, chunk, chunk_of(rows[20:60])):
        assert await store(sink, part) == Written(part.accepted)
        assert kit.stored() == kit.expected(rows)


@pytest.mark.fault(57)
async def test_records_are_taken_out_by_their_rows(kit: Kit, sink: Sink) -> None:
    """Those and no others, again and again, and where they are not there."""
    rows = interactions(100)
    rows[3] = interaction(1, 7, session_id='quoted "\\\n \u00e9')
    await store(sink, chunk_of(rows))
    gone = chunk_of([*rows[:5], *rows[40:60]])
    for _ in range(2):
        await sink.remove(gone.columns)
        await sink.flush()
        assert kit.stored() == kit.expected([*rows[5:40], *rows[60:]])
    assert await store(sink, chunk_of(rows)) == Written(100)
    assert kit.stored() == kit.expected(rows)


@pytest.mark.fault(16)
async def test_of_equal_keys_in_a_chunk_the_last_wins(kit: Kit, sink: Sink) -> None:
    """Rows that a later one of the chunk replaces are counted as merged, and never fail a batch."""
    rows = [
        interaction(user, 1, FIRST_MS, session_id=f"version {version}") for version in range(5) for user in range(40)
    ]
    assert await store(sink, chunk_of(rows)) == Written(40, merged=160)
    assert kit.stored() == kit.expected(rows[-40:])


async def test_chunks_written_side_by_side_do_not_mix(kit: Kit, sink: Sink) -> None:
    """Several chunks may be in flight in one sink at once."""
    rows = interactions(400)
    parts = [chunk_of(rows[i : i + 50]) for i in range(0, 400, 50)]
    written = await asyncio.gather(*(sink.write(part) for part in parts))
    await sink.flush()
    assert written == [Written(50)] * 8
    assert kit.stored() == kit.expected(rows)


@pytest.mark.fault(13, 16)
async def test_only_culprits_are_refused(kit: Kit, sink: Sink) -> None:
    """Rows that the store refuses come back as dead, each with its place, bytes and code; all others are stored."""
    poisoned = kit.poisoned()
    if poisoned is None:
        pytest.skip("this store refuses no row")
    chunk, culprits = poisoned
    before = kit.stored()
    written = await store(sink, chunk)
    places = {row.offset: (row.line, row.raw, row.stage, row.code) for row in written.dead}
    assert places == {
        int(chunk.starts[row]): (row + 2, f"row {row}".encode(), sink.name, code) for row, code in culprits.items()
    }
    assert all(row.reason.endswith(".") for row in written.dead)
    assert (written.written, written.merged) == (chunk.accepted - len(culprits), 0)
    good = [row for i, row in enumerate(chunk.columns.frame().to_dicts()) if i not in culprits]
    records = [VideoInteraction.model_validate(row) for row in good]
    assert kit.stored() == before | kit.expected(records)


@pytest.mark.parametrize("delay_s", [0, 0.005, 0.05])
async def test_a_cancelled_write_leaves_the_sink_usable(kit: Kit, sink: Sink, delay_s: float) -> None:
    """Wherever a write was cancelled, the same chunk can be written next, and everything is there once."""
    rows = interactions(1500)
    chunk = chunk_of(rows)
    writing = asyncio.create_task(sink.write(chunk))
    await asyncio.sleep(delay_s)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert await store(sink, chunk) == Written(1500)
    assert kit.stored() == kit.expected(_newest_hundred(kit, rows))


async def test_a_cancellation_is_never_swallowed(sink: Sink) -> None:
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


def _newest_hundred(kit: Kit, rows: list[VideoInteraction]) -> list[VideoInteraction]:
    """Of each user, if the store keeps no more."""
    return rows[-700:] if kit.url.startswith("redis") else rows


# --- rows, through the pipeline -------------------------------------------------------------------


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

    async def write_slowly(chunk: Chunk) -> Written:
        nonlocal n_written
        n_written += 1
        await asyncio.sleep(0.3 if n_written % 2 else 0)
        return await write(chunk)

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


# --- reading back ---------------------------------------------------------------------------------


async def test_what_is_stored_is_what_is_expected(kit: Kit, sink: Sink) -> None:
    """`stored` gives each record of the users asked for as `expected` says, odd text and microseconds included."""
    rows = interactions(210)
    rows += [
        interaction(1, 1, 0),
        interaction(-3, 3, session_id='a "quoted" \\ text\twith\n\x01 é 𝄞 and }'),
        interaction(4, 4).model_copy(update={"timestamp": interaction(4, 4).timestamp.replace(microsecond=123_456)}),
    ]
    chunk = chunk_of(rows)
    await store(sink, chunk)
    users = chunk.columns.frame()["user_id"].unique().to_list()
    expected = sink.expected(frame_of(chunk.columns), INTERACTION)
    assert not expected["expired"].any()
    found = await sink.stored([*users, str(interaction(999, 1).user_id)], INTERACTION)
    assert found.schema == STORED_SCHEMA
    assert sorted(found.rows()) == sorted(expected.select(*STORED_SCHEMA).rows())
    some = await sink.stored(users[:2], INTERACTION)
    assert sorted(some.rows()) == sorted(row for row in found.rows() if row[0] in users[:2])
    assert (await sink.stored([], INTERACTION)).height == 0


async def test_verify_finds_what_was_done_to_a_sink(kit: Kit, sink: Sink, tmp_path: Path) -> None:
    """A row deleted, one altered and one added behind the program's back are found, with line, offset and key."""
    path = tmp_path / "pairs.csv"
    rows = [interaction(1 + i % 7, 100 + i, FIRST_MS + i) for i in range(300)]
    lines = [f"{1 + i % 7},{100 + i},{FIRST_MS + i}\n" for i in range(300)]
    header = "user,item,timestamp\n"
    path.write_text(header + "".join(lines) + "bad\n")
    job = Job(FileSource(path), "pairs", MICROLENS, tmp_path / "state")
    await load(job, [sink], asyncio.Event(), Silent())

    async def verified() -> Findings:
        return await verify([job], [sink], asyncio.Event(), lambda **_: None)

    findings = await verified()
    assert (findings.equal, findings.rows_read) == (True, 301)
    assert findings.sinks[sink.name].compared == 300
    assert findings.dead_letters.compared == 1

    kit.remove(rows[10])
    kit.remove(rows[20])
    added = interaction(1, 7_777)
    await store(sink, chunk_of([rows[20].model_copy(update={"session_id": "other"}), added]))
    found = (await verified()).sinks[sink.name]
    assert (found.compared, found.missing, found.altered, found.extra) == (300, 1, 1, 1)
    places = {one.kind: (one.user_id, one.event_key, one.line, one.offset) for one in found.first}
    assert places == {
        "missing": (*key_of(rows[10]), 12, len(header) + len("".join(lines[:10]))),
        "altered": (*key_of(rows[20]), 22, len(header) + len("".join(lines[:20]))),
        "extra": (*key_of(added), 0, 0),
    }


async def test_an_edited_dead_letter_lands(kit: Kit, sink: Sink, tmp_path: Path) -> None:
    """`replay` stores it, gives the lease back and leaves the checkpoint as it was; `verify` then expects the row."""
    path = tmp_path / "pairs.csv"
    path.write_text(f"user,item,timestamp\n1,2,{FIRST_MS}\nbad\n")
    source = FileSource(path)
    stream = stream_named(source.uri)
    job = Job(source, stream, MICROLENS, tmp_path / "state")
    await load(job, [sink], asyncio.Event(), Silent())
    before = decode(str(await checkpoints_of(sink, None).read(stream)), stream, sink.name)
    letters = tmp_path / "state" / stream / "dead-letters.jsonl"
    letters.write_text(letters.read_text().replace('"raw": "bad"', f'"raw": "3,4,{FIRST_MS}"'))

    report = await replay(letters, [sink], MICROLENS, {}, None, asyncio.Event(), lambda **_: None)
    assert report == ReplayReport(letters=1, landed=1)
    assert kit.stored() == kit.expected([interaction(1, 2), interaction(3, 4)])
    after = decode(str(await checkpoints_of(sink, None).read(stream)), stream, sink.name)
    assert after.holder is None
    assert (after.source, after.watermark, after.complete) == (before.source, before.watermark, before.complete)
    findings = await verify([job], [sink], asyncio.Event(), lambda **_: None)
    assert (findings.equal, findings.sinks[sink.name].compared) == (True, 2)


async def test_a_scratch_place_is_empty_apart_and_gone_afterwards(kit: Kit, sink: Sink, tmp_path: Path) -> None:
    """It has the sink's own options, shares nothing with the sink or another such place, and leaves nothing behind."""
    rows = interactions(20)
    chunk = chunk_of(rows)
    users = chunk.columns.frame()["user_id"].unique().to_list()
    await store(sink, chunk_of(rows[:5]))
    before = kit.stored()
    async with sink.scratch(kit.url, tmp_path) as one, sink.scratch(kit.url, tmp_path) as other:
        assert len({kit.url, one, other}) == 3
        for url in (one, other):
            trial = sink_at(url)
            await trial.open()
            place = {"checkpoint_table"}
            assert trial.options.model_dump(exclude=place) == sink.options.model_dump(exclude=place)
            assert (await trial.stored(users, INTERACTION)).height == 0
            assert await trial.checkpoints.swap("stream", None, "text")
            await store(trial, chunk)
            assert (await trial.stored(users, INTERACTION)).height == 20
            await trial.close()
    assert kit.stored() == before
    assert await sink.checkpoints.streams() == []
    if one.startswith("sqlite"):
        return  # its file goes with the folder
    trial = sink_at(one)
    try:
        await trial.open()
        assert (await trial.stored(users, INTERACTION)).height == 0
        assert await trial.checkpoints.streams() == []
    except ConfigurationError as error:
        assert "There is no DynamoDB table" in str(error)
    finally:
        await trial.close()


# --- checkpoints ----------------------------------------------------------------------------------


async def test_checkpoints_change_by_compare_and_swap(kit: Kit, sink: Sink) -> None:
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


async def test_checkpoints_of_streams_are_apart(kit: Kit, sink: Sink) -> None:
    """Each stream has its own checkpoint, and all are found."""
    assert await _streams(sink) == []
    names = [f"stream-{i:02d}.csv" for i in range(20)]
    for name in reversed(names):
        assert await sink.checkpoints.swap(name, None, f"text of {name}")
    assert await _streams(sink) == names
    assert [await sink.checkpoints.read(name) for name in names] == [f"text of {name}" for name in names]


async def _streams(sink: Sink) -> list[str]:
    return [stream for stream in await sink.checkpoints.streams() if stream != EPOCH]


async def test_of_many_swaps_at_once_one_is_made(kit: Kit, sink: Sink) -> None:
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


async def test_a_watermark_is_found_by_the_next_runner(kit: Kit, sink: Sink) -> None:
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


@pytest.mark.fault(21)
async def test_a_damaged_checkpoint_is_refused(kit: Kit, sink: Sink) -> None:
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


@pytest.mark.fault(9)
async def test_an_epoch_stays(kit: Kit, sink: Sink) -> None:
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


@pytest.mark.fault(26)
async def test_a_zombie_is_fenced(kit: Kit, sink: Sink) -> None:
    """After another runner took a silent one's lease, the silent one can save nothing any more; the other can."""
    zombie = sink_at(kit.url)
    await zombie.open()
    try:
        stale = await _acquire(zombie)
        taken = await _acquire(sink, lease_s=0)
        await zombie.write(chunk_of(interactions(10)))
        with pytest.raises(LeaseHeld):
            await stale.save(SOURCE, Watermark(Position(900, 30, 31, "stale")), complete=True)
        await taken.save(SOURCE, Watermark(Position(100, 4, 5, "good")), complete=False)
    finally:
        await zombie.close()
    checkpoint = await _checkpoint(sink)
    assert (checkpoint.watermark.position.offset, checkpoint.fence) == (100, 2)


async def _acquire(sink: Sink, lease_s: float = 15) -> Lease:
    lease = Lease(sink.checkpoints, "stream", sink.name)
    await lease.acquire(SOURCE, Watermark(Position()), restart=False, lease_s=lease_s)
    return lease


async def _checkpoint(sink: Sink) -> Checkpoint:
    text = await sink.checkpoints.read("stream")
    assert text is not None
    return decode(text, "stream", sink.name)


# --- the rest -------------------------------------------------------------------------------------


async def test_check_finds_everything_in_order(kit: Kit, sink: Sink) -> None:
    """A sink that is set up has only good findings, and looking for them leaves no rows behind."""
    findings = await sink.check(create=False)
    assert findings
    assert all(finding.ok for finding in findings)
    assert kit.stored() == {}


def test_health_is_told_by_name(kit: Kit) -> None:
    """A store's health check is true for a sink that can be used."""
    (health,) = InteractionStore([kit.url]).health_check().items()
    assert health == (sink_at(kit.url).name, True)


def test_a_sink_that_is_down_is_unhealthy(kit: Kit) -> None:
    """A health check of what cannot be reached is false, not an error."""
    if kit.down_url.startswith("sqlite"):
        pytest.skip("a missing file would be made")
    assert list(InteractionStore([kit.down_url]).health_check().values()) == [False]


async def test_close_is_safe_at_any_time(kit: Kit, sink: Sink) -> None:
    """Twice, before any open, and after an open that failed."""
    await sink.close()
    await sink.close()
    await sink_at(kit.url).close()
    down = sink_at(kit.down_url)
    with pytest.raises(IngestError):
        await down.open()
    await down.close()
    await down.close()


async def test_a_preview_writes_nothing(kit: Kit) -> None:
    """It needs no connection, and has one text a row, with the row's values in it."""
    rows = interactions(3)
    sink = sink_at(kit.url)
    try:
        texts = sink.preview(columns_of(rows))
    finally:
        await sink.close()
    for text, row in zip(texts, rows, strict=True):
        assert str(row.user_id) in text
        assert str(row.video_id) in text
        assert row.session_id in text


async def test_what_was_written_is_answered(kit: Kit, sink: Sink) -> None:
    """`recent` gives a user's newest first and no more than asked for; `history` those in [since, until), in order."""
    rows = interactions(70)
    await store(sink, chunk_of(rows))
    mine = [row for row in rows if row.user_id == rows[0].user_id]
    answered = False
    if isinstance(sink, AnswersRecent):
        answered = True
        assert await sink.recent(mine[0].user_id, 3) == mine[:-4:-1]
        assert await sink.recent(str(mine[0].user_id), 1000) == mine[::-1]
        assert await sink.recent(interaction(999, 1).user_id, 5) == []
    if isinstance(sink, AnswersHistory):
        answered = True
        assert await sink.history(mine[0].user_id, None, None) == mine
        assert await sink.history(mine[0].user_id, mine[2].timestamp, mine[5].timestamp) == mine[2:5]
        assert await sink.history(interaction(999, 1).user_id, None, None) == []
    assert answered
