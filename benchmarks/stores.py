"""The stores that the benchmarks write to: servers of their own on free loopback ports, and a fresh file."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import ROOT
from tests.servers import find_postgresql

_COUNT_RECENT: Final = """
local n = 0
for _, key in ipairs(redis.call('KEYS', 'recent:*')) do n = n + redis.call('ZCARD', key) end
return n
"""


@dataclass(frozen=True)
class Store:
    """Where a run writes to; `count` says how many records came since `clear`."""

    url: str
    clear: Callable[[], object]
    count: Callable[[], int]
    pid: int | None = None
    port: int = 0
    exact_up_to: int = sys.maxsize  # with more records, `count` may be less


@contextmanager
def redis(directory: Path) -> Iterator[Store]:
    """A redis-server without persistence, found on the path."""
    port = _free_port()
    where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    with _process([_binary("redis-server"), *where, "--save", "", "--appendonly", "no"]) as server:

        def cli(*words: str) -> str:
            command = ["redis-cli", "-p", str(port), *words]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        _wait_for(port)
        yield Store(
            url=f"redis://127.0.0.1:{port}/0",
            clear=lambda: cli("FLUSHALL", "SYNC"),
            count=lambda: int(cli("EVAL", _COUNT_RECENT, "0")),
            pid=server.pid,
            port=port,
            exact_up_to=2_000_000,  # 40 a user, so that none has more than the hundred that is kept
        )


@contextmanager
def redis_cluster(directory: Path) -> Iterator[Store]:
    """Three masters without replicas, behind the address of the first."""
    ports = [_free_port() for _ in range(3)]

    def cli(port: int, *words: str) -> str:
        command = ["redis-cli", "-p", str(port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with ExitStack() as stack:
        for port in ports:
            (own := directory / f"node-{port}").mkdir()
            where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(own), "--cluster-enabled", "yes"]
            bus = ["--cluster-port", str(_free_port())]
            stack.enter_context(_process([_binary("redis-server"), *where, *bus, "--save", "", "--appendonly", "no"]))
            _wait_for(port)
        addresses = [f"127.0.0.1:{port}" for port in ports]
        cli(ports[0], "--cluster", "create", *addresses, "--cluster-yes")
        deadline = time.monotonic() + 30
        while any("cluster_state:ok" not in cli(port, "CLUSTER", "INFO") for port in ports):
            if time.monotonic() > deadline:
                raise TimeoutError("the nodes make no cluster")
            time.sleep(0.1)
        yield Store(
            url=f"redis://{addresses[0]}",
            clear=lambda: [cli(port, "FLUSHALL", "SYNC") for port in ports],
            count=lambda: sum(int(cli(port, "EVAL", _COUNT_RECENT, "0")) for port in ports),
            exact_up_to=2_000_000,
        )


@contextmanager
def null_dynamodb(module: str = "null_dynamodb", *options: str) -> Iterator[Store]:
    """benchmarks/null_dynamodb.py, which stores nothing, or another that speaks as it does."""
    with _process([sys.executable, "-m", f"benchmarks.{module}", *options], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        port = int(json.loads(server.stdout.readline())["port"])
        cleared_at = 0

        def items() -> int:
            return int(said(port)["items"])

        def clear() -> None:
            nonlocal cleared_at
            cleared_at = items()

        yield Store(
            url=f"dynamodb://interactions?endpoint=http://127.0.0.1:{port}&region=us-east-1",
            clear=clear,
            count=lambda: items() - cleared_at,
            pid=server.pid,
            port=port,
        )


def said(port: int) -> dict[str, Any]:
    """The counts of a null DynamoDB."""
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/")
        counts: dict[str, Any] = json.loads(connection.getresponse().read())
    return counts


def parquet(directory: Path) -> Store:
    folder = directory / "lake"

    def count() -> int:
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in folder.glob("**/*.parquet"))

    return Store(url=f"parquet:///{folder}", clear=lambda: shutil.rmtree(folder, ignore_errors=True), count=count)


def sqlite(directory: Path) -> Store:
    path = directory / "interactions.db"

    def clear() -> None:
        for file in directory.glob(f"{path.name}*"):  # and its -wal and -shm
            file.unlink()

    def count() -> int:
        with closing(sqlite3.connect(path)) as database:
            return int(database.execute("SELECT count(*) FROM interactions").fetchone()[0])

    return Store(url=f"sqlite:///{path}", clear=clear, count=count)


@contextmanager
def postgresql(directory: Path) -> Iterator[Store]:
    """Debian's, with its defaults and the tables made; it answers on a socket of TCP, as for others."""
    with find_postgresql(directory, "max_wal_size=8GB") as server:

        def psql(statement: str) -> str:
            command = [_binary("psql"), server.url, "-XqtAc", statement]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        create = [sys.executable, "-m", "ingest_service", "check", "--create", "--to", server.url]
        subprocess.run(create, check=True, cwd=directory, stdout=subprocess.DEVNULL)
        yield Store(
            url=server.url,
            clear=lambda: psql("TRUNCATE interactions; CHECKPOINT"),
            count=lambda: int(psql("SELECT count(*) FROM interactions")),
            pid=server.pid,
            port=server.port,
        )


@contextmanager
def mongodb() -> Iterator[Store]:
    """mongo-java-server, which keeps documents in memory: the client is what limits it. From the project's cache."""
    jars = ROOT / ".cache/servers/mongo-java-server/lib"
    if not jars.exists():
        raise FileNotFoundError("no mongo-java-server: scripts/get-servers javamongo")
    port = _free_port()
    # One thread that collects its garbage, and seldom: it should disturb the client as little as may be.
    command = [_binary("java"), "-XX:+UseSerialGC", "-Xms2g", "-Xmx8g", "-cp", f"{jars}/*"]
    with _process(
        [*command, str(ROOT / "scripts/MongoJavaServer.java"), str(port)], stderr=subprocess.DEVNULL
    ) as server:
        _wait_for(port, timeout_s=60)
        url = _mongodb_url(port)
        yield Store(
            url=url,
            clear=lambda: _mongodb_says(url, "client.drop_database('movielens')"),
            count=lambda: int(_mongodb_says(url, "client.movielens.interactions.count_documents({})")),
            pid=server.pid,
            port=port,
        )


def _mongodb_url(port: int) -> str:
    return f"mongodb://127.0.0.1:{port}/movielens?directConnection=true"


def _mongodb_says(url: str, expression: str) -> str:
    """In a process of its own, so that this one stays small (see measure.py)."""
    script = f"import pymongo; client = pymongo.MongoClient('{url}'); print({expression})"
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


@contextmanager
def _process(
    command: list[str], stdout: int = subprocess.DEVNULL, stderr: int | None = None
) -> Iterator["subprocess.Popen[Any]"]:
    with subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _binary(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not on the path")
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(port: int, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
