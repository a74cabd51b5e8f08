"""The Python API, with the behaviours that MicroLens users expect of it."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid5

import pytest
import redis

from ingest_service import (
    Device,
    EventType,
    IngestError,
    InteractionStore,
    MicroLensIngestor,
    MicroLensPairsReader,
    VideoInteraction,
    ingest,
)
from ingest_service.errors import ConfigurationError, SourceNotFound, TooManyRejects
from ingest_service.sinks.testing.rows import FIRST_MS, interaction
from tests.helpers import HEADER, UNREACHABLE, create_tables, dynamodb_at, redis_sets, write_pairs

NAMESPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State and default database are the test's own."""
    monkeypatch.chdir(tmp_path)


def pairs(rows: str, header: str = "userID,videoID,timestamp", name: str = "pairs.csv") -> Path:
    path = Path(name)
    path.write_text(f"{header}\n{rows}")
    return path


def read(rows: str, limit: int | None = None) -> list[VideoInteraction]:
    return list(MicroLensPairsReader(pairs(rows)).read(limit))


THREE = "1,10,2023-01-01T10:00:00\n2,20,2023-01-01T11:00:00\n1,30,2023-01-02T10:00:00\n"

# --- the reader -----------------------------------------------------------------------------------


def test_the_reader_gives_an_object_a_row() -> None:
    """In the order of the file."""
    found = read(THREE)
    assert [one.session_id for one in found] == [
        "session_1_2023-01-01",
        "session_2_2023-01-01",
        "session_1_2023-01-02",
    ]
    assert all(isinstance(one, VideoInteraction) for one in found)


@pytest.mark.parametrize(("limit", "n"), [(None, 3), (0, 0), (1, 1), (2, 2), (3, 3), (10, 3)])
def test_the_reader_keeps_a_limit(limit: int | None, n: int) -> None:
    """At most as many objects as asked for."""
    assert read(THREE, limit) == read(THREE)[:n]


def test_ids_are_made_the_same_way_every_time() -> None:
    """A user or video has one UUID, in every file and run: the version 5 one of its number."""
    first, _, third = read(THREE)
    assert first.user_id == third.user_id == uuid5(NAMESPACE, "user_1")
    assert first.video_id == uuid5(NAMESPACE, "video_10")
    assert read("001,0010,2023-01-01T10:00:00") == [first]


def test_users_are_told_apart() -> None:
    """Several users, several ids and sessions."""
    first, second, third = read(THREE)
    assert len({first.user_id, second.user_id}) == 2
    assert len({first.session_id, second.session_id, third.session_id}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "2023-01-01T10:00:00",
        "2023-01-01 10:00:00.000",
        "2023-01-01T10:00:00Z",
        "2023-01-01T12:00:00+02:00",
        "1672567200",
        "1672567200000",
    ],
)
def test_timestamps_become_utc(text: str) -> None:
    """Whatever the form and zone; no zone means UTC."""
    (one,) = read(f"1,2,{text}")
    assert one.timestamp == datetime(2023, 1, 1, 10, tzinfo=UTC)
    assert one.timestamp.utcoffset() == timedelta(0)


def test_a_missing_file_is_a_file_not_found_error() -> None:
    """The reader, the ingestor and `ingest` raise what Python users expect."""
    with pytest.raises(FileNotFoundError):
        list(MicroLensPairsReader("nowhere.csv").read())
    with pytest.raises(FileNotFoundError):
        MicroLensIngestor(InteractionStore()).ingest_from_csv("nowhere.csv")
    with pytest.raises(SourceNotFound):
        asyncio.run(ingest("nowhere.csv"))


def test_the_reader_passes_over_invalid_rows() -> None:
    """They do not count for the limit, and end nothing."""
    rows = "x,1,2023-01-01T10:00:00\n" + THREE.replace("\n2", "\n1,2\n2") + "1,2,never\n"
    assert read(rows) == read(THREE)
    assert read(rows, 2) == read(THREE)[:2]


def test_all_fields_are_filled() -> None:
    """With the values that every MicroLens row has in common, too."""
    (one,) = read("5,6,2023-01-01T10:00:00.123456")
    assert one == VideoInteraction(
        user_id=uuid5(NAMESPACE, "user_5"),
        video_id=uuid5(NAMESPACE, "video_6"),
        event_type=EventType.CLICK,
        timestamp=datetime(2023, 1, 1, 10, 0, 0, 123456, tzinfo=UTC),
        device=Device.MOBILE,
        session_id="session_5_2023-01-01",
    )


# --- the ingestor ---------------------------------------------------------------------------------


def test_an_ingestor_has_its_store() -> None:
    """Nothing is opened or written by making one."""
    store = InteractionStore()
    assert MicroLensIngestor(store).store is store
    assert list(Path().iterdir()) == []


def test_an_ingestor_counts_what_landed() -> None:
    """All rows good: all successful."""
    stats = MicroLensIngestor(InteractionStore()).ingest_from_csv(pairs(THREE))
    assert stats == {"processed": 3, "successful": 3, "failed": 0}


def test_an_ingestor_counts_partial_failures() -> None:
    """Bad rows fail, the others land."""
    stats = MicroLensIngestor(InteractionStore()).ingest_from_csv(pairs(THREE + "x,1,1\n1,2\n"))
    assert stats == {"processed": 5, "successful": 3, "failed": 2}


def test_an_ingestor_keeps_a_limit() -> None:
    """Only the first rows; a later call goes on, and the counts are over both."""
    ingestor = MicroLensIngestor(InteractionStore())
    assert ingestor.ingest_from_csv(pairs(THREE), limit=2)["processed"] == 2
    assert ingestor.ingest_from_csv("pairs.csv") == {"processed": 3, "successful": 3, "failed": 0}


def test_stored_objects_have_the_same_form() -> None:
    """What comes out of a store is what the reader gives."""
    store = InteractionStore()
    MicroLensIngestor(store).ingest_from_csv(pairs(THREE))
    first, second, third = read(THREE)
    assert asyncio.run(store.recent(first.user_id)) == [third, first]
    assert asyncio.run(store.history(second.user_id)) == [second]


# --- all together ---------------------------------------------------------------------------------


async def test_end_to_end(redis_db_url: str, dynamodb_url: str, table: str) -> None:
    """A file goes into Redis and DynamoDB, both are healthy, and both answer; also inside a running loop."""
    dynamodb = dynamodb_at(dynamodb_url, table)
    await create_tables(dynamodb)
    store = InteractionStore(sinks=[redis_db_url, dynamodb])
    assert store.health_check() == {"redis": True, "dynamodb": True}
    stats = MicroLensIngestor(store).ingest_from_csv(pairs(THREE))
    assert stats == {"processed": 3, "successful": 3, "failed": 0}
    first, _, third = read(THREE)
    assert await store.recent(first.user_id, limit=1) == [third]
    assert await store.recent(str(first.user_id)) == [third, first]
    assert await store.history(first.user_id) == [first, third]
    assert await store.history(first.user_id, since=third.timestamp) == [third]
    assert await store.history(first.user_id, until=third.timestamp) == [first]


def test_fifty_rows_and_more(redis_db_url: str) -> None:
    """Sixty rows of twelve users: every one is there."""
    rows = "".join(f"{i % 12},{i},{FIRST_MS + i}\n" for i in range(60))
    stats = MicroLensIngestor(InteractionStore([redis_db_url])).ingest_from_csv(pairs(rows, HEADER))
    assert stats == {"processed": 60, "successful": 60, "failed": 0}
    assert [len(members) for members in redis_sets(redis_db_url).values()] == [5] * 12


@pytest.mark.parametrize("row", [" 1 , 2 ,2020-03-05T00:00:00", '"1","2","2020-03-05T00:00:00"', f"1,2,{FIRST_MS}"])
def test_whitespace_quotes_and_units_do_not_matter(row: str) -> None:
    """One record, however its row is written."""
    assert read(row) == [interaction(1, 2)]


# --- ingest() and mistakes ------------------------------------------------------------------------


async def test_ingest_is_the_run_command_as_a_function() -> None:
    """It takes one source or several, and goes on where it stopped."""
    path = pairs(THREE)
    other = pairs(THREE, name="other.csv")
    report = await ingest(path, limit=1)
    assert report.total("sqlite").read == 1
    report = await ingest([path, str(other)], to=["sqlite:///interactions.db"])
    assert [stream.rows_now for stream in report.streams] == [2, 3]
    assert report.balanced
    assert [stream.rows_now for stream in (await ingest(path, restart=True)).streams] == [3]
    with pytest.raises(TooManyRejects):
        await ingest(pairs("bad\n", "user,item,timestamp,x"), restart=True, max_rejects="0")


def test_what_cannot_answer_says_so(redis_db_url: str) -> None:
    """A store without a sink for a question, or without any, is a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="history"):
        asyncio.run(InteractionStore([redis_db_url]).history(interaction(1, 1).user_id))
    with pytest.raises(ConfigurationError, match="recent"):
        asyncio.run(InteractionStore(["dynamodb://table"]).recent(interaction(1, 1).user_id))
    with pytest.raises(ConfigurationError):
        InteractionStore([])
    with pytest.raises(ConfigurationError):
        InteractionStore(["oracle://db"])


def test_a_sink_that_is_down_is_unhealthy_by_name() -> None:
    """The others are told as they are."""
    store = InteractionStore([f"redis://{UNREACHABLE}/0?retry_budget_s=0.1&name=cache", "sqlite:///a.db"])
    assert store.health_check() == {"cache": False, "sqlite": True}


def test_errors_are_one_family() -> None:
    """Whoever catches IngestError catches what a run may raise."""
    with pytest.raises(IngestError):
        MicroLensIngestor(InteractionStore()).ingest_from_csv(Path())


# --- an open store, and its memory ----------------------------------------------------------------


async def test_an_open_store_keeps_its_clients(redis_db_url: str) -> None:
    """Inside `async with`, many questions, also at once, use one connection; outside each makes its own."""
    store = InteractionStore([redis_db_url])
    await ingest(pairs(THREE), to=[redis_db_url])
    first, second, third = read(THREE)
    with redis.Redis.from_url(redis_db_url) as client:
        before = client.info("stats")["total_connections_received"]
        async with store:
            for _ in range(20):
                assert await store.recent(first.user_id) == [third, first]
            kept = client.info("stats")["total_connections_received"] - before
            assert await asyncio.gather(*(store.recent(second.user_id) for _ in range(3))) == [[second]] * 3
        assert kept <= 2
        before = client.info("stats")["total_connections_received"]
        assert await store.recent(first.user_id) == [third, first]
        assert await store.recent(first.user_id) == [third, first]
        assert client.info("stats")["total_connections_received"] - before >= 2


async def test_an_open_store_leaves_alone_what_is_not_asked() -> None:
    """A sink that is down does not keep another from answering, and a store may be opened again."""
    await ingest(pairs(THREE), to=["sqlite:///here.db"])
    store = InteractionStore(["dynamodb://table?endpoint=http://127.0.0.1:1", "sqlite:///here.db"])
    for _ in range(2):
        async with store:
            assert len(await store.recent(read(THREE)[0].user_id)) == 2
            with pytest.raises(RuntimeError, match="open already"):
                await store.__aenter__()


_LOAD_INTO_FOUR = r"""
import re
from pathlib import Path

from ingest_service import InteractionStore, MicroLensIngestor

store = InteractionStore([f"sqlite:///{name}.db?name={name}" for name in "abcd"])
stats = MicroLensIngestor(store).ingest_from_csv("pairs.csv")
peak_kb = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]  # ru_maxrss begins with the parent's
print(stats["processed"], int(peak_kb) * 1024 // 10**6)
"""


def test_a_script_stays_within_the_memory() -> None:
    """Four sinks of the store's own, none of the settings': the peak is within the promised 350 MB all the same."""
    write_pairs(Path("pairs.csv"), 600_000)
    done = subprocess.run([sys.executable, "-c", _LOAD_INTO_FOUR], capture_output=True, text=True, check=True)
    processed, peak_mb = (int(word) for word in done.stdout.split())
    assert processed == 600_000
    assert peak_mb <= 350
