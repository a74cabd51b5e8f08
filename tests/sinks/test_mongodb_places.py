"""MongoDB as users meet it: servers that cannot be reached, told by the cause, and collections that others made."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import trustme

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.sinks.base import Finding, Written
from ingest_service.sinks.mongodb import MongoDBSink
from ingest_service.sinks.mongodb.collection import survey
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interactions
from ingest_service.sinks.urls import sink_at
from tests.faults import TlsProxy
from tests.helpers import HEADER, Cli, opened
from tests.mongodb_shim import Forged, MongoShim

BUDGET_S = 60  # the default: what waiting cannot mend must not take it


@pytest.fixture
async def tls(mongodb_db_url: str, authority: trustme.CA) -> AsyncIterator[str]:
    """The URL of a server that takes TLS only, without saying so."""
    async with TlsProxy(mongodb_db_url, authority) as proxy:
        yield _at(proxy, mongodb_db_url)


def _at(proxy: TlsProxy, url: str) -> str:
    return f"mongodb://127.0.0.1:{proxy.port}/{url.rpartition('/')[2]}"


async def refusal(url: str) -> str:
    """Why the sink cannot be opened, told long before the budget is spent."""
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as refused:
        async with opened(url):
            pass
    assert time.monotonic() - began < BUDGET_S / 2
    return str(refused.value)


# --- reaching it ----------------------------------------------------------------------------------


async def test_tls_as_the_driver_takes_it(tls: str, ca_file: Path) -> None:
    """The driver's own options name the authority, and everything goes the usual way."""
    async with opened(f"{tls}&tls=true&tlsCAFile={ca_file}") as sink:
        assert await sink.store(chunk_of(interactions(300))) == Written(300)


@pytest.mark.fault(53)
async def test_a_server_that_wants_tls(tls: str) -> None:
    """It hangs up on everything else; that it would take TLS is found out by asking."""
    assert "it wants TLS; add tls=true" in await refusal(tls)


@pytest.mark.fault(53)
async def test_a_certificate_of_an_unknown_authority(tls: str, tmp_path: Path) -> None:
    """Whether the system's authorities are asked or others."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    for trusted in ("", f"&tlsCAFile={other}"):
        assert "no authority that is trusted here" in await refusal(f"{tls}&tls=true{trusted}")


@pytest.mark.fault(53)
async def test_a_certificate_for_another_name(mongodb_db_url: str, authority: trustme.CA, ca_file: Path) -> None:
    """The right authority is not enough."""
    async with TlsProxy(mongodb_db_url, authority, "elsewhere.example") as proxy:
        url = f"{_at(proxy, mongodb_db_url)}&tls=true&tlsCAFile={ca_file}"
        assert "its certificate is not for the name or address in the URL" in await refusal(url)


@pytest.mark.fault(53)
async def test_a_server_that_wants_a_certificate(mongodb_db_url: str, authority: trustme.CA, ca_file: Path) -> None:
    """Refused without one, and with it all is well."""
    async with _MutualTls(mongodb_db_url, authority) as proxy:
        mine = ca_file.with_name("mine.pem")
        authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(mine)
        url = f"{_at(proxy, mongodb_db_url)}&tls=true&tlsCAFile={ca_file}"
        async with opened(f"{url}&tlsCertificateKeyFile={mine}"):
            pass
        with _refusing_tls(proxy.context) as port:
            refused = await refusal(f"mongodb://127.0.0.1:{port}/db?directConnection=true&tls=true&tlsCAFile={ca_file}")
    assert "it wants a certificate of the client; name that with tlsCertificateKeyFile=" in refused


class _MutualTls(TlsProxy):
    def __init__(self, url: str, authority: trustme.CA) -> None:
        super().__init__(url, authority)
        self.context = self._context
        self.context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(self.context)


@contextlib.contextmanager
def _refusing_tls(context: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that refuses as OpenSSL does, with an alert; asyncio's only hangs up."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed in the end
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.fault(53)
async def test_a_server_without_tls(mongodb_db_url: str) -> None:
    """Asked in plain words, it answers."""
    assert "it speaks no TLS; leave tls=true out" in await refusal(f"{mongodb_db_url}&tls=true")


@pytest.mark.fault(53)
async def test_another_replica_set(mongodb_url: str) -> None:
    """The set that is there is named, and the setting."""
    direct = await refusal(f"{mongodb_url}/db?replicaSet=other&directConnection=true")
    assert "not of 'other'; check replicaSet=" in direct
    assert "is of the replica set 'other'; check replicaSet=" in await refusal(f"{mongodb_url}/db?replicaSet=other")


@pytest.mark.fault(53)
async def test_another_kind_of_server(redis_url: str) -> None:
    """One that waits for something else to be said."""
    address = redis_url.rpartition("@")[2].rpartition("/")[0]
    assert "does not speak MongoDB's protocol" in await refusal(f"mongodb://{address}/db")


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("host", "cause"), [("no-such-host.invalid", "no host of that name is known"), ("127.0.0.1:1", "nobody listens")]
)
async def test_what_may_pass_is_waited_for_and_named(host: str, cause: str) -> None:
    """A name may come up with its container, a server with its host: 69 at the end of the budget, with the cause."""
    with pytest.raises(SinkUnavailable, match=cause):
        async with opened(f"mongodb://{host}/db?retry_budget_s=2"):
            pass


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mongodb://localhost/db?tls=true&tlsCAFile=/nowhere/ca.pem", "cannot be read"),
        ("mongodb://localhost/db?collection=a..b", "'collection'"),
        ("mongodb://localhost/db?checkpoint_collection=.a", "'checkpoint_collection'"),
    ],
)
def test_a_setting_that_cannot_be(url: str, message: str) -> None:
    """A file that is missing, a name that no collection has."""
    with pytest.raises(ConfigurationError, match=message):
        sink_at(url)


async def test_a_name_that_no_database_has(mongodb_url: str) -> None:
    """Refused in a sentence."""
    assert "no databases or collections of such a name" in await refusal(f"{mongodb_url}/a.b?directConnection=true")


async def test_a_wrong_password(mongodb_url: str) -> None:
    """At once, without the server's words."""
    url = mongodb_url.replace("mongodb://", "mongodb://somebody:canary@")
    message = await refusal(f"{url}/db?directConnection=true")
    assert "refuses the user" in message
    assert "canary" not in message


# --- collections of others ------------------------------------------------------------------------


def listed(**collection: Any) -> Forged:
    """What a server says of a collection that the test's own cannot have."""
    one = {"name": "interactions", "type": "collection", "options": {}, "info": {"uuid": b"0123456789abcdef"}}
    cursor = {"id": 0, "ns": "test.$cmd.listCollections", "firstBatch": [one | collection]}
    return Forged({"ok": 1, "cursor": cursor})


async def surveyed(url: str, answer: Forged | None = None) -> list[Finding]:
    def policy(name: str, _: int) -> Forged | None:
        return answer if name == "listCollections" else None

    async with MongoShim(url, policy) as shim:
        sink = MongoDBSink(shim.url)
        try:
            await sink.open()
            return await sink.survey(MICROLENS.shape)
        finally:
            await sink.close()


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    ("collection", "message"),
    [
        ({"type": "timeseries", "options": {"timeseries": {"timeField": "timestamp"}}}, "is a time series"),
        ({"options": {"capped": True, "size": 4096, "max": 1_000}}, "is capped"),
        ({"type": "view", "options": {"viewOn": "others", "pipeline": []}}, "is a view"),
    ],
    ids=["time series", "capped", "view"],
)
async def test_a_collection_that_would_double_or_drop_rows_is_refused(
    mongodb_db_url: str, collection: dict[str, Any], message: str
) -> None:
    """Before a row is sent, with what to do."""
    (finding,) = await surveyed(mongodb_db_url, listed(**collection))
    assert not finding.ok
    assert message in finding.detail
    assert "?collection=" in finding.detail


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validator": {"device": "tv"}}, "has a validator"),
        ({"validator": {"device": "tv"}, "validationAction": "warn"}, None),
        ({"validator": {}}, None),
        ({"collation": {"locale": "en", "strength": 2}}, "by the rules of 'en'"),
        ({"collation": {"locale": "simple"}}, None),
        ({"clusteredIndex": {"unique": True}, "expireAfterSeconds": 60}, "drops its documents 60 s after"),
        ({}, None),
    ],
)
async def test_what_may_refuse_or_drop_rows_is_told(
    mongodb_db_url: str, options: dict[str, Any], message: str | None
) -> None:
    """As a warning: the user may want it so."""
    findings = await surveyed(mongodb_db_url, listed(options=options))
    assert all(finding.ok and finding.warning for finding in findings)
    assert [message in finding.detail for finding in findings if message] == ([True] if message else [])
    assert bool(findings) == bool(message)


@pytest.mark.fault(54)
async def test_indexes_of_others_are_told(mongodb_db_url: str) -> None:
    """A unique one, and one that lets documents expire; of a real collection. One that holds the key is harmless."""
    with pymongo.MongoClient[dict[str, Any]](mongodb_db_url.partition("?")[0], directConnection=True) as client:
        collection = client.get_default_database()["interactions"]
        collection.create_index("session_id", unique=True, name="one_a_session")
        collection.create_index([("user_id", 1), ("event_key", 1)], unique=True)
        collection.create_index("at", expireAfterSeconds=3_600, name="old_ones")
    findings = sorted(await surveyed(mongodb_db_url), key=lambda finding: "unique" not in finding.detail)
    assert [finding.ok and finding.warning for finding in findings] == [True, True]
    assert "the unique index one_a_session" in findings[0].detail
    assert "the index old_ones, which drops documents 3600 s" in findings[1].detail


def test_an_old_servers_collection_has_no_type() -> None:
    """Whoever speaks less of the protocol is not refused for it."""
    assert survey("interactions", {"name": "interactions"}, {}) == []
    assert survey("interactions", {}, {}) == []


async def test_a_new_collection_is_no_reason_for_words(mongodb_db_url: str) -> None:
    """The usual case."""
    assert await surveyed(mongodb_db_url) == []


@pytest.mark.fault(54)
def test_a_run_ends_before_a_row_is_sent(cli: Cli, mongodb_db_url: str) -> None:
    """By the whole command: a capped collection, if the server has such, stays as it was."""
    with pymongo.MongoClient[dict[str, Any]](mongodb_db_url.partition("?")[0], directConnection=True) as client:
        database = client.get_default_database()
        try:
            database.create_collection("interactions", capped=True, size=1 << 20, max=50)
        except pymongo.errors.OperationFailure:
            pytest.skip("NO SERVER: this one has no capped collections")
        if not any(one.get("options", {}).get("capped") for one in database.list_collections()):
            pytest.skip("NO SERVER: this one has no capped collections")
        pairs = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
        outcome = cli.here("run", pairs, "--to", mongodb_db_url)
        assert (outcome.code, "is capped" in outcome.message) == (78, True)
        assert database["interactions"].count_documents({}) == 0
