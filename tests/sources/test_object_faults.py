"""Object stores that cannot be read: told by the cause, and never taken for an empty object."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from ingest_service.errors import ConfigurationError, LocalIOError
from ingest_service.sinks.testing.rows import FIRST_MS
from ingest_service.sources import object_file
from ingest_service.sources.objects import ObjectSource
from tests.buckets import ObjectServer
from tests.faults import TlsProxy
from tests.helpers import HEADER, UNREACHABLE, Cli

FILE = f"{HEADER}\n1,2,{FIRST_MS}\n".encode()


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer({"/data/x.csv": FILE}) as server:
        yield server


@pytest.fixture
async def tls(server: ObjectServer, authority: trustme.CA) -> AsyncIterator[int]:
    """The port of the same server behind TLS."""
    async with TlsProxy(server.url, authority) as proxy:
        yield proxy.port


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is tried again as often as elsewhere, but not here."""
    monkeypatch.setattr(object_file, "_TRIES", 1)


async def outcome(cli: Cli, url: str, **environment: str) -> tuple[int, str]:
    """How a run that reads it ends."""
    ended = await asyncio.to_thread(cli.run, "run", url, **environment)
    return ended.code, ended.message if ended.code else ""


@pytest.mark.fault(53)
async def test_a_certificate_of_an_unknown_authority(cli: Cli, tls: int, authority: trustme.CA) -> None:
    """Told at once, and with the authority named all is well."""
    url = f"https://127.0.0.1:{tls}/data/x.csv"
    code, message = await outcome(cli, url)
    assert (code, "name that with SSL_CERT_FILE" in message) == (78, True)
    trusted = Path(cli.folder / "ca.pem")
    authority.cert_pem.write_to_path(trusted)
    assert await outcome(cli, url, SSL_CERT_FILE=str(trusted)) == (0, "")
    assert len(cli.rows) == 1


@pytest.mark.fault(53)
async def test_a_certificate_for_another_name(cli: Cli, server: ObjectServer, authority: trustme.CA) -> None:
    """The right authority is not enough."""
    trusted = Path(cli.folder / "ca.pem")
    authority.cert_pem.write_to_path(trusted)
    async with TlsProxy(server.url, authority, "elsewhere.example") as proxy:
        url = f"https://127.0.0.1:{proxy.port}/data/x.csv"
        code, message = await outcome(cli, url, SSL_CERT_FILE=str(trusted))
    assert (code, "its certificate is for another name" in message) == (78, True)


@pytest.mark.fault(53)
def test_a_server_without_tls(server: ObjectServer) -> None:
    """Which an address without would reach."""
    with pytest.raises(ConfigurationError, match="speaks no TLS"):
        ObjectSource(f"{server.url.replace('http:', 'https:')}/data/x.csv").open()


@pytest.mark.fault(53)
def test_no_credentials(monkeypatch: pytest.MonkeyPatch, server: ObjectServer) -> None:
    """The last resort, a cloud's own address, is not there outside of it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://{UNREACHABLE}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    with pytest.raises(ConfigurationError, match="no credentials"):
        ObjectSource("s3://bucket/data/x.csv").open()


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("address", "cause"),
    [("http://no-such-host.invalid", "no host of that name is known"), (f"http://{UNREACHABLE}", "nobody listens")],
)
def test_what_may_pass_is_named(address: str, cause: str) -> None:
    """Exit 74 with the cause, and the advice to run again."""
    with pytest.raises(LocalIOError, match=cause):
        ObjectSource(f"{address}/data/x.csv").open()


@pytest.mark.fault(53)
async def test_a_server_that_wants_tls(tls: int) -> None:
    """It hangs up, which a restart would look like as well, so it is asked what it speaks."""
    source = ObjectSource(f"http://127.0.0.1:{tls}/data/x.csv")
    with pytest.raises(ConfigurationError, match="it wants TLS: https://"):
        await asyncio.to_thread(source.open)


def test_a_number_in_an_address_is_no_status() -> None:
    """416 is how a store answers for an empty object; a name that has it, and an error, are not that."""
    with pytest.raises(LocalIOError):
        ObjectSource(f"http://{UNREACHABLE}/data-416/416.csv").open()


def test_an_empty_object_is_empty(server: ObjectServer) -> None:
    """It has no first byte."""
    server.objects["/data/empty.csv"] = b""
    with object_file.ObjectFile(ObjectSource(f"{server.url}/data/empty.csv")._address) as file:
        assert file.read() == b""
