"""The service under attack, by those who need no login: connections, heads, names. All against the real command."""

import gzip
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ingest_service.runtime.escaped import escaped
from ingest_service.service.http.connections import HEAD_S, MAX_HEAD_BYTES
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER
from tests.service.conftest import Service, eventually

ROWS = f"{HEADER}\n1,2,{FIRST_MS}\n"
FORGED = '{"event":"progress","source":"forged","sinks":{}}'
LITE = 'to = ["lite"]\n[sinks]\nlite = "sqlite:///lite.db"\n[serve]\nroots = ["."]\n'
HALF = b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def connected(service: Service) -> socket.socket:
    url = urlsplit(service.url)
    assert url.hostname is not None
    return socket.create_connection((url.hostname, url.port or 80), timeout=60)


def answer_to(service: Service, sent: bytes) -> bytes:
    """What comes back, to the end of the connection."""
    with connected(service) as connection:
        with suppress(ConnectionError):  # it may be ended before all is sent
            connection.sendall(sent)
        return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    found = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            found += data
    return found


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(service: Service) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{service.pid}/fd").iterdir()}


# --- names ----------------------------------------------------------------------------------------


@pytest.fixture
def cut_off() -> bytes:
    return gzip.compress((ROWS * 2_000).encode())[:-30]


@pytest.mark.fault(31)
def test_a_name_that_looks_like_an_event_is_a_name(service: Service, cut_off: bytes, tmp_path: Path) -> None:
    """Its run fails with its reason, no event or metric is forged, each line of the log is one, and starts go on."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    for number, kind in enumerate((FORGED, '{"event":"report","balanced":1}', "Error: forged\u202e\x1b[31m")):
        (inbox / f"{number}\n{kind}\n.csv.gz").write_bytes(cut_off)
    service.start(f'{LITE}[[serve.inbox]]\nname = "drop"\nurl = "in"\ncomplete = "rename"\n')
    runs = eventually(lambda: service.get("/v1/runs")["runs"], lambda found: len(found) == 3)
    for run in runs:
        ended = service.until(run, "failed", "done")
        assert (ended["state"], ended["exit_code"]) == ("failed", 74)
        assert "\\n" in ended["reason"] and escaped(ended["reason"]) == ended["reason"]
        assert ended["reason"].endswith(".") and not ended["reason"].startswith("forged")
    assert "forged" not in service.ask("GET", "/metrics").content.replace(runs[-1]["source"], "")
    assert all(event["event"] for event in service.events)
    assert len(service.events) == len(service.log.splitlines()), "each line is an object"
    service.kill()
    service.start()
    assert service.get("/v1/runs")["counts"]["failed"] == 3
    answer = service.ask("POST", "/v1/runs", {"source": str(inbox / f"0\n{FORGED}\n.csv.gz")})
    assert service.until(answer.content, "failed", "done")["state"] == "failed"


def test_names_in_answers_and_errors_are_escaped(service: Service, tmp_path: Path) -> None:
    """Also in the words of a problem, and of what is no UTF-8."""
    service.start(LITE)
    name = "a\x1b]0;x\x07\u2028\u202e\x85.csv"
    problem = service.ask("POST", "/v1/runs", {"source": name})
    assert problem.status == 422
    assert "\\x1b" in problem.content["detail"] and escaped(problem.content["detail"]) == problem.content["detail"]
    surrogate = service.ask("POST", "/v1/runs", {"source": "missing\ud800.csv"})
    assert surrogate.status == 422
    no_utf8 = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/caf\xe9.csv"))
    no_utf8.parent.mkdir()
    no_utf8.write_text("who,what\n1,2\n")
    service.kill()
    service.start(f'{LITE}[[serve.inbox]]\nname = "drop"\nurl = "in"\ncomplete = "rename"\n')
    runs = eventually(lambda: service.get("/v1/runs")["runs"])
    assert service.until(runs[0], "failed", "done")["state"] == "failed"
    assert service.get("/v1/runs")["counts"]["failed"] == 1, "it is no bug to show it"


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%07d: v\r\n" % number for number in range(4 << 20 >> 4)),
        b"X-Long: " + b"x" * (8 << 20),
        b"X-" + b"n" * (1 << 20),
        b"\r\n" * (1 << 20),
    ],
    ids=["many", "long value", "long name", "blank lines"],
)
def test_a_head_is_limited(service: Service, head: bytes) -> None:
    """64 KiB, whole: more is refused with 431 before it is taken in, and takes no memory."""
    service.start(LITE)
    before = resident_mb(service.pid)
    start = b"" if head.startswith(b"\r\n") else b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\n"
    for _ in range(4):
        assert answer_to(service, start + head).startswith(b"HTTP/1.1 431 ")
    assert resident_mb(service.pid) < before + 20
    assert service.get("/healthz") == {"status": "alive"}


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
def test_a_head_may_have_just_so_much(service: Service, more: int, status: int) -> None:
    """The limit itself is taken; the target counts too."""
    service.start(LITE)
    for target in ("/healthz", f"/healthz?{'q' * 5_000}"):
        start = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Fill: "
        fill = MAX_HEAD_BYTES - len(start) - len("\r\n\r\n") + more
        found = answer_to(service, f"{start}{'x' * fill}\r\n\r\n".encode())
        assert found.startswith(b"HTTP/1.1 %d " % status)
        if status == 431:
            head, _, body = found.partition(b"\r\n\r\n")
            assert b"application/problem+json" in head and json.loads(body)["status"] == 431


def test_what_follows_a_body_is_limited_too(service: Service) -> None:
    """Trailers without end are no way around it, nor are chunks that carry next to nothing."""
    service.start(LITE)
    start = b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = resident_mb(service.pid)
    answer_to(service, start + b"1\r\nx\r\n0\r\nX-Trailer: " + b"x" * (32 << 20))
    answer_to(service, start + b"1;" + b"e" * (32 << 20))
    assert resident_mb(service.pid) < before + 20
    assert service.get("/healthz") == {"status": "alive"}


@pytest.mark.fault(33)
def test_a_head_must_come_in_time(service: Service) -> None:
    """One that is sent byte by byte is given up after ten seconds in all, and so is a connection that says nothing."""
    service.start(LITE)
    with connected(service) as slow, connected(service) as silent, connected(service) as again:
        again.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"alive" not in received:
            received += again.recv(1 << 16)
        again.sendall(HALF)
        begun = time.monotonic()
        slow.sendall(HALF)
        ended = threading.Event()

        def trickle() -> None:
            with suppress(OSError):
                while not ended.wait(0.3):
                    slow.sendall(b"x")

        trickling = threading.Thread(target=trickle)
        trickling.start()
        try:
            assert rest_of(slow).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - begun > HEAD_S - 1
            assert rest_of(silent) == b""
            assert rest_of(again).startswith(b"HTTP/1.1 408 ")
        finally:
            ended.set()
            trickling.join()


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.fault(33)
def test_half_sent_requests_take_nobodys_place(service: Service, tmp_path: Path) -> None:
    """However many there are, the service answers and runs start: those that wait longest give way."""
    (tmp_path / "a.csv").write_text(ROWS)
    service.descriptors = 256
    service.start(LITE)
    with ExitStack() as stack:
        held = [stack.enter_context(closing(connected(service))) for _ in range(400)]
        for connection in held:
            with suppress(ConnectionError):
                connection.sendall(HALF)
        assert service.get("/healthz") == {"status": "alive"}
        done = service.until(service.submit("a.csv"), "done", "failed")
        assert (done["state"], done["attempt"]) == ("done", 1)
        assert len(descriptors(service)) < 256 - 64
    body = b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    with ExitStack() as stack:
        for _ in range(400):
            connection = stack.enter_context(closing(connected(service)))
            with suppress(ConnectionError):
                connection.sendall(body)
        assert service.get("/healthz") == {"status": "alive"}


@pytest.mark.fault(33)
def test_watchers_leave_room_for_others(service: Service) -> None:
    """Event streams, which last, are refused before they take all connections."""
    service.descriptors = 256
    service.start(LITE)
    with ExitStack() as stack:
        statuses = []
        for _ in range(120):
            connection = HTTPConnection(urlsplit(service.url).netloc, timeout=60)
            stack.callback(connection.close)
            connection.request("GET", "/v1/events")
            statuses.append(connection.getresponse().status)
        assert set(statuses) == {200, 503}
        assert service.get("/healthz") == {"status": "alive"}
        assert service.get("/v1/runs")["runs"] == []


@pytest.mark.fault(34)
def test_a_start_that_lacks_a_resource_is_tried_again(service: Service, tmp_path: Path) -> None:
    """No descriptor is free when the run is to start: it is queued again with that reason, and done later."""
    (tmp_path / "a.csv").write_text(ROWS)
    service.start(LITE)
    connection = HTTPConnection(urlsplit(service.url).netloc, timeout=60)
    with closing(connection):
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        limits = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        highest = max(descriptors(service))
        assert highest + 1 - len(descriptors(service)) <= 3, "or a run could start in the gaps"
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        body = json.dumps({"source": "a.csv"})
        connection.request("POST", "/v1/runs", body, {"Content-Type": "application/json"})
        run = json.loads(connection.getresponse().read())
        ended = eventually(lambda: [event for event in service.events if event["event"] == "run ended"])
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, limits)
    assert (ended[0]["state"], ended[0]["code"]) == ("queued", 74)
    assert "cannot be started" in ended[0]["reason"]
    assert service.until(run, "done", "failed")["state"] == "done"


# --- hosts that say nothing -----------------------------------------------------------------------


@pytest.fixture
def silent_host() -> Iterator[str]:
    """A host that takes connections and says nothing, but for a byte now and then."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, ExitStack() as stack:
        ended = threading.Event()

        def accept() -> None:
            held = []
            listener.settimeout(0.2)
            while not ended.is_set():
                with suppress(TimeoutError):
                    held.append(stack.enter_context(listener.accept()[0]))
                for one in held[::2]:
                    with suppress(OSError):
                        one.sendall(b"H" if one.fileno() > 0 else b"")

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/in/"
        ended.set()
        accepting.join()


@pytest.mark.fault(35)
def test_hosts_that_say_nothing_hold_nobody_up(service: Service, silent_host: str, tmp_path: Path) -> None:
    """While requests wait for such hosts, lists are answered and files loaded; the requests end by a deadline."""
    (tmp_path / "a.csv").write_text(ROWS)
    service.start(f'{LITE}allowed_urls = ["{silent_host}"]\n')
    statuses: list[int] = []

    def post(number: int) -> None:
        statuses.append(service.ask("POST", "/v1/runs", {"source": f"{silent_host}{number}.csv"}).status)

    posting = [threading.Thread(target=post, args=(number,)) for number in range(24)]
    for thread in posting:
        thread.start()
    eventually(lambda: len(statuses) >= 24 - 16)  # those beyond what is waited for at once are refused
    for _ in range(100):
        service.get("/v1/runs")
        service.get("/healthz")
    assert service.until(service.submit("a.csv"), "done", "failed")["state"] == "done"
    assert len(statuses) == 24 - 16, "all that was done while the others waited"
    for thread in posting:
        thread.join()
    assert set(statuses) == {503}
    assert service.stop() == 0
