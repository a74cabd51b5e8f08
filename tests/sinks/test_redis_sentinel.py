"""Redis behind Sentinels: a failover in the middle of a load loses nothing."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.sinks.testing.rows import chunk_of, interactions
from tests.helpers import Cli, expected_sets, finish, opened, redis_sets, sqlite_rows, until, write_pairs
from tests.servers import CANARY_PASSWORD, Redis, find_redis, free_port

_DOWN_AFTER_MS = 700


class Watcher(Redis):
    """A Sentinel that needs no other's vote. It knows the service `movies`."""

    def __init__(self, folder: Path, primary: Redis) -> None:
        self._primary = primary
        super().__init__(folder)

    def command(self) -> list[str]:
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor movies 127.0.0.1 {self._primary.port} 1\n"
            f"sentinel down-after-milliseconds movies {_DOWN_AFTER_MS}\n"
            "sentinel failover-timeout movies 3000\n"
        )
        return [super().command()[0], str(self.folder / "sentinel.conf"), "--sentinel"]

    def ask(self, *command: str) -> object:
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*command)


class Group:
    """A primary, its replica, and who watches them."""

    def __init__(self, folder: Path) -> None:
        places = [folder / name for name in ("one", "two", "watcher")]
        for place in places:
            place.mkdir()
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.primary, self.replica = (find_redis(place, *quick) for place in places[:2])
        self.watcher = Watcher(places[2], self.primary)

    @property
    def url(self) -> str:
        """Of two Sentinels the first is nowhere."""
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{self.watcher.port}"
        return f"redis+sentinel://default:{CANARY_PASSWORD}@{hosts}/movies/0"

    def is_ready(self) -> bool:
        """Whether the replica has all and the Sentinel knows it."""
        with redis.Redis.from_url(self.replica.url) as client:
            linked = client.info("replication").get("master_link_status") == "up"
        known = self.watcher.ask("SENTINEL", "REPLICAS", "movies")
        return linked and isinstance(known, list) and len(known) == 1


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    found = Group(tmp_path)
    with ExitStack() as running:
        for server in (found.primary, found.replica):
            running.enter_context(server)
        with redis.Redis.from_url(found.replica.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", found.primary.port)
        running.enter_context(found.watcher)
        yield found


def n_rows(server: Redis) -> int:
    return sum(map(len, redis_sets(server.url).values()))


@pytest.mark.fault(40)
@pytest.mark.parametrize("how", ["killed", "handed over"])
async def test_a_failover_in_a_load_loses_nothing(group: Group, cli: Cli, how: str) -> None:
    """Rows that only the old primary had when it was killed are written again; READONLY of one handed over is left."""
    pairs = write_pairs(cli.folder / "pairs.csv", 6_000, blocks=4)
    assert (await asyncio.to_thread(cli.run, "run", pairs.path, "--to", "sqlite:///clean.db")).code == 0
    await until(group.is_ready)
    process = cli.start("run", pairs.path, "--json", "--to", f"{group.url}?rate=1500")
    await until(lambda: n_rows(group.primary) > 500)
    if how == "killed":
        os.kill(group.replica.pid, signal.SIGSTOP)  # what comes now is the primary's alone
        so_far = n_rows(group.primary)
        await until(lambda: n_rows(group.primary) > so_far + 500)
        group.primary.kill()
        os.kill(group.replica.pid, signal.SIGCONT)
    else:
        group.watcher.ask("SENTINEL", "FAILOVER", "movies")
    outcome = await asyncio.to_thread(finish, process)
    assert outcome.code == 0, outcome.stderr
    assert redis_sets(group.replica.url) == expected_sets(sqlite_rows(cli.folder / "clean.db"))
    assert outcome.report["sources"][0]["sinks"]["redis"]["retries"] > 0
    verified = await asyncio.to_thread(cli.run, "verify", pairs.path, "--to", group.url)
    assert verified.code == 0, verified.stdout


@pytest.mark.fault(40)
async def test_a_chunk_counts_once_a_replica_has_it(group: Group) -> None:
    """Without one it is no success if the URL says so; else once no Sentinel knows one that could take over."""
    await until(group.is_ready)
    async with opened(f"{group.url}?retry_budget_s=1&replicas=1") as sink:
        findings = await sink.survey(chunk_of([]).columns)
        assert not any(finding.warning for finding in findings)
        group.replica.kill()
        with pytest.raises(SinkUnavailable, match="0 of the 1 replicas"):
            await sink.store(chunk_of(interactions(20)))
        with redis.Redis.from_url(group.primary.url) as client:
            await until(lambda: client.info("replication")["connected_slaves"] == 0)
        assert any("0 are connected" in finding.detail for finding in await sink.survey(chunk_of([]).columns))
    async with opened(group.url) as sink:
        assert (await sink.store(chunk_of(interactions(20)))).written == 20


@pytest.mark.fault(39)
async def test_a_sentinel_by_a_plain_url_is_told(group: Group) -> None:
    """Whether or not the URL names a database; and a service that Sentinels do not know is told with those they do."""
    at = f"127.0.0.1:{group.watcher.port}"
    for database in ("", "/0", "/3"):
        with pytest.raises(ConfigurationError, match=r"Sentinel.*redis\+sentinel://"):
            async with opened(f"redis://{at}{database}"):
                pass
    with pytest.raises(ConfigurationError, match="they know: movies"):
        async with opened(f"redis+sentinel://{at}/music/0"):
            pass
    with pytest.raises(ConfigurationError, match="replica"):
        await until(group.is_ready)
        async with opened(group.replica.url):
            pass
