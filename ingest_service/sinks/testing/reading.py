"""What a sink can do beside writing: read back, trial places, checks, previews, answers."""

import asyncio
import shutil
from pathlib import Path

import pytest

from ingest_service.api import InteractionStore
from ingest_service.audit.findings import Findings
from ingest_service.audit.replay import ReplayReport, replay
from ingest_service.audit.verify import verify
from ingest_service.config import stream_named
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import ConfigurationError, IngestError
from ingest_service.pipeline.checkpoint import decode
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.load import load
from ingest_service.pipeline.placed import checkpoints_of
from ingest_service.pipeline.run import Silent
from ingest_service.rows.interaction import INTERACTION
from ingest_service.sinks.abilities import (
    AnswersHistory,
    AnswersRecent,
    OffersTrial,
    Previewed,
    Probed,
    ReadBack,
    read_back_of,
)
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.readback import STORED_SCHEMA, frame_of
from ingest_service.sinks.testing.kit import Kit
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, columns_of, interaction, interactions, key_of, store
from ingest_service.sinks.urls import sink_at
from ingest_service.sources.local import FileSource


async def test_what_is_stored_is_what_is_expected(kit: Kit, sink: AnySink) -> None:
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
    if not isinstance(sink, ReadBack):
        pytest.skip("it cannot be read back")
    expected = sink.expected(frame_of(chunk.columns), INTERACTION)
    assert not expected["expired"].any()
    found = await sink.stored([*users, str(interaction(999, 1).user_id)], INTERACTION)
    assert found.schema == STORED_SCHEMA
    assert sorted(found.rows()) == sorted(expected.select(*STORED_SCHEMA).rows())
    some = await sink.stored(users[:2], INTERACTION)
    assert sorted(some.rows()) == sorted(row for row in found.rows() if row[0] in users[:2])
    assert (await sink.stored([], INTERACTION)).height == 0


async def test_verify_finds_what_was_done_to_a_sink(kit: Kit, sink: AnySink, tmp_path: Path) -> None:
    """A row deleted, one altered and one added behind the program's back are found, with line, offset and key."""
    if not isinstance(sink, ReadBack):
        pytest.skip("it cannot be read back")
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


async def test_an_edited_dead_letter_lands(kit: Kit, sink: AnySink, tmp_path: Path) -> None:
    """`replay` stores it, gives the lease back and leaves the checkpoint as it was; `verify` then expects the row."""
    if not isinstance(sink, ReadBack):
        pytest.skip("it cannot be read back")
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


async def test_a_scratch_place_is_empty_apart_and_gone_afterwards(kit: Kit, sink: AnySink, tmp_path: Path) -> None:
    """It has the sink's own options, shares nothing with the sink or another such place, and leaves nothing behind."""
    rows = interactions(20)
    chunk = chunk_of(rows)
    users = chunk.columns.frame()["user_id"].unique().to_list()
    await store(sink, chunk_of(rows[:5]))
    before = kit.stored()
    if not isinstance(sink, OffersTrial):
        pytest.skip("it has no place for a trial")
    folder = tmp_path / "trial"
    folder.mkdir()
    async with sink.scratch(kit.url, folder) as one, sink.scratch(kit.url, folder) as other:
        assert len({kit.url, one, other}) == 3
        for url in (one, other):
            trial = sink_at(url)
            await trial.open()
            place = {"checkpoint_table", "item_table", "schema_name"}
            assert trial.options.model_dump(exclude=place) == sink.options.model_dump(exclude=place)
            assert (await read_back_of(trial).stored(users, INTERACTION)).height == 0
            assert await trial.checkpoints.swap("stream", None, "text")
            await store(trial, chunk)
            assert (await read_back_of(trial).stored(users, INTERACTION)).height == 20
            await trial.close()
    assert kit.stored() == before
    assert await sink.checkpoints.streams() == []
    shutil.rmtree(folder)
    trial = sink_at(one)
    try:
        await trial.open()
        assert (await read_back_of(trial).stored(users, INTERACTION)).height == 0
        assert await trial.checkpoints.streams() == []
    except ConfigurationError:
        pass  # nor is the place there any more
    finally:
        await trial.close()


async def test_check_finds_everything_in_order(kit: Kit, sink: AnySink) -> None:
    """A sink that is set up has only good findings, and looking for them leaves no rows behind."""
    if not isinstance(sink, Probed):
        pytest.skip("it has no check")
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
    if kit.down_url is None:
        pytest.skip("it can always be opened")
    assert list(InteractionStore([kit.down_url]).health_check().values()) == [False]


async def test_close_is_safe_at_any_time(kit: Kit, sink: AnySink) -> None:
    """Twice, before any open, and after an open that failed."""
    await sink.close()
    await sink.close()
    await sink_at(kit.url).close()
    if kit.down_url is None:
        return
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
        if not isinstance(sink, Previewed):
            pytest.skip("it shows no preview")
        texts = sink.preview(columns_of(rows))
    finally:
        await sink.close()
    for text, row in zip(texts, rows, strict=True):
        assert str(row.user_id) in text
        assert str(row.video_id) in text
        assert row.session_id in text


async def test_what_was_written_is_answered(kit: Kit, sink: AnySink) -> None:
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
        assert await sink.history(mine[0].user_id, mine[1].timestamp, None, 3) == mine[1:4]
        assert await sink.history(interaction(999, 1).user_id, None, None) == []
    assert answered
