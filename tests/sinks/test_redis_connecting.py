"""Redis: what cannot pass by waiting is told at once, by what it is; and the other ways to be reached."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import trustme

from ingest_service.errors import ConfigurationError
from ingest_service.sinks.base import Written
from ingest_service.sinks.redis.address import with_database
from ingest_service.sinks.testing.rows import chunk_of, interactions
from ingest_service.sinks.urls import sink_at
from tests.helpers import Cli, check, opened, redis_sets, write_pairs
from tests.servers import CANARY_PASSWORD, Redis, find_redis, free_port

AT_ONCE_S = 20.0  # of a budget of 60, on a machine with much else to do


@dataclass(frozen=True)
class Tls:
    """A Redis that speaks TLS only, and the files of its authority."""

    server: Redis
    folder: Path

    def url(self, host: str = "127.0.0.1", **options: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"rediss://default:{CANARY_PASSWORD}@{host}:{self.server.port}/0?{query}"

    def file(self, name: str) -> str:
        return str(self.folder / name)


def tls_files(folder: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other_ca.pem")
    for name, by in (("server", authority), ("client", authority), ("stranger", other)):
        issued = by.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name}_key.pem")
    (folder / "garbage.pem").write_text("no certificate")


@pytest.fixture(scope="module", params=["no", "yes"], ids=["server", "both"])
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    """One that asks clients for no certificate, and one that does."""
    folder = tmp_path_factory.mktemp("tls")
    tls_files(folder)
    files = ["--tls-cert-file", "server.pem", "--tls-key-file", "server_key.pem", "--tls-ca-cert-file", "ca.pem"]
    port = str(free_port())
    with find_redis(folder, "--tls-port", port, "--tls-auth-clients", request.param, *files) as server:
        server.plain_port, server.port = server.port, int(port)  # type: ignore[attr-defined]
        yield Tls(server, folder)
        server.port = server.plain_port  # type: ignore[attr-defined]


@asynccontextmanager
async def refused_at_once(url: str, *words: str) -> AsyncIterator[None]:
    """Opening this is a ConfigurationError with these words, long before the budget of a minute is spent."""
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as caught:
        async with opened(url):
            pass
    assert time.monotonic() - began < AT_ONCE_S
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert CANARY_PASSWORD not in str(caught.value)
    yield


async def refused(url: str, *words: str) -> None:
    async with refused_at_once(url, *words):
        pass


@pytest.mark.fault(39)
async def test_certificates_are_told_by_what_is_wrong_with_them(tls: Tls, request: pytest.FixtureRequest) -> None:
    """Unknown authority, another name, no certificate of ours where one is wanted, files that are none."""
    ca = tls.file("ca.pem")
    await refused(tls.url(), "authority that is not trusted", "?ca_file=")
    await refused(tls.url(ca_file=tls.file("other_ca.pem")), "authority that is not trusted")
    await refused(tls.url("localhost", ca_file=ca), "another host than the URL's")
    await refused(tls.url(ca_file=tls.file("nowhere.pem")), "ca_file cannot be read (No such file or directory)")
    await refused(tls.url(ca_file=str(tls.folder)), "ca_file cannot be read (Is a directory)")
    await refused(tls.url(ca_file=tls.file("garbage.pem")), "ca_file has no certificates")
    client, key = tls.file("client.pem"), tls.file("client_key.pem")
    await refused(tls.url(ca_file=ca, cert_file=tls.file("nowhere.pem")), "cert_file cannot be read")
    await refused(tls.url(ca_file=ca, cert_file=client, key_file=tls.file("server_key.pem")), "own, unencrypted key")
    await refused(tls.url(ca_file=ca, cert_file=client), "own, unencrypted key")
    await refused(tls.url(ca_file=ca, key_file=key), "needs 'cert_file'")
    if "both" in request.node.name:
        await refused(tls.url(ca_file=ca), "wants a client certificate", "?cert_file=", "?key_file=")
        stranger = {"cert_file": tls.file("stranger.pem"), "key_file": tls.file("stranger_key.pem")}
        await refused(tls.url(ca_file=ca, **stranger), "does not trust the client certificate")
    async with opened(tls.url(ca_file=ca, cert_file=client, key_file=key)) as sink:
        assert await sink.store(chunk_of(interactions(300))) == Written(300)


@pytest.mark.fault(39)
async def test_tls_on_one_side_only_is_told(tls: Tls, tmp_path: Path) -> None:
    """Without TLS to a port that speaks it, and the other way round: both would look like a silent server."""
    for userinfo in ("", f"default:{CANARY_PASSWORD}@"):
        await refused(f"redis://{userinfo}127.0.0.1:{tls.server.port}/0", "speaks TLS", "rediss://")
        plain_port = tls.server.plain_port  # type: ignore[attr-defined]
        await refused(f"rediss://{userinfo}127.0.0.1:{plain_port}/0", "does not speak TLS", "redis://")
    await refused(f"redis://127.0.0.1:{tls.server.port}/0?ca_file=x", "'ca_file' is for TLS")


@pytest.mark.fault(39)
async def test_what_is_no_redis_is_told() -> None:
    """An HTTP server answers, but not as Redis does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await refused(f"redis://127.0.0.1:{port}/0", "no Redis")
        await refused(f"rediss://127.0.0.1:{port}/0", "does not speak TLS")


@pytest.mark.fault(39)
async def test_a_user_that_is_refused_is_told_why(tmp_path: Path) -> None:
    """No password, a wrong one, one too many, a number of a database that is not there."""
    with find_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        at = f"127.0.0.1:{server.port}"
        await refused(f"redis://{at}/99", "no database of that number")
        client.config_set("requirepass", "secret")
        await refused(f"redis://{at}/0", "asks for a password, and the URL has none", "NOAUTH")
        await refused(f"redis://:wrong@{at}/0", "user name or the password is wrong", "WRONGPASS")
        await refused(f"redis://nobody:{CANARY_PASSWORD}@{at}/0", "user name or the password is wrong")
        client.config_set("requirepass", "")
        await refused(f"redis://:{CANARY_PASSWORD}@{at}/0", "asks for none")


@pytest.mark.fault(39)
async def test_a_command_that_is_refused_is_named(tmp_path: Path) -> None:
    """By the ACL, or since it was renamed."""
    renamed = ("--rename-command", "CLUSTER", "", "--rename-command", "GET", "")
    with find_redis(tmp_path, *renamed) as server, redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "loader", "on", ">pw", "~*", "+@all", "-eval")
        async with opened(f"redis://loader:pw@127.0.0.1:{server.port}/0") as sink:
            assert await sink.store(chunk_of(interactions(30))) == Written(30)
            with pytest.raises(ConfigurationError, match=r"\(NOPERM\): it may not run EVAL"):
                await sink.checkpoints.swap("stream", None, "text")
            with pytest.raises(ConfigurationError, match="does not know the command GET"):
                await sink.checkpoints.read("stream")


@pytest.mark.fault(39)
@pytest.mark.parametrize("hidden", [(), ("--rename-command", "INFO", "")])
async def test_a_server_without_cluster_is_a_plain_one(tmp_path: Path, hidden: tuple[str, ...]) -> None:
    """Renamed, as managed servers do, or forbidden: a whole run goes through."""
    with find_redis(tmp_path, "--rename-command", "CLUSTER", "", *hidden) as server:
        async with opened(server.url) as sink:
            assert await sink.store(chunk_of(interactions(100))) == Written(100)
            assert all(finding.ok for finding in await check(sink, create=False))


@pytest.mark.fault(39)
async def test_a_replica_names_its_primary(tmp_path: Path) -> None:
    """It would answer READONLY to each row."""
    with find_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await refused(server.url, "is a replica", "127.0.0.1:1")


# --- unix sockets ---------------------------------------------------------------------------------


def test_a_socket_is_as_good_as_a_port(tmp_path: Path, cli: Cli) -> None:
    """Run, verify and status over a path; the database stands in the query."""
    pairs = write_pairs(cli.folder / "pairs.csv", 2_000)
    with find_redis(tmp_path, "--unixsocket", "redis.sock") as server:
        url = f"redis+unix://default:{CANARY_PASSWORD}@{tmp_path}/redis.sock?db=2"
        for command in ("check", "run", "run", "verify", "status"):
            arguments = [] if command == "check" else [pairs.path]
            outcome = cli.here(command, *arguments, "--to", url)
            assert outcome.code == 0, outcome.stderr
        outcome = cli.run("crash-test", pairs.path, "--cycles", "1", "--to", url)
        assert outcome.code == 0, outcome.stderr
        assert redis_sets(server.url.removesuffix("/0") + "/2")
        assert not redis_sets(server.url)


@pytest.mark.parametrize(
    "url",
    ["redis+unix://host/redis.sock", "redis+unix:///", "redis+sentinel://host/", "redis://h/1?db=2", "redis://a,b/0"],
)
def test_impossible_places_are_refused(url: str) -> None:
    """Without connecting."""
    with pytest.raises(ConfigurationError):
        sink_at(url)


async def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    """It may come yet, so it is waited for; the reason is in the message."""
    url = f"redis+unix://{tmp_path}/redis.sock?retry_budget_s=0.3"
    with pytest.raises(Exception, match="No such file or directory"):
        async with opened(url):
            pass


def test_hosts_of_a_url_keep_their_words() -> None:
    """A name in brackets, a port that is left out."""
    sink = sink_at("redis+sentinel://user:p%40ss@[::1]:1234,two/service/3")
    place = sink.nodes._place  # type: ignore[attr-defined]
    assert (place.addresses, place.service, place.database) == ((("::1", 1234), ("two", 26379)), "service", 3)


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("redis://u:p@host:1/0?prefix=a&db=0", "redis://u:p@host:1/7?prefix=a"),
        ("redis+sentinel://a,b:2/service?replicas=0", "redis+sentinel://a,b:2/service/7?replicas=0"),
        ("redis+unix://:p@/run/redis.sock?db=1&name=x", "redis+unix://:p@/run/redis.sock?name=x&db=7"),
    ],
)
def test_another_database_of_the_same_place(url: str, other: str) -> None:
    """For trials, whichever way the place is named."""
    assert with_database(url, 7) == other
