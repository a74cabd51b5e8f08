"""Redis Cluster: three masters behind one URL, on the same path as a single server."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from ingest_service.errors import ConfigurationError
from ingest_service.sinks.base import Written
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from ingest_service.sinks.urls import sink_at
from tests.helpers import HEADER, Cli, check, expected_sets, redis_sets, sqlite_rows, until, write_pairs
from tests.servers import CANARY_PASSWORD, Redis, ServerMissingError, find_redis, free_port

SLOTS = 16_384


class Cluster:
    """Three masters with a third of the slots each."""

    def __init__(self, folder: Path) -> None:
        self.nodes: list[Redis] = []
        for number in range(3):
            own = folder / str(number)
            own.mkdir()
            options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000"]
            self.nodes.append(find_redis(own, *options))

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def join(self) -> None:
        edges = [SLOTS * number // 3 for number in range(4)]
        for node, first, last in zip(self.nodes, edges, edges[1:], strict=False):
            self.ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            bus = int(self.ask(node, "CONFIG", "GET", "cluster-port")["cluster-port"])
            self.ask(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        while not self.is_whole():
            time.sleep(0.05)

    def is_whole(self) -> bool:
        try:
            infos = [self.ask(node, "CLUSTER INFO") for node in self.nodes]
        except RedisError:
            return False
        return all(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3" for info in infos)

    def ask(self, node: Redis, *command: str | int) -> Any:
        with redis.Redis.from_url(node.url, decode_responses=True) as client:
            return client.execute_command(*command)

    def give(self, slot: int, to: Redis) -> None:
        """Hand over a slot that holds no key.

        Imported, not only set, it comes with a new epoch: else an owner's late claim could take it back for some nodes.
        """
        owner = self.ask(to, "CLUSTER", "MYID")
        others = [node for node in self.nodes if node is not to]
        before = next((node for node in others if slot in self.slots_of(node)), None)
        if before is None:
            return
        self.ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ask(before, "CLUSTER", "MYID"))
        for node in (to, *others):
            self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", owner)

    def slots_of(self, node: Redis) -> set[int]:
        """The slots that a node says are its own."""
        ranges = self.ask(node, "CLUSTER SLOTS")
        own = [range(first, last + 1) for first, last, (_, port, *_), *_ in ranges if port == node.port]
        return {slot for slots in own for slot in slots}

    def sets(self) -> dict[str, dict[str, float]]:
        return {key: members for node in self.nodes for key, members in redis_sets(node.url).items()}

    def flush(self) -> None:
        for node in self.nodes:
            self.ask(node, "FLUSHALL")


@pytest.fixture(scope="module")
def running(clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    except ServerMissingError as error:
        pytest.fail(f"NO SERVER: {error}")
    with ExitStack() as stack:
        for node in cluster.nodes:
            stack.enter_context(node)
        cluster.join()
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    running.flush()
    return running


def test_slots_are_those_that_the_server_computes(cluster: Cluster) -> None:
    """With braces, without, with empty ones."""
    for key in ("plain", "recent:{tag}", "{}empty", "a{b}{c}", "a{b", "ingest:checkpoint:{pairs.csv-1a2b}"):
        assert key_slot(key.encode()) == cluster.ask(cluster.nodes[0], "CLUSTER", "KEYSLOT", key)


def test_a_file_goes_to_all_nodes(cluster: Cluster, cli: Cli) -> None:
    """The sets and the checkpoint are those of a single server, spread over the masters; a second run adds nothing."""
    write_pairs(cli.folder / "pairs.csv", 4000)
    for _ in range(2):
        assert cli.here("run", "pairs.csv", "--to", cluster.url, "--to", "sqlite:///model.db").code == 0
        assert cluster.sets() == expected_sets(sqlite_rows(cli.folder / "model.db"))
    assert all(redis_sets(node.url) for node in cluster.nodes)
    status = cli.here("status", "--to", cluster.url)
    assert "pairs.csv" in status.stdout


def test_lists_are_replaced_in_a_cluster(cluster: Cluster, cli: Cli) -> None:
    """Of `covisited`: new ones are made at the node that has the old ones, whatever braces the key has."""
    file = cli.file("pair.csv", f"{HEADER}\n1,2,{FIRST_MS}\n1,3,{FIRST_MS}\n")
    for key in ("rec:covisited", "rec:{of}:covisited"):
        for _ in range(2):
            outcome = cli.here("covisited", file, "--to", cluster.url, "--as-of=latest", f"--key={key}")
            assert outcome.code == 0, outcome.stderr
    keys = [
        key for node in cluster.nodes for key in cluster.ask(node, "KEYS", "rec:*") + cluster.ask(node, "KEYS", "{*")
    ]
    assert sorted(set(keys)) == ["rec:covisited", "rec:{of}:covisited"]


async def test_a_user_is_read_from_the_node_that_has_it(cluster: Cluster) -> None:
    """`recent` and `check` ask the right master."""
    rows = interactions(60, users=20)
    sink = sink_at(cluster.url)
    try:
        await sink.open()
        assert await sink.store(chunk_of(rows)) == Written(60)
        for row in rows[-20:]:
            assert row in await sink.recent(row.user_id, 5)  # type: ignore[attr-defined]
        assert all(finding.ok for finding in await check(sink, create=False))
    finally:
        await sink.close()


async def test_slots_that_moved_are_followed(cluster: Cluster) -> None:
    """Nodes that answer MOVED make the sink look again; every row lands, once."""
    rows = [interaction(user, 1, FIRST_MS + user) for user in range(300)]
    sink = sink_at(cluster.url)
    moved = [key_slot(f"recent:{{{row.user_id}}}".encode()) for row in rows[:150]]
    try:
        await sink.open()
        for slot in moved:
            cluster.give(slot, cluster.nodes[2])
        assert await sink.store(chunk_of(rows)) == Written(300)
        assert sum(map(len, cluster.sets().values())) == 300
        assert sink.retrier.retries > 0
    finally:
        await sink.close()


async def test_a_node_that_is_down_holds_up_its_part_only(cluster: Cluster) -> None:
    """What the others hold is stored at once, the rest when the node is back."""
    rows = [interaction(user, 1, FIRST_MS + user) for user in range(300)]
    sink = sink_at(f"{cluster.url}?retry_budget_s=60")
    node = cluster.nodes[1]
    try:
        await sink.open()
        node.kill()
        node.start()
        await until(cluster.is_whole)
        assert await sink.store(chunk_of(rows)) == Written(300)
        assert sum(map(len, cluster.sets().values())) == 300
    finally:
        await sink.close()


async def test_a_cluster_has_one_database(cluster: Cluster) -> None:
    """Another number in the URL is refused in words."""
    sink = sink_at(cluster.url.removesuffix("/0") + "/3")
    try:
        with pytest.raises(ConfigurationError, match="database"):
            await sink.open()
    finally:
        await sink.close()


@pytest.mark.parametrize("denied", [[], ["-info"]])
async def test_a_user_without_the_right_to_ask_is_told_so(cluster: Cluster, denied: list[str]) -> None:
    """At once if the server says that it is a cluster; else it looks like one server until it says MOVED."""
    for node in cluster.nodes:
        cluster.ask(node, "ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "-cluster", *denied)
    sink = sink_at(cluster.url.replace(f"default:{CANARY_PASSWORD}@", "narrow:pw@"))
    try:
        if not denied:
            with pytest.raises(ConfigurationError, match="CLUSTER SLOTS"):
                await sink.open()
            return
        await sink.open()
        with pytest.raises(ConfigurationError, match="CLUSTER SLOTS"):
            await sink.store(chunk_of(interactions(200, users=100)))
    finally:
        await sink.close()


def test_a_header_alone_is_complete(cluster: Cluster, cli: Cli) -> None:
    """No rows, no error."""
    (cli.folder / "empty.csv").write_text(f"{HEADER}\n")
    assert cli.here("run", "empty.csv", "--to", cluster.url).code == 0
