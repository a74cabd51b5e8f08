"""DynamoDB as people set it up: proxies, certificates, credentials, names, indexes, time to live."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from ingest_service.datasets import dataset_named
from ingest_service.errors import ConfigurationError, SinkUnavailable
from ingest_service.pipeline.run import examine
from ingest_service.rows.interaction import INTERACTION
from ingest_service.sinks.base import Written
from ingest_service.sinks.dynamodb.sink import DynamoDBSink
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from ingest_service.sinks.urls import sink_at
from tests.faults import Call, DynamoShim, HttpFault, Refusal, TlsProxy
from tests.helpers import HEADER, UNREACHABLE, Cli, create_tables, dynamodb_at, dynamodb_client, dynamodb_items, opened

VALIDATION = "com.amazon.coral.validate#ValidationException"
MICROLENS = dataset_named("microlens")


@pytest.fixture(params=["bulk", "sdk"])
def transport(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


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


# --- names, indexes, time to live -----------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://ab",
        "dynamodb://no spaces",
        "dynamodb://a%2Fb",
        f"dynamodb://{'x' * 256}",
        "dynamodb://table:8000",
        "dynamodb://tablé",
        "dynamodb://arn:aws:dynamodb:us-east-1:123456789012:table/interactions",
        "dynamodb://interactions?checkpoint_table=a",
        "dynamodb://interactions?checkpoint_table=a/b",
    ],
)
def test_names_that_aws_refuses_are_refused(url: str) -> None:
    """Without connecting, in one sentence."""
    with pytest.raises(ConfigurationError, match="table"):
        sink_at(url)


@pytest.mark.parametrize("error", [VALIDATION, "x#SomethingNew", "x#TransactionConflictException"])
@pytest.mark.parametrize("target", ["DescribeTable", "GetItem", "PutItem", "CreateTable", "Query"])
@pytest.mark.fault(46)
async def test_no_answer_to_any_call_is_a_bug(dynamodb_url: str, table: str, target: str, error: str) -> None:
    """What AWS says that nobody foresaw is a setting to look at, whichever call it is said to."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    refusal = Refusal(400, error, "a canary value")
    async with DynamoShim(dynamodb_url, lambda call: refusal if call.target == target else None) as shim:
        sink = sink_at(dynamodb_at(shim.url, table))
        assert isinstance(sink, DynamoDBSink)
        try:
            with pytest.raises(ConfigurationError) as caught:
                if target == "CreateTable":
                    await sink.client.open()
                    await sink._tables._create(table)
                await sink.open()
                await sink.checkpoints.read("s")
                await sink.checkpoints.swap("s", None, "text")
                await sink.stored(["someone"], INTERACTION)
        finally:
            await sink.close()
    assert "canary" not in str(caught.value)


def _make_table(endpoint: str, table: str, key: str, kind: str) -> None:
    """A table with an index on one of our attributes."""
    names = {"user_id": "S", "event_key": "S", key: kind}
    with dynamodb_client(endpoint) as client:
        client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": one, "AttributeType": type_} for one, type_ in names.items()],
            KeySchema=[
                {"AttributeName": "user_id", "KeyType": "HASH"},
                {"AttributeName": "event_key", "KeyType": "RANGE"},
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "own",
                    "KeySchema": [{"AttributeName": key, "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            ],
        )


@pytest.mark.fault(47)
def test_an_index_that_takes_no_row_stops_the_run(cli: Cli, dynamodb_url: str, table: str) -> None:
    """Before a row is sent, and `check` says so too: a number where rows have a text."""
    _make_table(dynamodb_url, table, "device", "N")
    url = dynamodb_at(dynamodb_url, table)
    pairs = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    outcome = cli.run("check", "--create", "--to", url)
    assert outcome.code == 69
    assert "BAD  dynamodb  index own: its key device is a number, but rows have a text there" in outcome.stdout
    outcome = cli.run("run", pairs, "--to", url)
    assert (outcome.code, "its key device is a number" in outcome.message) == (78, True)


async def test_an_index_of_the_right_kind_is_fine(dynamodb_url: str, table: str) -> None:
    """As is one whose key the rows do not have at all: it stays empty."""
    for number, (key, kind) in enumerate([("device", "S"), ("nobody_has_it", "B"), ("expires_at", "N")]):
        _make_table(dynamodb_url, f"{table}_{number}", key, kind)
        url = dynamodb_at(dynamodb_url, f"{table}_{number}", checkpoint_table=f"{table}_checkpoints")
        await create_tables(url)
        findings = await examine(sink_at(url), MICROLENS)
        assert all(one.ok and not one.warning for one in findings), findings


async def test_the_reason_names_the_attribute(dynamodb_url: str, table: str, transport: str) -> None:
    """As AWS does, in its words; the local server leaves the name out."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    said = "Type mismatch for Index Key device Expected: N Actual: S IndexName: own"
    refusal = Refusal(400, VALIDATION, f"One or more parameter values were invalid: {said}")
    async with (
        DynamoShim(dynamodb_url, lambda call: refusal if call.target == "BatchWriteItem" else None) as shim,
        opened(dynamodb_at(shim.url, table, transport=transport)) as sink,
    ):
        written = await sink.store(chunk_of(interactions(3)))
    assert written.written == 0
    reason = "DynamoDB refuses the item (ValidationException: attribute device, wanted as N, is S)."
    assert {row.reason for row in written.dead} == {reason}


async def test_no_value_gets_into_a_reason(dynamodb_url: str, table: str, transport: str) -> None:
    """Whatever a server's text looks like, only a name of ours is taken out of it."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    texts = iter(["Type mismatch for key canary Expected: N Actual: S", "canary", "Index Key session_id is canary"])

    def refuse(call: Call) -> HttpFault | None:
        return Refusal(400, VALIDATION, next(texts)) if call.target == "BatchWriteItem" else None

    async with (
        DynamoShim(dynamodb_url, refuse) as shim,
        opened(dynamodb_at(shim.url, table, transport=transport)) as sink,
    ):
        reasons = [(await sink.store(chunk_of([interaction(i, 1)]))).dead[0].reason for i in range(3)]
    assert reasons[:2] == ["DynamoDB refuses the item (ValidationException)."] * 2
    assert reasons[2] == "DynamoDB refuses the item (ValidationException: attribute session_id)."


def _expiry_of(endpoint: str, table: str) -> dict[str, Any]:
    with dynamodb_client(endpoint) as client:
        found: dict[str, Any] = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    return found


@pytest.mark.fault(48)
async def test_check_enables_the_time_to_live(dynamodb_url: str, table: str) -> None:
    """With `ttl_s` a table whose rows would stay for ever is told of, and `--create` mends it."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    url = dynamodb_at(dynamodb_url, table, ttl_s=3600)
    (warned,) = [one for one in await examine(sink_at(url), MICROLENS) if one.warning]
    assert "time to live" in warned.what
    assert "is not enabled" in warned.detail
    found = {one.detail: one.warning for one in await examine(sink_at(url), MICROLENS, create=True)}
    assert found == {"is there": False, "was enabled on expires_at": False}
    assert _expiry_of(dynamodb_url, table)["AttributeName"] == "expires_at"
    found = {one.detail: one.warning for one in await examine(sink_at(url), MICROLENS, create=True)}
    assert found == {"is there": False, "is enabled on expires_at": False}


async def test_a_time_to_live_on_another_attribute_is_told(dynamodb_url: str, table: str) -> None:
    """It is the user's own, so it stays as it is."""
    url = dynamodb_at(dynamodb_url, table, ttl_s=3600)
    await create_tables(dynamodb_at(dynamodb_url, table))
    with dynamodb_client(dynamodb_url) as client:
        wanted = {"Enabled": True, "AttributeName": "gone_at"}
        client.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)
    findings = await examine(sink_at(url), MICROLENS, create=True)
    assert any("is on another attribute than expires_at" in one.detail and one.warning for one in findings)
    assert _expiry_of(dynamodb_url, table)["AttributeName"] == "gone_at"


@pytest.mark.parametrize("target", ["DescribeTimeToLive", "UpdateTimeToLive"])
async def test_a_time_to_live_that_may_not_be_looked_at(dynamodb_url: str, table: str, target: str) -> None:
    """Needs a right of its own: without it the user is told, and the load goes on."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    denied = Refusal(400, "com.amazon.coral.service#AccessDeniedException")
    async with DynamoShim(dynamodb_url, lambda call: denied if call.target == target else None) as shim:
        findings = await examine(sink_at(dynamodb_at(shim.url, table, ttl_s=3600)), MICROLENS, create=True)
    assert all(one.ok for one in findings)
    assert any(f"that needs dynamodb:{target}" in one.detail and one.warning for one in findings)


def test_rows_that_expire_as_they_are_written_are_told(cli: Cli, dynamodb_url: str, table: str) -> None:
    """How many there were stands in the report; they are stored, and DynamoDB deletes them when it comes to it."""
    now_ms = int(time.time() * 1_000)
    rows = [f"{user},2,{ms}" for user, ms in ((1, FIRST_MS), (2, FIRST_MS), (3, now_ms))]
    pairs = cli.file("pairs.csv", "\n".join([HEADER, *rows, ""]))
    url = dynamodb_at(dynamodb_url, table, ttl_s=3600)
    assert cli.run("check", "--create", "--to", url).code == 0
    outcome = cli.run_with(pairs, "--to", url)
    (warning,) = outcome.report["sources"][0]["sinks"]["dynamodb"]["warnings"]
    assert warning.startswith("2 rows were older than ttl_s as they were written")
    assert outcome.counts("dynamodb")["written"] == 3
