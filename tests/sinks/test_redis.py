"""Redis: what is its own, and its faults."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from ingest_service import ingest
from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.pipeline.report import Report
from ingest_service.sinks.base import AnySink, Written
from ingest_service.sinks.checkpoints import EPOCH
from ingest_service.sinks.redis.connection import GATHER_S, Replies
from ingest_service.sinks.redis.nodes import connection_of
from ingest_service.sinks.redis.sink import RedisSink
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from ingest_service.sinks.urls import sink_at
from tests.faults import TcpProxy
from tests.helpers import (
    HEADER,
    UNREACHABLE,
    Cli,
    check,
    dead_letters,
    expected_sets,
    finish,
    opened,
    redis_sets,
    sqlite_rows,
    until,
    write_pairs,
)
from tests.servers import ROOT, Redis, find_redis

# --- what is stored -------------------------------------------------------------------------------


async def test_only_the_newest_are_kept(redis_db_url: str) -> None:
    """Of each user `recent_limit`, by time and whatever order they came in."""
    rows = [interaction(user, i, FIRST_MS + i) for i in range(250) for user in (1, 2)]
    async with opened(f"{redis_db_url}?recent_limit=30") as sink:
        for part in (rows[100:300], rows[:100], rows[300:]):
            assert await sink.store(chunk_of(part)) == Written(len(part))
    kept = redis_sets(redis_db_url)
    assert {key: sorted(scores.values()) for key, scores in kept.items()} == {
        f"recent:{{{interaction(user, 1).user_id}}}": [FIRST_MS + i for i in range(220, 250)] for user in (1, 2)
    }


async def test_sets_expire_after_the_last_write(redis_db_url: str) -> None:
    """A day by default, else `recent_ttl_s`; each write renews it."""
    key = f"recent:{{{interaction(1, 1).user_id}}}"
    with redis.Redis.from_url(redis_db_url) as client:
        for options, ttl_s in (("", 86_400), ("?recent_ttl_s=500", 500), ("?recent_ttl_s=9000", 9_000)):
            async with opened(redis_db_url + options) as sink:
                await sink.store(chunk_of([interaction(1, 1)]))
            assert ttl_s - 60 < client.ttl(key) <= ttl_s


async def test_replies_gather_before_they_are_read(redis_db_url: str) -> None:
    """A few that come by themselves do not wake the loop one by one."""
    n, wakes = 200_000, 0

    async def commands(replies: Replies) -> AsyncIterator[tuple[memoryview, int]]:
        yield memoryview(n * b"*2\r\n$6\r\nEXISTS\r\n$1\r\nx\r\n"), n

    def heard() -> None:
        nonlocal wakes
        wakes += 1

    async with opened(redis_db_url) as sink:
        assert isinstance(sink, RedisSink)
        batch = sink.prepare(chunk_of(interactions(1)))
        assert batch is not None
        [(node, _)] = sink.nodes.split(batch)
        began = time.monotonic()
        async with connection_of(node) as connection:
            assert (await connection.exchange(commands, 10, heard)).n == n
        assert wakes <= 2 + 2 * (time.monotonic() - began) / GATHER_S


@pytest.mark.parametrize("url", ["redis://", "redis://host/one", "redis://host/0?recent_limit=0", "redis://h?x=1"])
def test_impossible_urls_are_refused(url: str) -> None:
    """Without connecting."""
    with pytest.raises(ConfigurationError):
        sink_at(url)


# --- faults, sink by itself -----------------------------------------------------------------------


async def assert_all_lands(sink: AnySink, url: str) -> None:
    rows = interactions(500)
    assert await sink.store(chunk_of(rows)) == Written(500)
    assert {score for scores in redis_sets(url).values() for score in scores.values()} == {
        float(FIRST_MS + i) for i in range(500)
    }


@pytest.mark.fault(4)
async def test_a_lost_reply_changes_nothing(redis_db_url: str) -> None:
    """What was applied before its reply was cut is written again, with the same result."""
    async with TcpProxy(redis_db_url) as proxy, opened(proxy.url) as sink:
        await proxy.cut_reply(times=3, containing=b"ZADD")
        await assert_all_lands(sink, redis_db_url)
        assert proxy.cuts == 3
        assert sink.retrier.retries >= 3


@pytest.mark.parametrize("request_bytes", [1, 1_000, 40_000, 90_000])
@pytest.mark.fault(5)
async def test_a_connection_cut_in_a_request_changes_nothing(redis_db_url: str, request_bytes: int) -> None:
    """Wherever a pipeline breaks off, all of it is there in the end."""
    async with TcpProxy(redis_db_url) as proxy, opened(proxy.url) as sink:
        await proxy.cut_after(request_bytes, times=2)
        await assert_all_lands(sink, redis_db_url)
        assert proxy.cuts == 2 or request_bytes > 40_000


@pytest.mark.fault(7)
async def test_replies_in_single_bytes_are_read(redis_db_url: str) -> None:
    """However the network slices them."""
    async with TcpProxy(redis_db_url) as proxy, opened(proxy.url) as sink:
        await proxy.slices(7)
        rows = interactions(20)
        assert await sink.store(chunk_of(rows)) == Written(20)


@pytest.mark.fault(6)
async def test_a_half_open_connection_is_given_up(redis_db_url: str) -> None:
    """A server that says nothing for `timeout_s` is asked again over a new connection."""
    async with TcpProxy(redis_db_url) as proxy, opened(f"{proxy.url}?timeout_s=0.5") as sink:
        await proxy.blackhole()
        writing = asyncio.create_task(assert_all_lands(sink, redis_db_url))
        await until(lambda: sink.retrier.retries >= 2)
        await proxy.heal()
        await writing


@pytest.mark.fault(12)
async def test_a_failover_is_survived(tmp_path: Path) -> None:
    """READONLY is waited out: all lands once the server is a primary again."""
    with find_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        async with opened(server.url) as sink:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            writing = asyncio.create_task(sink.store(chunk_of(interactions(50))))
            await until(lambda: sink.retrier.retries >= 3)
            client.execute_command("REPLICAOF", "NO", "ONE")
            assert await writing == Written(50)


@pytest.mark.fault(11)
async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    """Out of memory counts as throttled; the part that was refused lands when there is room."""
    with find_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        async with opened(server.url) as sink:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 100_000)
            rows = [interaction(i, 1) for i in range(3_000)]
            writing = asyncio.create_task(sink.store(chunk_of(rows)))
            await until(lambda: sink.retrier.throttled >= 2)
            assert client.dbsize() < 3_000
            client.config_set("maxmemory", 0)
            assert await writing == Written(3_000)
            assert client.dbsize() == 3_000


@pytest.mark.fault(11)
async def test_a_full_server_is_given_up_after_the_budget(tmp_path: Path) -> None:
    """With the reason in words, and no row in them."""
    with find_redis(tmp_path, "--maxmemory", "1") as server:
        async with opened(f"{server.url}?retry_budget_s=0.3") as sink:
            with pytest.raises(SinkUnavailable, match=r"did not recover within 0.3 s \(.*OOM\)"):
                await sink.store(chunk_of(interactions(10)))


@pytest.mark.fault(8)
async def test_a_restart_is_survived(tmp_path: Path) -> None:
    """A server that was killed and came back with its data goes on being written to."""
    with find_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(server.url) as sink:
            rows = interactions(60)
            await sink.store(chunk_of(rows[:30]))
            server.kill()
            writing = asyncio.create_task(sink.store(chunk_of(rows[30:])))
            await until(lambda: sink.retrier.retries >= 1)
            await asyncio.to_thread(server.start)
            assert await writing == Written(30)
        assert sum(len(members) for members in redis_sets(server.url).values()) == 60


def restricted(server: Redis, *rules: str) -> str:
    """The URL of a user with these rights."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "loader", "on", ">secret", "~*", *rules)
    return urlsplit(server.url)._replace(netloc=f"loader:secret@127.0.0.1:{server.port}").geturl()


@pytest.mark.fault(13)
async def test_least_rights_suffice(tmp_path: Path) -> None:
    """A user without dangerous or administrative commands can load, resume and ask."""
    with find_redis(tmp_path) as server:
        url = restricted(server, "+@all", "-@dangerous", "-@admin")
        path = tmp_path / "pairs.csv"
        path.write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
        for _ in range(2):
            report = await ingest(path, to=[url], state_dir=tmp_path)
            assert report.total("redis").written == 1
        async with opened(url) as sink:
            assert set(await sink.checkpoints.streams()) == {report.streams[0].stream, EPOCH}
            assert all(finding.ok for finding in await check(sink, create=False))


@pytest.mark.fault(13)
def test_the_rights_of_the_documentation_suffice(tmp_path: Path) -> None:
    """A user with just what docs/COMMANDS.md lists can check, run, resume, verify and ask, wherever checkpoints are."""
    text = (ROOT / "docs" / "COMMANDS.md").read_text()
    found = re.search(r"^`((?:\+\S+ ?)+)` on `(~recent:\S+ ~ingest:\S+)`", text, re.MULTILINE)
    assert found
    cli = Cli(tmp_path)
    pairs = write_pairs(tmp_path / "pairs.csv", 500)
    with find_redis(tmp_path) as server:
        url = restricted(server, "resetkeys", "-@all", *found[2].split(), *found[1].split())
        for place in ("sink", "file:checkpoints"):
            options = ("--to", url, "--checkpoint", place)
            for command in (["check"], ["run", pairs.path], ["run", pairs.path], ["verify", pairs.path], ["status"]):
                arguments = options[:2] if command == ["check"] else options
                outcome = cli.here(*command, *arguments)
                assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize("rules", [["+@all", "-zadd"], ["+@all", "-expire"], ["+@all", "-eval"], ["+ping"]])
@pytest.mark.fault(13)
async def test_a_missing_right_is_a_configuration_error(tmp_path: Path, rules: list[str]) -> None:
    """Not retried, no row dead: the run ends and says that the user may not."""
    with find_redis(tmp_path) as server:
        url = restricted(server, *rules)
        path = tmp_path / "pairs.csv"
        path.write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
        with pytest.raises(ConfigurationError, match=r"Redis refuses this user \(NOPERM\)"):
            await ingest(path, to=[url], state_dir=tmp_path)
        assert dead_letters(tmp_path) == []


async def test_a_wrong_password_is_a_configuration_error(tmp_path: Path) -> None:
    """Also when none is given where one is needed."""
    with find_redis(tmp_path, "--requirepass", "secret") as server:
        for userinfo in ("", ":wrong@"):
            with pytest.raises(ConfigurationError, match="check the password"):
                async with opened(f"redis://{userinfo}127.0.0.1:{server.port}/0"):
                    pass


# --- faults, whole runs ---------------------------------------------------------------------------


async def run(path: Path, *to: str, **settings: Any) -> Report:
    return await ingest(path, to=list(to), state_dir=path.parent / "state", **settings)


async def test_a_sink_that_is_down_at_first_is_resumable(redis_db_url: str, tmp_path: Path) -> None:
    """The budget spent, the run ends with SinkUnavailable (exit 69); the next one loads all."""
    pairs = write_pairs(tmp_path / "pairs.csv", 200)
    with pytest.raises(SinkUnavailable) as caught:
        await run(pairs.path, f"redis://{UNREACHABLE}/0?retry_budget_s=0.3")
    assert caught.value.exit_code == 69
    assert str(caught.value).endswith("run the same command again to go on.")
    assert (await run(pairs.path, redis_db_url)).balanced


@pytest.mark.parametrize("heals", [True, False])
async def test_a_sink_that_goes_down_in_a_run(redis_db_url: str, tmp_path: Path, heals: bool) -> None:
    """Back within the budget it costs retries only; else the run exits 69 and the next one goes on."""
    cli = Cli(tmp_path)
    pairs = write_pairs(tmp_path / "pairs.csv", 3_000, blocks=6)
    await run(pairs.path, f"sqlite:///{tmp_path}/clean.db")
    async with TcpProxy(redis_db_url) as proxy:
        await proxy.slow(100_000)
        budget_s = 20 if heals else 0.5
        process = cli.start("run", pairs.path, "--json", "--to", f"{proxy.url}?retry_budget_s={budget_s}")
        await until(lambda: redis_sets(redis_db_url))
        await proxy.refuse()
        await asyncio.sleep(1)
        if heals:
            await proxy.heal()
        outcome = await asyncio.to_thread(finish, process)
    if heals:
        assert outcome.code == 0, outcome.stderr
        assert outcome.report["sources"][0]["sinks"]["redis"]["retries"] > 0
    else:
        assert (outcome.code, "did not recover within 0.5 s" in outcome.message) == (69, True)
    cli.run_with(pairs.path, "--to", redis_db_url)
    assert redis_sets(redis_db_url) == expected_sets(sqlite_rows(tmp_path / "clean.db"))
