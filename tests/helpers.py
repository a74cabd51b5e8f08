"""What several tests share: rows and files to load, plain looks into the stores, and the command as a process."""

import asyncio
import contextlib
import importlib
import io
import json
import os
import pkgutil
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import botocore.session
import psycopg
import pymongo
import pytest
import redis

import ingest_service
from ingest_service.cli.app import main
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.pipeline import dead_letter
from ingest_service.rows.interaction import (
    VideoInteraction,
    micros_of,
)
from ingest_service.sinks.abilities import Probed
from ingest_service.sinks.base import AnySink, Finding
from ingest_service.sinks.testing.rows import FIRST_MS
from ingest_service.sinks.urls import sink_at
from tests.servers import CANARY_PASSWORD

HEADER = "user,item,timestamp"
UNREACHABLE = "127.0.0.1:1"  # nobody listens on this port


def import_all() -> None:
    """All modules, so that each has declared what is its own."""
    for module in pkgutil.walk_packages(ingest_service.__path__, "ingest_service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


# --- files ----------------------------------------------------------------------------------------


@dataclass
class Pairs:
    """A file with rows of every fate. `bad` are the refused ones: line, offset and bytes of each."""

    path: Path
    rows: int
    bad: list[tuple[int, int, bytes]] = field(default_factory=list)


CANARY_AWS_SECRET = "canarysecret"
_CANARY_CELLS = ("2021-02-30 25:61", "99999999999999")  # of these rows; no log has them by chance
_BAD_ROWS = ("12", "x1,2,1583366400000,", "1,2,2021-02-30 25:61,", ",5,1583366400000,", "1,2,99999999999999,")


def write_pairs(path: Path, rows: int, *, blocks: int = 0, seed: int = 1) -> Pairs:
    """One row in a hundred is bad, one in twenty repeats the key of one of the last thousand.

    The rows are padded with a column of no meaning, so that a short file fills that many blocks.
    """
    row_bytes = blocks * BLOCK_BYTES // rows
    rng = random.Random(seed)
    pairs = Pairs(path, rows)
    keys: list[str] = []
    offset = 0
    with path.open("wb") as file:
        offset += file.write(f"{HEADER},note\n".encode())
        for number in range(rows):
            if is_bad := rng.random() < 0.01:
                row = rng.choice(_BAD_ROWS)
                pairs.bad.append((number + 2, offset, row.encode()))
            elif keys and rng.random() < 0.05:
                row = rng.choice(keys[-1000:])
            else:
                row = f"{rng.randrange(1, 500)},{rng.randrange(1, 20_000)},{FIRST_MS + 1_000 * number},"
                keys.append(row)
            padding = "" if is_bad else "n" * (row_bytes - len(row) - 1)
            offset += file.write(f"{row}{padding}\n".encode())
    return pairs


def write_changing(path: Path, rows: int) -> Path:
    """Ratings in the second half that differ from those of the same keys in the first; one row in a thousand is bad."""
    with path.open("w") as file:
        file.write("userId,movieId,rating,timestamp,note\n")
        for number in range(rows):
            key = number % (rows // 2)
            rating = 1 + key % 3 + number // (rows // 2)
            movie = "x" if number % 1_000 == 7 else key
            file.write(f"{1 + key % 499},{movie},{rating},{1_600_000_000 + key},{'n' * 250}\n")
    return path


def dead_letters(state_dir: Path) -> list[dict[str, Any]]:
    """All dead letters below a state folder, without those of earlier starts."""
    return [letter for path in sorted(state_dir.rglob(dead_letter.FILE_NAME)) for letter in dead_letter.read(path)]


# --- plain looks into the stores ------------------------------------------------------------------


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    try:
        yield connection
    finally:
        connection.close()


def sqlite_rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The interactions by primary key."""
    with _sqlite(path) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM interactions")]
    return {(row["user_id"], row["event_key"]): row for row in rows}


def parquet_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of every file, whatever a manifest says."""
    import pyarrow.parquet as parquet

    tables = (parquet.read_table(path, partitioning=None) for path in folder.glob("**/*.parquet"))
    return [row for table in tables for row in table.to_pylist()]


def redis_sets(url: str) -> dict[str, dict[str, float]]:
    """Every `recent:` sorted set: members and their scores, by key."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        keys: list[str] = sorted(client.scan_iter(match="recent:*", count=1000, _type="zset"))
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.zrange(key, 0, -1, withscores=True)
            return dict(zip(keys, map(dict, pipe.execute()), strict=True))


def expected_sets(items: dict[tuple[str, str], dict[str, str]], limit: int = 100) -> dict[str, dict[str, float]]:
    """What `redis_sets` finds after the rows of `sqlite_rows` were loaded: each user's newest."""
    members: dict[str, list[tuple[float, str]]] = {}
    for item in items.values():
        order = ("video_id", "timestamp", "event_type", "device", "session_id")
        member = json.dumps({name: item[name] for name in order}, separators=(",", ":"))
        micros = micros_of(VideoInteraction.model_validate(item).timestamp)
        members.setdefault(f"recent:{{{item['user_id']}}}", []).append((micros // 1_000, member))
    return {key: {member: score for score, member in sorted(found)[-limit:]} for key, found in members.items()}


@contextlib.contextmanager
def dynamodb_client(endpoint: str) -> Iterator[Any]:
    client: Any = botocore.session.get_session().create_client("dynamodb", endpoint_url=endpoint)
    try:
        yield client
    finally:
        client.close()


def dynamodb_items(endpoint: str, table: str) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """The items of a table by key, in DynamoDB's own form."""
    found: list[dict[str, dict[str, str]]] = []
    with dynamodb_client(endpoint) as client:
        for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
            found += page["Items"]
    return {(item["user_id"]["S"], item["event_key"]["S"]): item for item in found}


def plain(items: dict[tuple[str, str], dict[str, dict[str, str]]]) -> dict[tuple[str, str], dict[str, str]]:
    """`dynamodb_items` in the form of `sqlite_rows`."""
    return {key: {name: value["S"] for name, value in item.items()} for key, item in items.items()}


def dynamodb_at(endpoint: str, table: str, **options: Any) -> str:
    """The URL of a sink, its checkpoints in a table that the `table` fixture deletes as well."""
    query = {"endpoint": endpoint, "checkpoint_table": f"{table}_checkpoints", **options}
    return f"dynamodb://{table}?" + "&".join(f"{name}={value}" for name, value in query.items())


def mongodb_documents(url: str, collection: str) -> list[dict[str, Any]]:
    """The documents of a collection in the order of their `_id`s; the database is the URL's."""
    with pymongo.MongoClient[dict[str, Any]](url.partition("?")[0], directConnection=True) as client:
        return client.get_default_database()[collection].find().sort("_id", 1).to_list()


@contextlib.contextmanager
def postgresql(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection, whose names are those of the URL's schema."""
    address, _, query = url.partition("?")
    schema = dict(parse_qsl(query)).get("schema", "public")
    with psycopg.connect(address, autocommit=True, options=f"-c search_path={schema}") as connection:
        yield connection


async def create_tables(url: str) -> None:
    sink = sink_at(url)
    try:
        assert all(finding.ok for finding in await check(sink, create=True))
    finally:
        await sink.close()


async def check(sink: AnySink, *, create: bool) -> list[Finding]:
    assert isinstance(sink, Probed)
    return await sink.check(create=create)


async def until(happened: Callable[[], object]) -> None:
    """Wait for something that nothing announces."""
    while not happened():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.05)


# --- sinks ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[AnySink]:
    """The sink at a URL, closed afterwards, also where it cannot be opened."""
    sink = sink_at(url)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


# --- the command ----------------------------------------------------------------------------------

COMMAND = (sys.executable, "-m", "ingest_service")


@dataclass(frozen=True)
class Outcome:
    """How a command ended. Whatever the test is about, it said no password, and no cell of `write_pairs`' bad rows."""

    code: int
    stdout: str
    stderr: str

    def __post_init__(self) -> None:
        assert not any(cell in self.stderr for cell in _CANARY_CELLS), self.stderr
        assert not any(secret in self.stdout + self.stderr for secret in (CANARY_PASSWORD, CANARY_AWS_SECRET))

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON log; the error message, if any, is not part of it."""
        return [json.loads(line) for line in self.stderr.splitlines() if not line.startswith("ingest-service: ")]

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.stdout)
        return content

    @property
    def message(self) -> str:
        """The error: one sentence on the last line, and no traceback anywhere."""
        assert "Traceback" not in self.stderr, self.stderr
        last = self.stderr.splitlines()[-1]
        assert last.startswith("ingest-service: "), self.stderr
        assert last.endswith((".", "?")), last
        return last.removeprefix("ingest-service: ")

    def counts(self, sink: str, source: int = 0) -> dict[str, int]:
        """What became of the rows in one sink, over all runs."""
        numbers = self.report["sources"][source]["sinks"][sink]
        return {name: numbers[name] for name in ("read", "accepted", "rejected", "written", "merged", "dead")}


class Cli:
    """Runs commands in a folder of the test's own, where the configuration, state and default database are."""

    def __init__(self, folder: Path, command: Sequence[str] = COMMAND) -> None:
        self.folder = folder
        self._command = command
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: str | Path, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self._command, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="surrogateescape",
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str | Path, stdin: str = "", **environment: str) -> Outcome:
        pipe = subprocess.PIPE
        return finish(self.start(*arguments, stdout=pipe, stderr=pipe, **environment), stdin)

    def here(self, *arguments: str | Path) -> Outcome:
        """Like `run`, but in this process and so without its start; not where an event loop runs."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["ingest-service", *map(str, arguments)])
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                with pytest.raises(SystemExit) as end:
                    main()
            finally:  # the command ends with its process, so it never gives them back
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        return Outcome(end.value.code if isinstance(end.value.code, int) else 0, stdout.getvalue(), stderr.getvalue())

    def load(self, *arguments: str | Path) -> Outcome:
        """`run … --json`, here, that is expected to end well."""
        outcome = self.here("run", *arguments, "--json")
        assert outcome.code == 0, outcome.stderr
        return outcome

    def run_with(self, *arguments: str | Path, **environment: str) -> Outcome:
        """`run … --json` that is expected to end well."""
        outcome = self.run("run", *arguments, "--json", **environment)
        assert outcome.code == 0, outcome.stderr
        return outcome

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    @property
    def rows(self) -> dict[tuple[str, str], dict[str, str]]:
        """What is in the default database."""
        return sqlite_rows(self.folder / "interactions.db")

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        return dead_letters(self.folder / ".ingest")

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


def finish(process: subprocess.Popen[str], stdin: str = "") -> Outcome:
    """Wait for the end of a command."""
    stdout, stderr = process.communicate(stdin)
    return Outcome(process.returncode, stdout or "", stderr or "")


def wait_for_event(process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Read a command's log up to an event that is wanted. It fails the test if the command ends first."""
    assert process.stderr is not None
    for line in process.stderr:
        assert line.startswith("{"), line
        event: dict[str, Any] = json.loads(line)
        if wanted(event):
            return event
    raise AssertionError(f"the command ended with {process.wait()} first")
