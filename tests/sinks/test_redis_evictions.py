"""Redis that drops keys for want of memory: never taken for a store that keeps its rows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from ingest_service.errors import RowsGone
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction
from tests.helpers import HEADER, Cli, opened
from tests.servers import Redis, find_redis

ROWS = 60_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    with find_redis(tmp_path) as running:
        yield running


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A user a row, so that each row is a key of its own."""
    path = tmp_path / "pairs.csv"
    path.write_text(HEADER + "\n" + "".join(f"{i},1,{FIRST_MS + i}\n" for i in range(ROWS)))
    return path


def confine(server: Redis, policy: str, room: int = 15_000_000) -> None:
    """Let it have so many bytes more than it takes now."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + room)


def evict(server: Redis) -> None:
    """Let others' keys drive some out."""
    confine(server, "volatile-lru", 500_000)
    with redis.Redis.from_url(server.url) as client:
        while not client.info("stats")["evicted_keys"]:
            client.set(f"other:{client.incr('others')}", "x" * 1000, ex=1000)


def stats(server: Redis) -> dict[str, Any]:
    with redis.Redis.from_url(server.url) as client:
        return dict(client.info())


@pytest.mark.fault(37)
@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "allkeys-lru", "allkeys-random"])
def test_evicted_rows_are_no_success(server: Redis, pairs: Path, cli: Cli, policy: str) -> None:
    """The run ends with 78 and says why, and so does each later one; with room and --restart all is well."""
    confine(server, policy)
    outcome = cli.here("run", pairs, "--to", server.url)
    assert outcome.code == 78, outcome.stderr
    assert "keys were evicted while this run wrote" in outcome.message
    assert policy in outcome.message
    assert "?evict=allow" in outcome.message
    again = cli.here("run", pairs, "--to", server.url)
    assert again.code == 78
    assert "--restart" in again.message
    confine(server, "noeviction", 1_000_000_000)
    assert cli.here("run", pairs, "--to", server.url).code in ((0, 78) if policy.startswith("allkeys") else (78,))
    assert cli.load(pairs, "--to", server.url, "--restart").counts("redis")["written"] == ROWS
    assert cli.here("verify", pairs, "--to", server.url).code == 0


@pytest.mark.fault(37)
@pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-lru"])
@pytest.mark.parametrize("place", ["sink", "file:checkpoints"])
def test_a_cache_may_evict(server: Redis, pairs: Path, cli: Cli, policy: str, place: str) -> None:
    """With ?evict=allow a run goes on to its end and counts the keys that went."""
    confine(server, policy)
    for _ in range(2):
        before = stats(server)["evicted_keys"]
        report = cli.load(pairs, "--to", f"{server.url}?evict=allow", "--checkpoint", place, "--restart").report
        found = report["sources"][0]["sinks"]["redis"]
        assert (found["written"], found["complete"]) == (ROWS, True)
        gone = stats(server)["evicted_keys"] - before
        assert gone > 0
        (warning,) = found["warnings"]
        told = re.match(r"memory: ([\d,]+) keys were evicted while this run wrote", warning)
        assert told
        assert gone / 2 < int(told[1].replace(",", "")) <= gone  # what came after the last look is not counted


@pytest.mark.fault(37)
@pytest.mark.parametrize("place", ["sink", "file:checkpoints"])
def test_rows_that_were_evicted_between_runs_are_missed(server: Redis, pairs: Path, cli: Cli, place: str) -> None:
    """Whatever stood in a checkpoint, its rows may be gone: a run that goes on from it is refused."""
    options = ("--to", server.url, "--checkpoint", place)
    assert cli.here("run", pairs, "1000", *options).code == 0
    evict(server)
    confine(server, "noeviction", 1_000_000_000)
    for _ in range(2):
        outcome = cli.here("run", pairs, *options)
        assert outcome.code == 78
        assert "rows are gone" in outcome.message
    assert cli.here("run", pairs, *options, "--restart").code == 0
    assert cli.here("run", pairs, *options).code == 0


def test_what_a_full_server_will_do_is_told_before(server: Redis, pairs: Path, cli: Cli) -> None:
    """`check` and `run` warn of a policy that evicts, and of none that does not; for a cache it is a remark."""
    (pairs.parent / "few.csv").write_text(f"{HEADER}\n1,1,{FIRST_MS}\n")
    for policy, room, options, verdict in (
        ("volatile-lru", 50_000_000, "", "WARN"),
        ("allkeys-lfu", 50_000_000, "", "WARN"),
        ("volatile-lru", 50_000_000, "?evict=allow", "ok"),
        ("noeviction", 50_000_000, "", "ok"),
    ):
        confine(server, policy, room)
        url = server.url + options
        checked = cli.here("check", "--to", url)
        (line,) = [line for line in checked.stdout.splitlines() if "memory" in line]
        assert (checked.code, line.split()[0]) == (0, verdict), line
        assert (policy in line) == (policy != "noeviction")
        report = cli.load("few.csv", "--to", url, "--restart").report
        warnings = report["sources"][0]["sinks"]["redis"]["warnings"]
        assert len(warnings) == (verdict == "WARN"), warnings
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert "no key is evicted" in cli.here("check", "--to", server.url).stdout


async def test_a_server_that_says_nothing_of_its_memory(server: Redis) -> None:
    """Without the right to INFO a user is told that evictions are not noticed; nothing is refused."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "loader", "on", ">secret", "~*", "+@all", "-info")
    async with opened(f"redis://loader:secret@127.0.0.1:{server.port}/0") as sink:
        (finding,) = await sink.survey(chunk_of([]).columns)
        assert (finding.ok, finding.warning) == (True, True)
        assert "INFO" in finding.detail
        await sink.store(chunk_of([interaction(1, 1)]))
        await sink.assure()


async def test_a_restart_in_a_run_hides_no_eviction(tmp_path: Path) -> None:
    """The server's counter begins again with it; what was evicted before and after counts."""
    with find_redis(tmp_path, "--appendonly", "yes") as server:
        async with opened(server.url) as sink:
            await sink.assure()
            server.stop()
            server.start()
            evict(server)
            with pytest.raises(RowsGone, match="keys were evicted"):
                await sink.assure()


def test_verify_tells_evicted_from_expired(server: Redis, pairs: Path, cli: Cli) -> None:
    """Users without rows may have expired; where keys were evicted, the note says so."""
    assert cli.here("run", pairs, "2000", "--to", server.url).code == 0
    with redis.Redis.from_url(server.url) as client:
        client.delete(f"recent:{{{interaction(1, 1).user_id}}}")
    found = cli.here("verify", pairs, "--to", server.url)
    assert found.code == 1
    assert "keys were evicted" not in found.stdout
    evict(server)
    found = cli.here("verify", pairs, "--to", server.url)
    assert "keys were evicted since the server started (maxmemory" in found.stdout
