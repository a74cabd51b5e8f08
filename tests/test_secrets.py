"""No secret and no row content in anything but the stores and the dead letters, whatever goes wrong."""

import asyncio
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import redis

from ingest_service import InteractionStore, ingest
from ingest_service.config import load_settings
from ingest_service.errors import IngestError
from ingest_service.pipeline.run import sinks_of
from ingest_service.sinks.testing.rows import FIRST_MS, interaction
from tests.dynamo_shim import EXPIRED_TOKEN, INTERNAL_ERROR, DynamoShim, HttpFault, Refusal, Unprocessed
from tests.faults import TcpProxy
from tests.helpers import HEADER, Cli, create_tables, dynamodb_at
from tests.servers import find_redis

PASSWORD = "canarypassword"
AWS_SECRET = "CANARYAWSSECRET"
CELL = "canarycell"
USER = 918_273_645_546_372  # a good row's id: a number, so the canary is its digits
CANARIES = (
    PASSWORD,
    AWS_SECRET,
    CELL,
    str(USER),
    str(interaction(USER, 1).user_id),
    str(interaction(1, USER).video_id),
)
ROWS = f"{USER},{USER},{FIRST_MS}\n1,{USER},{FIRST_MS}\n{CELL},1,{FIRST_MS}\n1,{CELL}\n{USER},1,{CELL}\n"
STORES = (".jsonl", ".csv", ".db", ".db-wal", ".db-shm")
FAULTS: dict[str, HttpFault | None] = {
    "none": None,
    "invalid": Refusal(400, "ValidationException", f"bad item {CELL} {USER}"),
    "denied": Refusal(400, "AccessDeniedException", f"{AWS_SECRET} may not"),
    "expired": EXPIRED_TOKEN,
    "broken": INTERNAL_ERROR,
    "unprocessed": Unprocessed(),
}


def assert_silent(text: str) -> None:
    for canary in CANARIES:
        assert canary not in text


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    found = Cli(tmp_path)
    found.file("pairs.csv", f"{HEADER}\n{ROWS}")
    return found


@pytest_asyncio.fixture
async def guarded_redis(tmp_path: Path) -> AsyncIterator[str]:
    """A Redis whose URL holds the canary, with a poisoned key for one good row."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with find_redis(folder, "--requirepass", PASSWORD) as server:
        url = urlsplit(server.url)._replace(netloc=f":{PASSWORD}@127.0.0.1:{server.port}").geturl()
        with redis.Redis.from_url(url) as client:
            client.set(f"recent:{{{interaction(USER, 1).user_id}}}", CELL)
        yield url


def assert_only_letters_hold_rows(cli: Cli, *, letters: int) -> None:
    """Every other file of the run is silent, and the letters are all there."""
    for path in cli.folder.rglob("*"):
        relative = path.relative_to(cli.folder)
        if path.is_file() and relative.parts[0] != "redis" and path.suffix not in STORES:
            assert_silent(path.read_text(errors="replace"))
    assert len(cli.dead_letters) == letters
    assert CELL in str(cli.dead_letters)


async def test_redis_faults_say_nothing(cli: Cli, guarded_redis: str) -> None:
    """A run, a poisoned key, lost replies, a down server, a wrong password: neither log, report nor checkpoint tell."""
    options = "retry_budget_s=0.5"
    async with TcpProxy(guarded_redis) as proxy:
        url = f"{proxy.url}?{options}"
        await proxy.cut_reply(times=2, containing=b"ZADD")
        for arguments in (
            ("run", "pairs.csv", "--json", "--checkpoint", "file:checkpoints"),
            ("run", "pairs.csv", "--json"),
            ("status", "--json"),
            ("check",),
        ):
            outcome = await asyncio.to_thread(cli.run, *arguments, "--to", url)
            assert outcome.code == 0, outcome.stderr
            assert_silent(outcome.stdout + outcome.stderr)
        assert_only_letters_hold_rows(cli, letters=4)
        await proxy.refuse()
        for command in ("run", "check"):
            arguments = ("run", "pairs.csv") if command == "run" else ("check",)
            outcome = await asyncio.to_thread(cli.run, *arguments, "--to", url)
            assert outcome.code == 69
            assert_silent(outcome.stdout + outcome.stderr)
    wrong = guarded_redis.replace(PASSWORD, f"{PASSWORD}x")
    outcome = await asyncio.to_thread(cli.run, "run", "pairs.csv", "--to", wrong)
    assert outcome.code == 78
    assert_silent(outcome.stdout + outcome.stderr)
    with redis.Redis.from_url(guarded_redis, decode_responses=True) as client:
        for key in client.scan_iter(match="ingest:checkpoint:*"):
            assert_silent(str(client.get(key)))


@pytest.mark.parametrize("name", FAULTS)
async def test_dynamodb_faults_say_nothing(cli: Cli, dynamodb_url: str, table: str, name: str) -> None:
    """Whatever DynamoDB answers, even if it quotes rows: its words do not get into a log."""
    await create_tables(dynamodb_at(dynamodb_url, table))
    fault = FAULTS[name]
    async with DynamoShim(dynamodb_url, lambda call: fault if call.items else None) as shim:
        url = dynamodb_at(shim.url, table, retry_budget_s=2)
        outcome = await asyncio.to_thread(
            cli.run, "run", "pairs.csv", "--json", "--to", url, AWS_SECRET_ACCESS_KEY=AWS_SECRET
        )
    assert outcome.code in (0, 65, 69, 78)
    assert "Traceback" not in outcome.stderr
    assert_silent(outcome.stdout + outcome.stderr)
    assert_only_letters_hold_rows(cli, letters=5 if name == "invalid" else 3)


SERVER_FAULTS: dict[str, tuple[tuple[tuple[str, ...], ...], int]] = {
    "full": ((("CONFIG", "SET", "maxmemory", "1"),), 69),
    "read-only": ((("REPLICAOF", "127.0.0.1", "1"),), 78),
    "emptied": ((("FLUSHALL",),), 78),
    "no right to write": ((("ACL", "SETUSER", "default", "-zadd"),), 78),
    "no right to connect": ((("ACL", "SETUSER", "default", "off"),), 78),
}


@pytest.mark.fault(9, 11, 12, 13)
@pytest.mark.parametrize("name", SERVER_FAULTS)
def test_server_faults_say_nothing(cli: Cli, guarded_redis: str, name: str) -> None:
    """A server that is full, read-only, emptied or that forbids: a sentence without its address, and no row."""
    commands, code = SERVER_FAULTS[name]
    arguments = ("pairs.csv", "--to", f"{guarded_redis}?retry_budget_s=2", "--checkpoint", "file:checkpoints")
    assert cli.run("run", *arguments, "--limit", "1", "--max-rejects", "100%").code == 0
    with redis.Redis.from_url(guarded_redis) as client:
        for words in commands:
            client.execute_command(*words)
    for command in ("run", "check", "status"):
        outcome = cli.run(command, *(arguments[1:3] if command != "run" else arguments))
        assert outcome.code == code or command != "run", outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert_silent(outcome.stdout + outcome.stderr)
    for path in cli.folder.rglob("*"):
        if path.is_file() and "redis" not in path.relative_to(cli.folder).parts and path.suffix not in STORES:
            assert_silent(path.read_text(errors="replace"))


@pytest.mark.fault(21)
def test_a_damaged_checkpoint_is_not_quoted(cli: Cli) -> None:
    """Whatever stands in its place: the message does not say it."""
    cli.load("pairs.csv", "--checkpoint", "file:checkpoints")
    (path,) = (cli.folder / "checkpoints").glob("*.json")
    assert_silent(path.read_text())
    for text in (CELL, f'{{"{CELL}": "{PASSWORD}"}}', path.read_text().replace('"sink":"sqlite"', f'"sink":"{CELL}"')):
        path.write_text(text)
        for command in (("run", "pairs.csv"), ("verify", "pairs.csv"), ("status",)):
            outcome = cli.here(*command, "--checkpoint", "file:checkpoints")
            assert outcome.code == 78
            assert_silent(outcome.stdout + outcome.stderr)


A_BUG = """
import ingest_service.sinks.sqlite.sink as sqlite
def fails(self, values):
    try:
        raise KeyError(values)
    except KeyError as error:
        raise ValueError(f"canarypassword {values}") from error
sqlite.SQLiteSink._insert = fails
from ingest_service.cli.app import main
main()
"""


@pytest.mark.fault(28)
def test_a_bug_says_where_it_is_and_not_what_it_met(cli: Cli) -> None:
    """An error that nobody expected is printed with its place and kind, and without its text; the exit code is 70."""
    command = [sys.executable, "-c", A_BUG, "run", "pairs.csv"]
    done = subprocess.run(command, cwd=cli.folder, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 70
    assert "sinks/sqlite/sink.py" in done.stderr
    assert "builtins.ValueError" in done.stderr
    assert_silent(done.stdout + done.stderr)


def test_mistakes_in_a_url_do_not_show_it(cli: Cli) -> None:
    """A wrong option, scheme, port or database of a sink URL is named without its password."""
    for url in (
        f"redis://:{PASSWORD}@localhost/0?colour=red",
        f"redis://:{PASSWORD}@localhost/zero",
        f"redis://:{PASSWORD}@localhost:port/0",
        f"redis://:#{PASSWORD}@localhost/0",
        f"redis://:/{PASSWORD}@localhost/0",
        f"redis://{PASSWORD}:{PASSWORD}/{PASSWORD}@localhost/0",
        f"redis://:{PASSWORD}@localhost/0?consumers={PASSWORD}",
        f"redys://:{PASSWORD}@localhost/0",
        f"sqlite://:{PASSWORD}@localhost/a.db",
    ):
        outcome = cli.here("run", "pairs.csv", "--to", url)
        assert (outcome.code, bool(outcome.message)) == (78, True), outcome.stderr
        assert_silent(outcome.stdout + outcome.stderr)
    for environment in ({"INGEST_TO": url}, {"INGEST_TO": "redis", "REDIS_URL": url}):
        outcome = cli.run("check", **environment)
        assert outcome.code == 78
        assert_silent(outcome.stdout + outcome.stderr)


async def test_reprs_and_errors_of_the_api_do_not_show_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores, sinks, settings and what they raise can be printed, tracebacks and causes included."""
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0?retry_budget_s=0.1"
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.chdir(cli.folder)
    settings = load_settings({"to": [url]})
    store = InteractionStore([url])
    (sink,) = sinks_of([url])
    for thing in (settings, store, sink, vars(sink)["options"], sink.checkpoints, sink.retrier):
        assert_silent(repr(thing) + str(thing))
    await sink.close()
    with pytest.raises(IngestError) as caught:
        await ingest("pairs.csv", to=[url])
    assert_silent("".join(traceback.format_exception(caught.value)).replace(f'"{PASSWORD}"', ""))
