"""MongoDB: what the contract suite cannot say about it. Faults are those of a proxy, a shim and a killed server."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pymongo import ASCENDING, IndexModel

from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.rows.interaction import VideoInteraction, timestamp_text
from ingest_service.sinks.base import Written
from ingest_service.sinks.mongodb.bulk import Batch
from ingest_service.sinks.mongodb.documents import Interactions
from ingest_service.sinks.mongodb.sink import MongoDBSink
from ingest_service.sinks.mongodb.writer import DocumentSink
from ingest_service.sinks.testing.rows import chunk_of, interaction, interactions
from ingest_service.sinks.urls import sink_at
from tests.faults import TcpProxy
from tests.helpers import UNREACHABLE, mongodb_documents
from tests.mongodb_shim import NOT_PRIMARY, THROTTLED, UNAUTHORIZED, UNCONFIRMED, Forged, MongoShim, Policy
from tests.servers import Secantus, ServerMissingError

ROWS = interactions(3_000)


def expected(rows: Sequence[VideoInteraction] = ROWS) -> list[str]:
    return sorted(f"{row.user_id}#{timestamp_text(row.timestamp)}#{row.video_id}" for row in rows)


def ids(url: str) -> list[str]:
    return [document["_id"] for document in mongodb_documents(url, "interactions")]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[MongoDBSink]:
    sink = MongoDBSink(url)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


@asynccontextmanager
async def through_proxy(url: str, **options: object) -> AsyncIterator[tuple[TcpProxy, MongoDBSink]]:
    address, _, query = url.partition("?")
    async with TcpProxy(address) as proxy, opened(f"{proxy.url}?{query}{_query(options)}") as sink:
        yield proxy, sink


@asynccontextmanager
async def through_shim(url: str, policy: Policy, **options: object) -> AsyncIterator[tuple[MongoShim, MongoDBSink]]:
    async with MongoShim(url, policy) as shim, opened(shim.url + _query({"concurrency": 1} | options)) as sink:
        yield shim, sink


def _query(options: Mapping[str, object]) -> str:
    return "".join(f"&{name}={value}" for name, value in options.items())


@pytest.mark.fault(18)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_lost_reply_changes_nothing(mongodb_db_url: str, times: int) -> None:
    """A bulk write that was applied, and whose reply never came, is repeated: each row is there once, none is dead."""
    async with through_proxy(mongodb_db_url, concurrency=1) as (proxy, sink):
        await proxy.cut_reply(times=times, containing=b"insert")
        assert await sink.store(chunk_of(ROWS)) == Written(3_000)
        assert sink.retrier.retries >= times
    assert ids(mongodb_db_url) == expected()


@pytest.mark.fault(18)
@pytest.mark.parametrize("after", [1, 700, 100_000])
async def test_a_request_cut_in_the_middle_is_repeated(mongodb_db_url: str, after: int) -> None:
    """Wherever in a bulk write the connection breaks, all rows are there in the end."""
    async with through_proxy(mongodb_db_url) as (proxy, sink):
        await proxy.cut_after(after)
        assert await sink.store(chunk_of(ROWS)) == Written(3_000)
    assert ids(mongodb_db_url) == expected()


@pytest.mark.fault(18)
@pytest.mark.parametrize("fault", [NOT_PRIMARY, UNCONFIRMED, THROTTLED], ids=["failover", "unconfirmed", "throttled"])
async def test_what_passes_is_tried_again(mongodb_db_url: str, fault: Forged) -> None:
    """A failover, a write concern that was not met and a throttle cost a retry, and no row."""

    def twice(name: str, nth: int) -> Forged | None:
        return fault if name == "insert" and nth <= 2 else None

    async with through_shim(mongodb_db_url, twice) as (_, sink):
        assert await sink.store(chunk_of(ROWS)) == Written(3_000)
        assert sink.retrier.retries >= 2
        assert sink.retrier.throttled == (2 if fault is THROTTLED else 0)
    assert ids(mongodb_db_url) == expected()


@pytest.mark.fault(18)
async def test_a_write_that_stays_unconfirmed_is_not_settled(mongodb_db_url: str) -> None:
    """Rows that the server holds, but does not confirm as asked, are no success."""

    def always(name: str, _: int) -> Forged | None:
        return UNCONFIRMED if name in ("insert", "update") else None

    async with through_shim(mongodb_db_url, always, retry_budget_s=0.5) as (_, sink):
        with pytest.raises(SinkUnavailable, match="does not confirm"):
            await sink.store(chunk_of(ROWS[:10]))


async def test_a_row_that_fails_for_now_is_tried_alone(mongodb_db_url: str) -> None:
    """A passing error of single rows of a batch repeats only these."""
    busy = Forged(
        {
            "ok": 1,
            "n": 8,
            "writeErrors": [{"index": 3, "code": 112, "errmsg": ""}, {"index": 7, "code": 112, "errmsg": ""}],
        }
    )

    def once(name: str, nth: int) -> Forged | None:
        return busy if (name, nth) == ("insert", 1) else None

    async with through_shim(mongodb_db_url, once) as (shim, sink):
        assert await sink.store(chunk_of(ROWS[:10])) == Written(10)
        assert shim.counts["insert"] == 2
    assert ids(mongodb_db_url) == expected([ROWS[3], ROWS[7]])  # the other eight never reached the server


async def test_missing_rights_end_the_run(mongodb_db_url: str) -> None:
    """A refused user is a matter of configuration, said without the server's words."""

    def refused(name: str, _: int) -> Forged | None:
        return UNAUTHORIZED if name == "insert" else None

    async with through_shim(mongodb_db_url, refused) as (_, sink):
        with pytest.raises(ConfigurationError, match="rights") as refusal:
            await sink.store(chunk_of(ROWS[:10]))
    assert "canary" not in str(refusal.value)


async def test_a_killed_server_is_waited_for(tmp_path: Path) -> None:
    """What was acknowledged before a crash of the server is there after it, and the write goes on."""
    try:
        server = Secantus(tmp_path)
    except ServerMissingError as error:
        pytest.skip(f"NO SERVER: {error}")
    with server:
        url = f"{server.url}/test?directConnection=true"
        async with opened(f"{url}&concurrency=1") as sink:
            assert await sink.store(chunk_of(ROWS[:500])) == Written(500)
            writing = asyncio.create_task(sink.store(chunk_of(ROWS)))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.kill)
            assert ids_after_restart(server, url) >= set(expected(ROWS[:500]))
            assert await writing == Written(3_000)
        assert ids(url) == expected()


def ids_after_restart(server: Secantus, url: str) -> set[str]:
    server.start()
    return set(ids(url))


async def test_a_later_version_replaces_an_earlier_one(mongodb_db_url: str) -> None:
    """A key that comes again in a later chunk has the later row's document."""
    async with opened(mongodb_db_url) as sink:
        await sink.store(chunk_of([interaction(1, 1, session_id="first"), interaction(2, 2)]))
        await sink.store(chunk_of([interaction(1, 1, session_id="second")]))
    assert {one["session_id"] for one in mongodb_documents(mongodb_db_url, "interactions")} == {
        "second",
        interaction(2, 2).session_id,
    }


def test_large_documents_go_in_several_requests() -> None:
    """As many as a command may hold, in order, and one that alone is as large as that by itself."""
    sizes = [7, 7, 7, 16, 1, 1]
    batch = Batch({row: bytes(size << 20) for row, size in enumerate(sizes)})
    requests = []
    while batch.left:
        rows, command = batch.next("interactions")
        requests.append(rows)
        assert sum(len(run.raw) for run in command["documents"]) == sum(sizes[row] for row in rows) << 20
        assert batch.answered(rows, {"ok": 1}) is None
    assert requests == [[0, 1], [2], [3], [4, 5]]


class _Indexed(Interactions):
    indexes: Sequence[IndexModel] = (IndexModel([("video_id", ASCENDING)]),)


async def test_check_makes_indexes(mongodb_db_url: str) -> None:
    """A missing index is a bad finding, with `create` it is made, and then it is there."""
    sink = DocumentSink(mongodb_db_url, _Indexed())
    try:
        assert [finding.ok for finding in await sink.check(create=False)] == [True, False]
        assert [finding.detail for finding in await sink.check(create=True)] == ["can be reached", "was made"]
        assert [finding.detail for finding in await sink.check(create=False)] == ["can be reached", "is there"]
    finally:
        await sink.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mongodb://localhost:27017", "names the database"),
        ("mongodb:///db", "names the database"),
        ("mongodb://localhost/db?colection=x", "besides MongoDB's own options it knows: .*collection"),
        ("mongodb://localhost/db?concurrency=0", "'concurrency'"),
        ("mongodb://u:p@w@localhost/db", "%XX"),
        ("mongodb://localhost:port/db", "port"),
    ],
)
def test_a_wrong_url_is_explained(url: str, message: str) -> None:
    """What is wrong with a URL is said before anything is connected."""
    with pytest.raises(ConfigurationError, match=message):
        sink_at(url)


def test_the_drivers_own_options_are_passed_on() -> None:
    """Several hosts, a replica set, credentials: what MongoDB's URIs can say stays as it is."""
    sink = sink_at("mongodb://u:p%40w@a:1,b:2/db?replicaSet=rs&collection=events&authSource=admin")
    assert isinstance(sink, MongoDBSink)
    assert sink.client.uri == "mongodb://u:p%40w@a:1,b:2/db?replicaSet=rs&authSource=admin"
    assert (sink.client.database_name, sink.options.collection) == ("db", "events")


async def test_a_server_that_is_away_ends_the_run_in_its_time() -> None:
    """Past the retry budget the sink is unavailable: exit code 69."""
    with pytest.raises(SinkUnavailable, match="did not recover"):
        async with opened(f"mongodb://{UNREACHABLE}/db?retry_budget_s=0.3"):
            pass
