"""Real servers for tests and benchmarks, each on a free loopback port and in a folder of its own.

    with Redis(tmp_path, "--appendonly", "yes") as server:
        ...            # server.url
        server.kill()  # as a crash would; what it had on disk stays
        server.start() # the same port and folder again

Where a program comes from: the path, else the project's cache, which `scripts/get-servers` fills. Servers
that run already (INGEST_TEST_REDIS_URL, INGEST_TEST_DYNAMODB_URL, INGEST_TEST_MONGODB_URI) are the business of the
fixtures.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import trustme

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "servers"

CANARY_PASSWORD = "canarypassword"
_HOST = "127.0.0.1"
_START_S = 60.0  # a cold JVM on a busy machine; everything else answers within a second
_STOP_S = 10.0


class ServerMissingError(Exception):
    """The server's program is nowhere; the text says how to get it."""


class ServerFailedError(Exception):
    """The server ended, or gave no answer, while it was being started; the text ends with its log."""


class Server(ABC):
    """A server as a child process. `start` and `kill` may alternate: the port and the folder stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._command = self.command()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return what to run; raise ServerMissingError where the program is nowhere."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server serves requests by now; False or OSError mean not yet."""

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it and return once it answers."""
        if self._process is not None:
            raise RuntimeError("the server is running already")
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._wait_until_it_answers(self._process, log)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash does."""
        self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP makes a server that says nothing, SIGCONT ends that."""
        os.kill(self.pid, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if self.answers():
                    return
            except (OSError, HTTPException):
                pass  # nobody listens yet, or it hung up in the middle of its start
            time.sleep(0.02)
        what = "gave no answer" if process.returncode is None else f"ended with {process.returncode}"
        tail = log.read_text(errors="replace")[-2000:]
        raise ServerFailedError(f"{type(self).__name__} {what}; the end of its log:\n{tail}")

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Redis(Server):
    """Redis (or Valkey), in memory only unless `options` say otherwise: `"--appendonly", "yes"`, ACLs, …"""

    def __init__(self, folder: Path, *options: str) -> None:
        self._options = options
        super().__init__(folder)

    def command(self) -> list[str]:
        binary = _find("redis-server", CACHE / "valkey/bin/valkey-server")
        fixed = [binary, "--port", str(self.port), "--bind", _HOST, "--dir", str(self.folder)]
        return [*fixed, "--save", "", "--appendonly", "no", *self._options]

    @property
    def url(self) -> str:
        """With a password, which a server without one takes as well: no output may show it."""
        return f"redis://default:{CANARY_PASSWORD}@{_HOST}:{self.port}/0"

    def answers(self) -> bool:
        """Return whether a PING is answered; one that asks for a password is up, one that loads is not."""
        with socket.create_connection((_HOST, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))


class DynamoDBLocal(Server):
    """Amazon's own, in memory. It listens on all interfaces and wants keys of letters and digits only."""

    def command(self) -> list[str]:
        jars = CACHE / "dynamodb-local" / "lib"
        if not jars.is_dir():
            raise ServerMissingError("no DynamoDB Local: run scripts/get-servers")
        main = "software.amazon.dynamodb.services.local.main.ServerRunner"
        options = ["-inMemory", "-sharedDb", "-disableTelemetry", "-port", str(self.port)]
        return [_find("java"), "-cp", f"{jars}/*", main, *options]

    def answers(self) -> bool:
        return _speaks_http(self.port)


class Dynalite(Server):
    """The DynamoDB for machines without Java. It knows neither UpdateTimeToLive nor transactions."""

    def command(self) -> list[str]:
        binary = _find("dynalite", CACHE / "dynalite/node_modules/.bin/dynalite")
        no_waits = ["--createTableMs", "0", "--deleteTableMs", "0"]
        return [binary, "--host", _HOST, "--port", str(self.port), *no_waits]

    def answers(self) -> bool:
        return _speaks_http(self.port)


class Dynoxide(Server):
    """A fast DynamoDB for benchmarks (`scripts/get-servers --bench`); its TTL never deletes."""

    def command(self) -> list[str]:
        binary = _find("dynoxide", CACHE / "dynoxide/bin/dynoxide")
        return [binary, "serve", "--port", str(self.port)]

    def answers(self) -> bool:
        return _speaks_http(self.port)


class Secantus(Server):
    """SecantusDB, which speaks MongoDB's protocol: a process of its own, since its licence is the GPL."""

    def command(self) -> list[str]:
        binary = _find("secantusd-py", CACHE / "secantus/bin/secantusd-py")
        where = ["--host", _HOST, "--port", str(self.port), "--storage-path", str(self.folder)]
        return [binary, *where, "--oplog-max-entries", "1000", "--sync-on-commit"]

    @property
    def url(self) -> str:
        return f"mongodb://{_HOST}:{self.port}"

    def answers(self) -> bool:
        return _accepts(self.port)


class Mongod(Secantus):
    """MongoDB's own server, where it is on the path."""

    def command(self) -> list[str]:
        return [_find("mongod"), "--bind_ip", _HOST, "--port", str(self.port), "--dbpath", str(self.folder)]


class PostgreSQL(Server):
    """PostgreSQL with a superuser `postgres`; `options` are settings: `"fsync=off"`. It does not run as root.

    With `tls` it takes TLS as well, by a certificate of that authority for 127.0.0.1.
    """

    def __init__(self, folder: Path, *options: str, tls: "trustme.CA | None" = None) -> None:
        self._options = options
        # A folder of pytest's is for its owner alone, who may be root.
        self._home = Path(tempfile.mkdtemp(prefix="ingest-postgres-", dir=None if os.getuid() == 0 else folder))
        if tls is not None:
            certificate = tls.issue_cert("127.0.0.1")
            certificate.private_key_and_cert_chain_pem.write_to_path(self._home / "server.pem")
            self._options = (
                *options,
                "ssl=on",
                *(f"ssl_{what}_file={self._home}/server.pem" for what in ("cert", "key")),
            )
        super().__init__(self._home)

    def command(self) -> list[str]:
        fixed = [f"listen_addresses={_HOST}", f"port={self.port}", f"unix_socket_directories={self._home}"]
        settings = [word for option in (*fixed, *self._options) for word in ("-c", option)]
        return [*_unprivileged(), str(_postgres_bin() / "postgres"), "-D", str(self.data), *settings]

    @property
    def data(self) -> Path:
        return self._home / "data"

    def start(self) -> None:
        if not self.data.exists():
            self._initialize()
        super().start()

    def _initialize(self) -> None:
        password = self._home / "password"
        password.write_text(CANARY_PASSWORD)
        (self._home / "server.log").touch()
        self._own(self._home, *self._home.iterdir())
        where = [str(_postgres_bin() / "initdb"), "-D", str(self.data), "-E", "UTF8", "--locale=C", "--no-sync"]
        logins = ["-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}"]
        command: list[str] = [*_unprivileged(), *where, *logins]
        subprocess.run(command, check=True, cwd=self._home, stdout=subprocess.DEVNULL)

    def _own(self, *paths: Path) -> None:
        for path in paths:
            path.chmod(0o700)
            if os.getuid() == 0:
                shutil.chown(path, "postgres", "postgres")

    def standby(self) -> "PostgreSQL":
        """Another one that follows this one, which runs; yet to be started."""
        found = PostgreSQL(self.folder, *self._options)
        found._own(found._home)
        command = [
            *_unprivileged(),
            str(_postgres_bin() / "pg_basebackup"),
            "-D",
            str(found.data),
            "-d",
            self.url,
            "-R",
        ]
        subprocess.run([*command, "--checkpoint=fast", "--no-sync"], check=True, cwd=found._home)
        return found

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{CANARY_PASSWORD}@{_HOST}:{self.port}/postgres"

    def send(self, number: signal.Signals) -> None:
        """To each of its processes, since each connection has one."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *map(int, children)):
            os.kill(pid, number)

    def answers(self) -> bool:
        ready = [str(_postgres_bin() / "pg_isready"), "-q", "-h", _HOST, "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        """At once, whoever is connected (SIGINT), and without what was stored."""
        self._end(signal.SIGINT)
        shutil.rmtree(self._home, ignore_errors=True)


class PgBouncer(Server):
    """The pooler before a PostgreSQL: in transaction mode, each transaction may have another connection."""

    def __init__(self, folder: Path, server: PostgreSQL) -> None:
        self._server = server
        super().__init__(folder)

    def command(self) -> list[str]:
        cached = (CACHE / "pgbouncer").resolve()  # the way there may be root's alone
        binary = _find("pgbouncer", cached / "usr/sbin/pgbouncer")
        libraries = ":".join(str(path) for path in cached.glob("usr/lib/*/"))
        login = f"user=postgres password={CANARY_PASSWORD}"
        ini = self._server.folder / "pgbouncer.ini"
        ini.write_text(f"""
            [databases]
            postgres = host={_HOST} port={self._server.port} {login}
            [pgbouncer]
            listen_addr = {_HOST}
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 3
        """)
        return [*_unprivileged(), "env", f"LD_LIBRARY_PATH={libraries}", binary, str(ini)]

    @property
    def url(self) -> str:
        return f"postgresql://anyone@{_HOST}:{self.port}/postgres"

    def answers(self) -> bool:
        return _accepts(self.port)


def _unprivileged() -> list[str]:
    """What starts a program as the user of Debian's package, where this is root."""
    if os.getuid() != 0:
        return []
    return [_find("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]


def _postgres_bin() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    found = sorted(debian, key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0)
    return found[-1].parent if found else Path(_find("postgres")).resolve().parent


def find_postgresql(folder: Path, *options: str, tls: "trustme.CA | None" = None) -> PostgreSQL:
    """Return a PostgreSQL yet to be started; fetch one where there is none."""
    try:
        return PostgreSQL(folder, *options, tls=tls)
    except ServerMissingError:
        _fetch("postgresql")
        return PostgreSQL(folder, *options, tls=tls)


def find_pgbouncer(folder: Path, server: PostgreSQL) -> PgBouncer:
    """Return the pooler before this server, yet to be started; fetch it where it is missing."""
    try:
        return PgBouncer(folder, server)
    except ServerMissingError:
        _fetch("pgbouncer")
        return PgBouncer(folder, server)


def find_earlier() -> Path:
    """Return the command of version 0.1.0 of this program; fetch it where it is not."""
    command = CACHE / "earlier-0.1.0/bin/ingest-service"
    if not command.exists():
        _fetch("earlier")
    if not command.exists():
        raise ServerMissingError("no version 0.1.0: run scripts/get-servers earlier")
    return command


def find_mongodb(folder: Path) -> Server:
    """Return a server of MongoDB's protocol yet to be started; fetch one where there is none."""
    try:
        return _any_mongodb(folder)
    except ServerMissingError:
        _fetch("mongodb")
        return _any_mongodb(folder)


def _any_mongodb(folder: Path) -> Server:
    try:
        return Mongod(folder)
    except ServerMissingError:
        return Secantus(folder)


def find_redis(folder: Path, *options: str) -> Redis:
    """Return a Redis yet to be started; fetch it first where it is missing."""
    try:
        return Redis(folder, *options)
    except ServerMissingError:
        _fetch("redis")
        return Redis(folder, *options)


def find_dynamodb(folder: Path) -> Server:
    """Return the most faithful DynamoDB that this machine can run, yet to be started."""
    try:
        return _any_dynamodb(folder)
    except ServerMissingError:
        _fetch("dynamodb")
        return _any_dynamodb(folder)


def find_promtool() -> str:
    """Return the path of what comes with Prometheus to check and try rules; fetch it first where it is missing."""
    cached = CACHE / "prometheus/usr/bin/promtool"
    try:
        return _find("promtool", cached)
    except ServerMissingError:
        _fetch("prometheus")
        return _find("promtool", cached)


def find_chromium() -> str:
    """Return the path of a browser; try to fetch one where there is none."""
    try:
        return _any_chromium()
    except ServerMissingError:
        _fetch("chromium")
        return _any_chromium()


def free_port() -> int:
    with socket.create_server((_HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _any_dynamodb(folder: Path) -> Server:
    try:
        return DynamoDBLocal(folder)
    except ServerMissingError:
        return Dynalite(folder)


def _any_chromium() -> str:
    for name in ("chromium-browser", "google-chrome"):
        if on_path := shutil.which(name):
            return on_path
    return _find("chromium")


def _find(name: str, cached: Path | None = None) -> str:
    if on_path := shutil.which(name):
        return on_path
    if cached is not None and os.access(cached, os.X_OK):
        return str(cached)
    raise ServerMissingError(f"no {name} on the path or in the cache: run scripts/get-servers")


def _fetch(server: str) -> None:
    # The script itself says what it fetches, and why it cannot; the next look then finds nothing.
    subprocess.run([ROOT / "scripts" / "get-servers", server], check=False)


def _accepts(port: int) -> bool:
    with socket.create_connection((_HOST, port), timeout=1):
        return True


def _speaks_http(port: int) -> bool:
    """Return whether any answer comes: a plain GET is an error to some of them, and proof enough."""
    connection = HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status > 0
    finally:
        connection.close()
