"""PostgreSQL: what the contract suite cannot say about it. Faults are those of a real server, or of a proxy."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.rows.interaction import INTERACTION, VideoInteraction
from ingest_service.sinks.base import Written
from ingest_service.sinks.postgres import PostgresSink, session
from ingest_service.sinks.postgres.tables import create_table
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from tests.conftest import found
from tests.faults import TcpProxy
from tests.helpers import HEADER, Cli, finish, postgresql, until, write_pairs
from tests.servers import PostgreSQL, find_postgresql

ROWS = interactions(3_000)


def stored(url: str) -> dict[tuple[Any, ...], str]:
    """The sessions by key."""
    with postgresql(url) as connection:
        rows = connection.execute('SELECT user_id, "timestamp", video_id, session_id FROM interactions').fetchall()
    assert len(rows) == len({row[:3] for row in rows})
    return {row[:3]: row[3] for row in rows}


def expected(rows: Sequence[VideoInteraction]) -> dict[tuple[Any, ...], str]:
    return {(row.user_id, row.timestamp, row.video_id): row.session_id for row in rows}


def checkpoint(url: str) -> str | None:
    with postgresql(url) as connection:
        row = connection.execute("SELECT body FROM ingest_checkpoints").fetchone()
    return None if row is None else str(row[0])


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[PostgresSink]:
    sink = PostgresSink(url + "".join(f"&{name}={quote(str(value))}" for name, value in options.items()))
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


@asynccontextmanager
async def through_proxy(url: str, **options: object) -> AsyncIterator[tuple[TcpProxy, PostgresSink]]:
    async with TcpProxy(url) as proxy, opened(proxy.url, sslmode="disable", **options) as sink:
        yield proxy, sink


def our_pid(url: str) -> int:
    """The server's process of a sink in this schema's test: the only one that says what it is."""
    with postgresql(url) as connection:
        row = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ingest-service %'"
            " ORDER BY backend_start DESC"
        ).fetchone()
    assert row is not None
    return int(row[0])


# --- the transaction --------------------------------------------------------------------------------


async def test_rows_wait_for_their_checkpoint(postgresql_schema_url: str) -> None:
    """Nobody sees them before; with the checkpoint they are there, and without one they go with the process."""
    async with opened(postgresql_schema_url) as sink:
        assert await sink.checkpoints.swap("stream", None, "0")
        await sink.store(chunk_of(ROWS))
        assert stored(postgresql_schema_url) == {}
        assert await sink.checkpoints.swap("stream", "0", "1")
        assert stored(postgresql_schema_url) == expected(ROWS)
        await sink.store(chunk_of([interaction(99, 1)]))
    assert (stored(postgresql_schema_url), checkpoint(postgresql_schema_url)) == (expected(ROWS), "1")


@pytest.mark.fault(70)
async def test_a_connection_that_dies_in_a_transaction(postgresql_schema_url: str) -> None:
    """What `write` had reported is written again, in the order in which it came."""
    url = postgresql_schema_url
    async with opened(url) as sink:
        assert await sink.checkpoints.swap("stream", None, "0")
        await sink.store(chunk_of([*ROWS, interaction(1, 1, session_id="first")]))
        await sink.store(chunk_of([interaction(1, 1, session_id="second")]))
        with postgresql(url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", (our_pid(url),))
        assert await sink.checkpoints.swap("stream", "0", "1")
        assert sink.retrier.retries
    assert stored(url) == expected([*ROWS, interaction(1, 1, session_id="second")])


@pytest.mark.fault(70)
@pytest.mark.parametrize("after", [1, 700, 100_000])
async def test_a_request_cut_in_the_middle_is_repeated(postgresql_schema_url: str, after: int) -> None:
    """Wherever in a COPY the connection breaks, all rows are there in the end."""
    async with through_proxy(postgresql_schema_url) as (proxy, sink):
        assert await sink.checkpoints.swap("stream", None, "0")
        await sink.store(chunk_of(ROWS[:10]))
        await proxy.cut_after(after)
        assert await sink.store(chunk_of(ROWS[10:])) == Written(2_990)
        assert await sink.checkpoints.swap("stream", "0", "1")
    assert stored(postgresql_schema_url) == expected(ROWS)


@pytest.mark.fault(71)
async def test_the_reply_to_a_commit_is_lost(postgresql_schema_url: str) -> None:
    """The checkpoint says whether it took: it did, so nothing is written again."""
    async with through_proxy(postgresql_schema_url) as (proxy, sink):
        assert await sink.checkpoints.swap("stream", None, "0")
        await sink.store(chunk_of(ROWS))
        await proxy.cut_reply(containing=b"COMMIT")
        assert await sink.checkpoints.swap("stream", "0", "1")
        assert (proxy.cuts, sink.retrier.retries) == (1, 1)
        with postgresql(postgresql_schema_url) as connection:
            dead = connection.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'interactions'")
            assert dead.fetchone() in (None, (0,))
        await sink.store(chunk_of([interaction(99, 1)]))
        assert await sink.checkpoints.swap("stream", "1", "2")
    assert stored(postgresql_schema_url) == expected([*ROWS, interaction(99, 1)])


@pytest.mark.fault(71)
async def test_a_commit_that_never_arrives(postgresql_schema_url: str) -> None:
    """It did not take: rows and checkpoint are written again."""
    async with through_proxy(postgresql_schema_url) as (proxy, sink):
        assert await sink.checkpoints.swap("stream", None, "0")
        await sink.store(chunk_of(ROWS))
        commit = sink._session._commit

        async def cut_before(connection: Any, anchor: Any) -> None:
            sink._session._commit = commit  # type: ignore[method-assign]
            sink._session._committing = anchor
            await proxy.cut_after(1)
            await commit(connection, anchor)

        sink._session._commit = cut_before  # type: ignore[method-assign]
        assert await sink.checkpoints.swap("stream", "0", "1")
        assert proxy.cuts == 1
    assert (stored(postgresql_schema_url), checkpoint(postgresql_schema_url)) == (expected(ROWS), "1")


async def test_what_waits_for_a_checkpoint_is_bounded(
    postgresql_schema_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none comes for long, rows are committed without one, and the checkpoint goes on from there."""
    monkeypatch.setattr(session, "KEPT_BYTES", 200_000)
    async with opened(postgresql_schema_url) as sink:
        assert await sink.checkpoints.swap("stream", None, "0")
        await sink.store(chunk_of(ROWS))
        assert stored(postgresql_schema_url) == expected(ROWS)
        assert checkpoint(postgresql_schema_url) == "0"
        assert await sink.checkpoints.swap("stream", "0", "1")


async def test_a_later_version_replaces_an_earlier_one(postgresql_schema_url: str) -> None:
    """And what is equal already is not written again: the table does not grow by it."""
    url = postgresql_schema_url
    async with opened(url) as sink:
        await sink.store(chunk_of([*ROWS, interaction(1, 1, session_id="first")]))
        await sink.flush()
        with postgresql(url) as connection:
            places = connection.execute("SELECT ctid, video_id FROM interactions ORDER BY 1").fetchall()
        await sink.store(chunk_of([*ROWS, interaction(1, 1, session_id="second")]))
        await sink.flush()
        with postgresql(url) as connection:
            again = connection.execute("SELECT ctid, video_id FROM interactions ORDER BY 1").fetchall()
    assert len(set(again) - set(places)) == 1
    assert stored(url) == expected([*ROWS, interaction(1, 1, session_id="second")])


# --- what others do meanwhile -----------------------------------------------------------------------


def make_table(url: str, *statements: str) -> None:
    with postgresql(url) as connection:
        connection.execute(create_table(url.partition("schema=")[2].partition("&")[0], "interactions", INTERACTION))
        for statement in statements:
            connection.execute(statement)


def trigger(body: str) -> str:
    return f"""
        CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;
        CREATE TRIGGER watch BEFORE INSERT ON interactions FOR EACH ROW EXECUTE FUNCTION watch()
    """


@pytest.mark.fault(72)
async def test_a_deadlock_is_tried_again(postgresql_schema_url: str) -> None:
    """Rows that another session has changed, which waits for ours: PostgreSQL ends one of both, here ours."""
    url = postgresql_schema_url
    first, last = interaction(1, 1, session_id="old"), interaction(2, 2, session_id="old")
    async with opened(url) as sink:
        await sink.store(chunk_of([first, last]))
        await sink.flush()
        new = [row.model_copy(update={"session_id": "new"}) for row in (first, last)]
        with postgresql(url) as one, postgresql(url) as other:
            by_user = sorted((first, last), key=lambda row: row.user_id)
            one.execute("SET deadlock_timeout = '60s'; BEGIN")
            one.execute("UPDATE interactions SET device = 'tv' WHERE user_id = %s", (by_user[1].user_id,))
            writing = asyncio.create_task(sink.store(chunk_of(new)))
            waits = f"SELECT 1 FROM pg_stat_activity WHERE pid = {our_pid(url)} AND wait_event_type = 'Lock'"
            await until(lambda: other.execute(waits).fetchone())
            update = "UPDATE interactions SET device = 'tv' WHERE user_id = %s"
            await asyncio.to_thread(one.execute, update, (by_user[0].user_id,))
            one.execute("COMMIT")
            assert await writing == Written(2)
            await sink.flush()
        assert sink.retrier.retries
    assert stored(url) == expected(new)


@pytest.mark.fault(72)
async def test_a_serialization_failure_is_tried_again(postgresql_schema_url: str) -> None:
    """With all that the transaction held."""
    failing = "IF nextval(format('%I.times', TG_TABLE_SCHEMA)) IN (5, 20) THEN RAISE SQLSTATE '40001'; END IF"
    make_table(postgresql_schema_url, "CREATE SEQUENCE times", trigger(failing))
    async with opened(postgresql_schema_url) as sink:
        await sink.store(chunk_of(ROWS[:3]))
        await sink.store(chunk_of(ROWS[3:50]))
        await sink.flush()
        assert sink.retrier.retries == 2
    assert stored(postgresql_schema_url) == expected(ROWS[:50])


@pytest.mark.fault(73)
async def test_statements_that_take_too_long_become_smaller(postgresql_schema_url: str) -> None:
    """As far as `statement_timeout` asks for, and later ones at once."""
    rows = interactions(2_000)
    make_table(postgresql_schema_url, trigger("PERFORM pg_sleep(0.0001)"))
    async with opened(postgresql_schema_url, options="-c statement_timeout=500") as sink:
        assert await sink.store(chunk_of(rows)) == Written(2_000)
        await sink.flush()
        assert sink._session.writer._most_rows < 2_000
    assert stored(postgresql_schema_url) == expected(rows)


@pytest.mark.fault(73)
async def test_a_transaction_that_idles_too_long(postgresql_schema_url: str) -> None:
    """The server ends the connection, and its rows are written again."""
    async with opened(postgresql_schema_url, options="-c idle_in_transaction_session_timeout=2000") as sink:
        await sink.store(chunk_of(ROWS))
        await asyncio.sleep(3)
        await sink.flush()
        assert sink.retrier.retries
    assert stored(postgresql_schema_url) == expected(ROWS)


@pytest.mark.fault(74)
async def test_a_lock_of_another_session_is_waited_for(postgresql_schema_url: str) -> None:
    """Up to the budget, and then it is said what stood in the way."""
    url = postgresql_schema_url
    async with opened(url, timeout_s=4) as sink:
        await sink.store(chunk_of(ROWS[:10]))
        await sink.flush()
        with postgresql(url) as other:
            other.execute("BEGIN; LOCK TABLE interactions")
            writing = asyncio.create_task(sink.store(chunk_of(ROWS)))
            await until(lambda: sink.retrier.retries)
            other.execute("COMMIT")
        assert await writing == Written(3_000)
        await sink.flush()
    async with opened(url, timeout_s=6, retry_budget_s=8) as sink:
        with postgresql(url) as other:
            other.execute("BEGIN; LOCK TABLE interactions")
            with pytest.raises(SinkUnavailable, match="another session holds a lock"):
                await sink.store(chunk_of(ROWS))
    assert stored(url) == expected(ROWS)


@pytest.mark.fault(6)
async def test_a_server_that_says_nothing_is_given_up(postgresql_schema_url: str) -> None:
    """After `timeout_s`, and what it had not committed is written again."""
    async with through_proxy(postgresql_schema_url, timeout_s=3, connect_timeout=2) as (proxy, sink):
        await sink.store(chunk_of(ROWS[:10]))
        await proxy.blackhole()
        writing = asyncio.create_task(sink.store(chunk_of(ROWS)))
        await until(lambda: sink.retrier.retries)
        await proxy.heal()
        assert await writing == Written(3_000)
        await sink.flush()
    assert stored(postgresql_schema_url) == expected(ROWS)


async def test_rows_that_a_trigger_drops_are_no_success(postgresql_schema_url: str) -> None:
    """Neither where they are new nor where some are there already."""
    dropping = "IF NEW.session_id = 'dropped' THEN RETURN NULL; END IF"
    make_table(postgresql_schema_url, trigger(dropping))
    for _ in range(2):
        async with opened(postgresql_schema_url) as sink:
            with pytest.raises(ConfigurationError, match="without a word"):
                await sink.store(chunk_of([*ROWS[:50], interaction(1, 1, session_id="dropped")]))
            await sink.store(chunk_of(ROWS[:50]))
            await sink.flush()


async def test_refusals_quote_no_row(postgresql_schema_url: str) -> None:
    """Whatever the server's text holds: the values of a unique index, a row, what a trigger says of it."""
    raising = "IF NEW.session_id = 'canary' THEN RAISE 'refused: %', NEW; END IF"
    make_table(
        postgresql_schema_url,
        trigger(raising),
        "CREATE UNIQUE INDEX ON interactions (session_id) WHERE session_id LIKE 'canary%'",
        "ALTER TABLE interactions ADD CHECK (session_id <> 'canary checked')",
    )
    sessions = ("canary", "canary twice", "canary twice", "canary checked", "x" * 9_000)
    rows = [interaction(1, number, session_id=session) for number, session in enumerate(sessions)]
    async with opened(postgresql_schema_url) as sink:
        written = await sink.store(chunk_of(rows))
    assert (written.written, len(written.dead)) == (2, 3)
    assert not any("canary" in row.reason or "x" * 10 in row.reason for row in written.dead)


@pytest.mark.fault(60)
async def test_a_check_that_refuses_all(cli: Cli, postgresql_schema_url: str) -> None:
    """Exit 65 with the reason."""
    make_table(postgresql_schema_url, "ALTER TABLE interactions ADD CONSTRAINT only_tv CHECK (device = 'tv')")
    file = cli.file("pairs.csv", f"{HEADER}\n" + "".join(f"{i},1,{FIRST_MS}\n" for i in range(9_000)))
    outcome = await asyncio.to_thread(cli.run, "run", file, "--to", postgresql_schema_url)
    assert outcome.code == 65
    assert "The table's rule only_tv refuses it." in outcome.message


# --- servers that go away ---------------------------------------------------------------------------


@pytest.fixture
def own_server(tmp_path: Path) -> PostgreSQL:
    """A server that may be killed, yet to be started."""
    return found(lambda: find_postgresql(tmp_path, "fsync=off", "shared_buffers=16MB"))


@pytest.mark.fault(75)
async def test_a_killed_server_is_waited_for(own_server: PostgreSQL) -> None:
    """What was committed is there after it, what was not is written again, and the same process goes on."""
    with own_server as server:
        url = f"{server.url}?schema=public"
        async with opened(url) as sink:
            assert await sink.checkpoints.swap("stream", None, "0")
            await sink.store(chunk_of(ROWS[:500]))
            assert await sink.checkpoints.swap("stream", "0", "1")
            await sink.store(chunk_of(ROWS[500:2_000]))
            await asyncio.to_thread(server.kill)
            writing = asyncio.create_task(sink.store(chunk_of(ROWS)))
            await asyncio.to_thread(server.start)
            assert await writing == Written(3_000)
            assert await sink.checkpoints.swap("stream", "1", "2")
        assert stored(url) == expected(ROWS)


@pytest.mark.fault(76)
async def test_failover_to_a_standby(own_server: PostgreSQL, tmp_path: Path) -> None:
    """Of several hosts the one that takes rows is found; alone, a standby is told, and can be read."""
    with own_server as primary, primary.standby() as standby:
        only_standby = f"{standby.url}?schema=public"
        both = primary.url.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/") + "?schema=public"
        async with opened(both) as sink:
            assert await sink.checkpoints.swap("stream", None, "0")
            await sink.store(chunk_of(ROWS[:500]))
            assert await sink.checkpoints.swap("stream", "0", "1")
            async with opened(only_standby) as reader:
                await until(lambda: standby_has(standby, 500))
                assert len(await reader.recent(ROWS[0].user_id, 10)) == 10
                with pytest.raises(ConfigurationError, match="standby"):
                    await reader.store(chunk_of(ROWS))
            await sink.store(chunk_of(ROWS[500:2_000]))
            primary.kill()
            with psycopg.connect(standby.url, autocommit=True) as connection:
                connection.execute("SELECT pg_promote()")
            await sink.store(chunk_of(ROWS[2_000:]))
            assert await sink.checkpoints.swap("stream", "1", "2")
        assert stored(f"{standby.url}?schema=public") == expected(ROWS)


def standby_has(standby: PostgreSQL, rows: int) -> bool:
    with psycopg.connect(standby.url, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('interactions')").fetchone() == (None,):
            return False
        return connection.execute("SELECT count(*) FROM interactions").fetchone() == (rows,)


@pytest.mark.fault(76)
async def test_a_server_that_has_lost_a_commit(postgresql_schema_url: str) -> None:
    """As a standby that lagged and took over: no checkpoint is saved that would skip what it lacks."""
    url = postgresql_schema_url
    async with opened(url) as sink:
        assert await sink.checkpoints.swap("stream", None, "0")
        await sink.store(chunk_of(ROWS))
        assert await sink.checkpoints.swap("stream", "0", "1")
        with postgresql(url) as connection:
            connection.execute("UPDATE ingest_checkpoints SET body = '0'; DELETE FROM interactions")
            connection.execute("SELECT pg_terminate_backend(%s)", (our_pid(url),))
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="no longer has what it had confirmed"):
                await sink.checkpoints.swap("stream", "0", "2")
    assert checkpoint(url) == "0"


# --- processes that go away -------------------------------------------------------------------------


@pytest.mark.fault(1, 2)
def test_kills_lose_and_double_nothing(cli: Cli, postgresql_schema_url: str) -> None:
    """At random times and at each named place, with checkpoints beside the rows and in files."""
    file = write_pairs(cli.folder / "pairs.csv", 6_000, blocks=3)
    outcome = cli.run("crash-test", file.path, "--to", postgresql_schema_url, "--cycles", "5", "--seed", "3", "--json")
    assert outcome.code == 0, outcome.stderr + outcome.stdout
    assert outcome.report["lossless"]
    with postgresql(postgresql_schema_url) as connection:
        left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'ingest_trial%'").fetchall()
    assert left == []


@pytest.mark.fault(9)
@pytest.mark.parametrize("statement", ["DROP TABLE interactions", "TRUNCATE interactions"])
def test_rows_that_are_gone_are_loaded_again(cli: Cli, postgresql_schema_url: str, statement: str) -> None:
    """A checkpoint belongs to the table: it is none once that was made anew or emptied. One in a file is refused."""
    url = postgresql_schema_url
    file = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n2,2,{FIRST_MS}\n")
    for extra, code in (((), 0), (("--checkpoint", "file:checkpoints"), 78)):
        run = ("run", file, "--to", url, *extra)
        assert cli.here(*run).code == 0
        with postgresql(url) as connection:
            connection.execute(statement)
        assert cli.here(*run).code == code
        if code == 78:
            assert cli.here(*run, "--restart").code == 0
        assert len(stored(url)) == 2


@pytest.mark.fault(9)
def test_a_table_emptied_in_the_middle_of_a_load(cli: Cli, postgresql_schema_url: str) -> None:
    """No checkpoint says so any more: exit 78, and the next run loads all."""
    url = postgresql_schema_url
    file = write_pairs(cli.folder / "pairs.csv", 2_000, blocks=3).path
    process = cli.start("run", file, "--to", f"{url}&rate=500")
    with postgresql(url) as connection:
        while connection.execute("SELECT to_regclass('interactions')").fetchone() == (None,):
            time.sleep(0.05)
        while connection.execute("SELECT 1 FROM interactions").fetchone() is None:
            time.sleep(0.05)
        connection.execute("TRUNCATE interactions")
        assert finish(process).code == 78
        for place in (url, f"{url}&table=clean"):
            cli.load(file, "--to", place)
        assert connection.execute("TABLE clean EXCEPT TABLE interactions").fetchall() == []
