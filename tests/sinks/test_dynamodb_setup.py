"""DynamoDB as people set it up: proxies, certificates, credentials, names, indexes, time to live."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from ingest_service.datasets import dataset_named
from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.sinks.base import Written
from ingest_service.sinks.dynamodb.sink import DynamoDBSink
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interactions
from ingest_service.sinks.urls import sink_at
from tests.dynamo_shim import DynamoShim, Refusal
from tests.faults import TlsProxy
from tests.helpers import HEADER, UNREACHABLE, Cli, create_tables, dynamodb_at, dynamodb_items, opened

VALIDATION = "com.amazon.coral.validate#ValidationException"
MICROLENS = dataset_named("microlens")


# --- proxies and endpoints ------------------------------------------------------------------------


class ConnectProxy:
    """An HTTP proxy that tunnels (CONNECT) to one address, whatever is asked for, for those who have the login."""

    def __init__(self, port: int, login: str = "") -> None:
        self._port = port
        self._login = base64.b64encode(login.encode()).decode() if login else ""
        self.asked: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "ConnectProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head.split()[1])
            if self._login and f"Basic {self._login}" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
                return
            server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(_pump(reader, to_server), _pump(server, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
def bundled(authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A private authority, whose certificate AWS_CA_BUNDLE names."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_file))
    return authority


@pytest.mark.fault(43)
async def test_a_run_goes_through_the_proxy(
    dynamodb_url: str, table: str, bundled: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HTTPS_PROXY every request takes it, those with rows too, with its login; and the user is told so."""
    async with (
        TlsProxy(dynamodb_url, bundled, "dynamodb.example") as tls,
        ConnectProxy(tls.port, "user:pass word") as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass%20word@{proxy.address}")
        url = dynamodb_at("https://dynamodb.example", table)
        await create_tables(url)
        async with opened(url) as sink:
            assert await sink.store(chunk_of(interactions(60))) == Written(60)
            (warned,) = [one for one in await sink.survey(MICROLENS.shape) if one.warning]
            assert "HTTPS_PROXY" in warned.detail
        assert set(proxy.asked) == {"dynamodb.example:443"}
    assert len(dynamodb_items(dynamodb_url, table)) == 60


async def test_no_proxy_goes_direct(
    dynamodb_url: str, table: str, bundled: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY is honoured with rows as with all else, and the bulk transport stays."""
    async with TlsProxy(dynamodb_url, bundled, "127.0.0.1") as tls:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{UNREACHABLE}")
        url = dynamodb_at(f"https://127.0.0.1:{tls.port}", table)
        await create_tables(url)
        async with opened(url) as sink:
            assert await sink.store(chunk_of(interactions(60))) == Written(60)
            assert await sink.survey(MICROLENS.shape) == []


async def test_a_proxy_that_refuses_is_told_at_once(
    table: str, bundled: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that the proxy does not take will not be taken later."""
    async with ConnectProxy(1, "user:right") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:wrong@{proxy.address}")
        with pytest.raises(ConfigurationError, match=r"The proxy refuses to connect to DynamoDB .407.") as caught:
            await _open(dynamodb_at("https://dynamodb.example", table))
        assert "wrong" not in str(caught.value)


async def test_both_transports_trust_the_bundle(
    dynamodb_url: str, table: str, bundled: trustme.CA, transport: str
) -> None:
    """AWS_CA_BUNDLE names the authorities for rows as for all else."""
    async with TlsProxy(dynamodb_url, bundled) as tls:
        url = dynamodb_at(f"https://127.0.0.1:{tls.port}", table, transport=transport)
        await create_tables(url)
        async with opened(url) as sink:
            assert await sink.store(chunk_of(interactions(60))) == Written(60)


@pytest.mark.parametrize(
    ("variable", "host"),
    [
        ("AWS_USE_FIPS_ENDPOINT", "dynamodb-fips.us-east-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "dynamodb.us-east-1.api.aws"),
        ("", "dynamodb.us-east-1.amazonaws.com"),
    ],
)
async def test_both_transports_ask_the_same_endpoint(
    monkeypatch: pytest.MonkeyPatch, table: str, variable: str, host: str
) -> None:
    """FIPS and dual-stack endpoints hold for rows too."""
    if variable:
        monkeypatch.setenv(variable, "true")
    sink = sink_at(f"dynamodb://{table}")
    assert isinstance(sink, DynamoDBSink)
    await sink.client.open()
    try:
        bulk: Any = sink.client._transport
        assert bulk._http._host == host
    finally:
        await sink.close()
    async with ConnectProxy(1) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        with pytest.raises(SinkUnavailable):
            await _open(f"dynamodb://{table}?retry_budget_s=0.5")
        assert set(proxy.asked) == {f"{host}:443"}


async def _open(url: str) -> None:
    async with opened(url):
        pass


# --- what is told at once -------------------------------------------------------------------------


def _profile(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config").write_text(f"[profile p]\nregion = us-east-1\n{text}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_PROFILE", "p")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


SSO = (
    "sso_account_id = 123456789012\nsso_role_name = r\nsso_start_url = https://x.example/start\nsso_region = us-east-1"
)
SSO_SESSION = (
    "sso_account_id = 123456789012\nsso_role_name = r\nsso_session = s\n"
    "[sso-session s]\nsso_start_url = https://x.example/start\nsso_region = us-east-1"
)
PROFILES = {
    SSO: "There is no AWS login that holds",
    SSO_SESSION: "There is no AWS login that holds",
    "credential_process = false": "AWS credentials cannot be had from custom-process",
    "": "No AWS credentials were found",
    "aws_access_key_id = x": "The AWS credentials are not whole (aws_secret_access_key is missing)",
    "role_arn = arn:aws:iam::123456789012:role/r\nsource_profile = p2": "the AWS configuration",
}


@pytest.mark.parametrize("text", PROFILES)
@pytest.mark.fault(44)
def test_credentials_that_waiting_cannot_mend(
    cli: Cli, dynamodb_url: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """One sentence, at once, and nothing else on stderr."""
    _profile(tmp_path, text, monkeypatch)
    pairs = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    outcome = cli.run("run", pairs, "--json", "--to", dynamodb_at(dynamodb_url, table))
    assert outcome.code == 78, outcome.stderr
    assert PROFILES[text] in outcome.message
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr


def test_a_profile_that_is_not_there(cli: Cli, dynamodb_url: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, rather than that the endpoint is to be looked at."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    pairs = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    outcome = cli.run("run", pairs, "--to", dynamodb_at(dynamodb_url, table))
    assert (outcome.code, "There is no AWS profile 'nobody'" in outcome.message) == (78, True)


def _script(folder: Path, *, lives_s: int) -> Path:
    """A program that gives keys which expire soon, and fails once there is a file `away`."""
    path = folder / "keys"
    path.write_text(f"""#!/bin/sh
[ ! -e {folder}/away ] || {{ echo canary >&2; exit 1; }}
echo '{{"Version": 1, "AccessKeyId": "test", "SecretAccessKey": "canarysecret", "SessionToken": "t",
"Expiration": "'$(date -u -d "+{lives_s} seconds" +%Y-%m-%dT%H:%M:%SZ)'"}}'
""")
    path.chmod(0o755)
    return path


@pytest.mark.fault(44)
async def test_credentials_are_renewed_in_the_middle_of_a_run(
    dynamodb_url: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """While that fails it is tried again, within the budget: what gives them may come back. Then it is said."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    # botocore renews what lives for less than ten minutes before each request.
    _profile(tmp_path, f"credential_process = {_script(tmp_path, lives_s=500)}", monkeypatch)
    async with opened(dynamodb_at(dynamodb_url, table, transport=transport, retry_budget_s=2, concurrency=1)) as sink:
        assert await sink.store(chunk_of(interactions(30))) == Written(30)
        (tmp_path / "away").touch()
        with pytest.raises(SinkUnavailable, match="AWS credentials cannot be renewed from custom-process") as caught:
            await sink.store(chunk_of(interactions(30)))
        assert "canary" not in str(caught.value)
        (tmp_path / "away").unlink()
        assert await sink.store(chunk_of(interactions(30))) == Written(30)


async def test_a_session_token_that_has_expired(
    dynamodb_url: str, table: str, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Nothing here can renew a token that was given in the environment, so it is said at once."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary")
    await create_tables(dynamodb_at(dynamodb_url, table))
    expired = Refusal(400, "com.amazon.coral.service#ExpiredTokenException")
    async with (
        DynamoShim(dynamodb_url, lambda call: expired if call.target == "BatchWriteItem" else None) as shim,
        opened(dynamodb_at(shim.url, table, transport=transport)) as sink,
    ):
        with pytest.raises(ConfigurationError, match="The AWS session token has expired"):
            await sink.store(chunk_of(interactions(10)))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("unknown authority", "certificate does not hold (its authority is not trusted)"),
        ("another name", "certificate does not hold (it is for another host)"),
        ("TLS only", "speaks TLS on this port; write https://"),
        ("no TLS", "does not speak TLS"),
        ("not HTTP", "does not answer as DynamoDB does"),
        ("another server", "does not answer as DynamoDB does"),
        ("missing file", "cannot be read (No such file or directory)"),
        ("no certificate", "cannot be read"),
    ],
)
@pytest.mark.fault(45)
async def test_what_waiting_cannot_mend_is_said_at_once(
    dynamodb_url: str, table: str, tmp_path: Path, authority: trustme.CA, ca_file: Path, kind: str, said: str
) -> None:
    """By its cause: the budget is not waited for."""
    (tmp_path / "text.pem").write_text("no certificate")
    name = "elsewhere.example" if kind == "another name" else "127.0.0.1"
    answer = b"-ERR unknown command\r\n" if kind == "not HTTP" else _PAGE
    async with TlsProxy(dynamodb_url, authority, name) as tls, _server(answer) as other:
        places: dict[str, dict[str, object]] = {
            "no TLS": {"endpoint": dynamodb_url.replace("http:", "https:")},
            "TLS only": {"endpoint": f"http://127.0.0.1:{tls.port}"},
            "not HTTP": {"endpoint": other},
            "another server": {"endpoint": other},
            "another name": {"ca_file": ca_file},
            "missing file": {"ca_file": tmp_path / "nowhere.pem"},
            "no certificate": {"ca_file": tmp_path / "text.pem"},
        }
        options: dict[str, object] = {
            "endpoint": f"https://127.0.0.1:{tls.port}",
            "retry_budget_s": 20,
            **places.get(kind, {}),
        }
        with pytest.raises(ConfigurationError) as caught:
            await _open(f"dynamodb://{table}?" + "&".join(f"{one}={value}" for one, value in options.items()))
    assert said in str(caught.value)


_PAGE = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>"


@contextlib.asynccontextmanager
async def _server(answer: bytes) -> AsyncIterator[str]:
    """One that says the same whatever it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_an_answer_that_is_not_dynamodbs_is_no_success(dynamodb_url: str, table: str, transport: str) -> None:
    """A portal that answers 200 with something of its own has stored nothing."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    portal = Refusal(200, "")
    async with (
        DynamoShim(dynamodb_url, lambda call: portal if call.target == "BatchWriteItem" else None) as shim,
        opened(dynamodb_at(shim.url, table, transport=transport, retry_budget_s=0.5)) as sink,
    ):
        with pytest.raises(SinkUnavailable, match="the reply is not DynamoDB's"):
            await sink.store(chunk_of(interactions(10)))
