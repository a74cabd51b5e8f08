"""Files that are put into an inbox: whole, in nobody's place, under a good name, or not at all."""

import asyncio
import resource
import socket
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from fastapi import FastAPI
from starlette.types import Message

from ingest_service.config import InboxSettings
from ingest_service.service.http import uploading
from ingest_service.service.http.problems import handle_errors
from ingest_service.service.http.uploading import upload_router
from ingest_service.service.uploads import MOST_AT_ONCE, Uploads
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER
from tests.service.conftest import Service, eventually

ROWS = f"{HEADER}\n7,1,{FIRST_MS}\n7,2,{FIRST_MS + 1000}\n".encode()
CONFIG = """
to = ["lite"]
[sinks]
lite = "sqlite:///lite.db"
[serve]
upload_mb = 2
[[serve.inbox]]
name = "drop"
url = "drop"
pattern = "*.csv"
complete = "rename"
afterwards = "{afterwards}"
[[serve.inbox]]
name = "marked"
url = "marked"
complete = "done-marker"
[[serve.inbox]]
name = "store"
url = "s3://bucket/in/"
"""


@pytest.fixture
def served(service: Service, tmp_path: Path) -> Service:
    """With an inbox for uploads, from which nothing is moved."""
    start(service, tmp_path)
    return service


def start(service: Service, folder: Path, afterwards: str = "keep", **environment: str) -> None:
    for name in ("drop", "marked"):
        (folder / name).mkdir(exist_ok=True)
    service.start(CONFIG.format(afterwards=afterwards), AWS_ENDPOINT_URL="http://127.0.0.1:9", **environment)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def uploads_into(folder: Path) -> Uploads:
    return Uploads([InboxSettings.model_validate({"name": "drop", "url": str(folder)})], 1_000)


def half_sent(service: Service, name: str, sent: bytes, length: int) -> socket.socket:
    """A connection over which a part of a file has come."""
    url = urlsplit(service.url)
    connection = socket.create_connection((url.hostname or "", url.port or 80), timeout=60)
    head = f"PUT /v1/uploads/drop/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + sent)
    return connection


# --- what is good ---------------------------------------------------------------------------------


def test_a_file_is_put_and_loaded(service: Service, tmp_path: Path) -> None:
    """It is on disk when the answer comes, the inbox loads it like any other, and nothing else is left."""
    start(service, tmp_path, "move")
    assert service.get("/v1/uploads") == {
        "inboxes": [{"name": "drop", "pattern": "*.csv"}, {"name": "marked", "pattern": "*"}],
        "most_bytes": 2_000_000,
    }
    answer = service.ask("PUT", "/v1/uploads/drop/caf%C3%A9%20one.csv", ROWS)
    assert (answer.status, answer.content) == (201, {"inbox": "drop", "file": "café one.csv", "bytes": len(ROWS)})
    (run,) = eventually(lambda: service.get("/v1/runs")["runs"])
    done = service.until(run, "done", "failed")
    assert (done["state"], done["report"]["sources"][0]["sinks"]["lite"]["written"]) == ("done", 2)
    (moved,) = eventually(lambda: list((tmp_path / "drop" / "done").glob("*")))
    assert moved.read_bytes() == ROWS and files(tmp_path / "drop") == {}
    assert service.ask("PUT", "/v1/uploads/drop/caf%C3%A9%20one.csv", ROWS).status == 201, "its name is free again"


def test_an_inbox_that_waits_for_markers_gets_one(served: Service, tmp_path: Path) -> None:
    """Who has put a file is done with it."""
    assert served.ask("PUT", "/v1/uploads/marked/a.csv", ROWS).status == 201
    (run,) = eventually(lambda: served.get("/v1/runs")["runs"])
    assert served.until(run, "done", "failed")["state"] == "done"
    assert files(tmp_path / "marked") == {"a.csv": ROWS, "a.csv.done": b""}


def test_an_empty_file_and_one_as_long_as_may_be(served: Service, tmp_path: Path) -> None:
    """Both are put; a byte more is refused before it is sent."""
    whole = ROWS + b"\n" * (2_000_000 - len(ROWS))
    assert served.ask("PUT", "/v1/uploads/drop/empty.csv", b"").status == 201
    assert served.ask("PUT", "/v1/uploads/drop/whole.csv", whole).status == 201
    with closing(half_sent(served, "more.csv", b"", 2_000_001)) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    assert files(tmp_path / "drop") == {"empty.csv": b"", "whole.csv": whole}


# --- nobody's place -------------------------------------------------------------------------------


def test_a_file_takes_no_others_place(served: Service, tmp_path: Path) -> None:
    """409 for a name that is there, were it a folder or a link that leads nowhere; what is there stays."""
    inbox = tmp_path / "drop"
    (inbox / "old.csv").write_bytes(b"old")
    (inbox / "folder.csv").mkdir()
    (inbox / "link.csv").symlink_to("nowhere")
    for name in ("old", "folder", "link"):
        answer = served.ask("PUT", f"/v1/uploads/drop/{name}.csv", ROWS)
        assert (answer.status, answer.content["title"]) == (409, "There is one already.")
    assert (inbox / "old.csv").read_bytes() == b"old" and not (inbox / "nowhere").exists()
    assert {path.name for path in inbox.iterdir()} == {"old.csv", "folder.csv", "link.csv"}


def test_of_two_at_once_one_gets_the_name(served: Service, tmp_path: Path) -> None:
    """Both began when it was free; the one that is whole first has it, and the other is told at its end."""
    first, second = ROWS + b"8,1,1583366400000\n", ROWS + b"9,1,1583366400000\n"
    with (
        closing(half_sent(served, "a.csv", first[:20], len(first))) as one,
        closing(half_sent(served, "a.csv", second[:20], len(second))) as other,
    ):
        eventually(lambda: list((tmp_path / "drop").glob(".upload-*")), lambda found: len(found) == 2)
        other.sendall(second[20:])
        assert other.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
        one.sendall(first[20:])
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 409 ")
    assert files(tmp_path / "drop") == {"a.csv": second}


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(".csv", "..", ".hidden.csv", "a.txt", "a.csv.part", "a.csv.done", "a.csv.loaded", "done", "a.CSV"),
        *("..\\a.csv", "a\nb.csv", "a\x00.csv", "a\u202evsc.csv", "é" * 124 + ".csv", "a" * 300 + ".csv"),
    ],
)  # fmt: skip
def test_a_name_must_be_one_that_the_inbox_loads(served: Service, tmp_path: Path, name: str) -> None:
    """Else it would lie there for good, or be another's: refused, with a sentence, and nothing is written."""
    answer = served.ask("PUT", f"/v1/uploads/drop/{quote(name)}", ROWS)
    assert answer.status == 422 and answer.content["detail"].endswith((".", ")"))
    assert files(tmp_path / "drop") == {}


@pytest.mark.parametrize("path", ["drop/../../a.csv", "drop/..%2fa.csv", "drop/%2fetc%2fa.csv", "drop/", "none/a.csv"])
def test_a_path_leads_nowhere(served: Service, tmp_path: Path, path: str) -> None:
    """There is nothing below an inbox, beside it or above it; nor can files be put into a store."""
    before = {found for found in tmp_path.rglob("*") if "lite" not in found.name}
    for one in (path, "store/a.csv"):
        assert served.ask("PUT", f"/v1/uploads/{one}", ROWS).status in (404, 405)
    assert {found for found in tmp_path.rglob("*") if "lite" not in found.name} == before


# --- what breaks off ------------------------------------------------------------------------------


@pytest.mark.fault(85)
def test_what_breaks_off_leaves_nothing(served: Service, tmp_path: Path) -> None:
    """The client goes in the middle: neither the file nor what there was of it stays, and its name is free."""
    with closing(half_sent(served, "a.csv", ROWS[:10], len(ROWS))):
        eventually(lambda: list((tmp_path / "drop").glob(".upload-*")))
    eventually(lambda: not list((tmp_path / "drop").iterdir()))
    assert served.ask("PUT", "/v1/uploads/drop/a.csv", ROWS).status == 201
    assert "request failed" not in served.log


@pytest.mark.fault(85)
def test_a_service_that_is_killed_leaves_no_half_file(served: Service, tmp_path: Path) -> None:
    """What it had of one has no name that an inbox takes, and the next start removes it; a locked one stays."""
    inbox = tmp_path / "drop"
    with closing(half_sent(served, "a.csv", ROWS[:10], len(ROWS))):
        (part,) = eventually(lambda: list(inbox.glob(".upload-*")))
        uploads_into(inbox).clear()
        assert part.exists(), "somebody writes it"
        served.kill()
    assert part.exists() and not (inbox / "a.csv").exists()
    served.start()
    assert not part.exists()


def test_a_service_that_stops_waits_for_nobody(served: Service, tmp_path: Path) -> None:
    """A file that is on its way does not hold it up, and leaves nothing."""
    with closing(half_sent(served, "a.csv", ROWS[:10], len(ROWS))):
        eventually(lambda: list((tmp_path / "drop").glob(".upload-*")))
        assert served.stop() == 0
    assert files(tmp_path / "drop") == {}


@pytest.mark.fault(85)
def test_a_disk_that_is_full_is_told(served: Service, tmp_path: Path) -> None:
    """503 with what to do; nothing stays of it."""
    limits = resource.prlimit(served.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.pid, resource.RLIMIT_FSIZE, (500_000, limits[1]))
    answer = served.ask("PUT", "/v1/uploads/drop/a.csv", ROWS + b"\n" * 1_000_000)
    resource.prlimit(served.pid, resource.RLIMIT_FSIZE, limits)
    assert answer.status == 503 and "make room" in answer.content["detail"]
    assert files(tmp_path / "drop") == {}


def test_an_inbox_without_its_folder_is_told(served: Service, tmp_path: Path) -> None:
    """503, and no folder is made: it may be a disk that is not there."""
    (tmp_path / "marked").rmdir()
    assert served.ask("PUT", "/v1/uploads/marked/a.csv", ROWS).status == 503
    assert not (tmp_path / "marked").exists()


# --- attacks --------------------------------------------------------------------------------------


def test_only_so_many_come_at_once(served: Service) -> None:
    """Who holds up the others is bounded; once one has ended there is room again."""
    with ExitStack() as stack:
        held = [
            stack.enter_context(closing(half_sent(served, f"{i}.csv", ROWS[:5], len(ROWS))))
            for i in range(MOST_AT_ONCE)
        ]
        eventually(lambda: list((served.folder / "drop").glob(".upload-*")), lambda found: len(found) == MOST_AT_ONCE)
        assert served.ask("PUT", "/v1/uploads/drop/more.csv", ROWS).status == 503
        held[0].close()
        eventually(lambda: served.ask("PUT", "/v1/uploads/drop/more.csv", ROWS).status, lambda status: status == 201)


@pytest.mark.fault(85)
@pytest.mark.parametrize("kind", ["silent", "slow"])
def test_a_file_must_come_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """One that trickles, or comes no further, is given up (408): it holds the place of others."""
    monkeypatch.setattr(uploading, "_SILENT_S", 0.05)
    app = FastAPI()
    handle_errors(app)
    app.include_router(upload_router(uploads_into(tmp_path)))
    headers = [(b"content-length", b"100")]
    path = "/v1/uploads/drop/a.csv"
    scope = {"type": "http", "method": "PUT", "path": path, "headers": headers, "query_string": b""}
    answer: list[Message] = []
    answered: list[int] = []
    if kind == "slow":
        monkeypatch.setattr(uploading, "_SLOWEST_BYTES_PER_S", 1 << 40)

    async def receive() -> Message:
        await asyncio.sleep(0 if kind == "slow" or not answered else 3_600)
        answered.append(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        answer.append(message)

    asyncio.run(app(scope, receive, send))
    assert answer[0]["status"] == 408
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_puts_files(service: Service, tmp_path: Path) -> None:
    """Without the token 401, and from another site's page 403, both before the file is taken in."""
    start(service, tmp_path, INGEST_SERVE__TOKEN="correct horse battery")
    with closing(half_sent(service, "a.csv", b"", 2_000_000)) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
    service.headers = {"Authorization": "Bearer correct horse battery"}
    for foreign in ({"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        service.headers |= foreign
        assert service.ask("PUT", "/v1/uploads/drop/a.csv", ROWS).status == 403
        del service.headers[next(iter(foreign))]
    assert files(tmp_path / "drop") == {}
    assert service.ask("PUT", "/v1/uploads/drop/a.csv", ROWS).status == 201


@pytest.mark.parametrize("path", ["/v1/uploads/drop/a.csv", "/v1/uploads/", "/v1/uploads/x/y/z"])
def test_a_body_without_end_is_not_taken_in(served: Service, path: str) -> None:
    """In chunks there is no length to hold it to: refused (411), and what follows goes nowhere, nor into memory."""
    url = urlsplit(served.url)
    before = resident_mb(served.pid)
    with socket.create_connection((url.hostname or "", url.port or 80), timeout=60) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1 << 16).split()[1] in (b"307", b"404", b"405", b"411")
        sending = threading.Thread(target=flood, args=(connection,))
        sending.start()
        sending.join()
    assert resident_mb(served.pid) < before + 20
    assert files(served.folder / "drop") == {}


def flood(connection: socket.socket) -> None:
    """Send chunks until nobody takes them."""
    try:
        for _ in range(1_000):
            connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    except OSError:
        pass


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def test_a_long_file_takes_no_memory(service: Service, tmp_path: Path) -> None:
    """It goes to the disk as it comes."""
    start(service, tmp_path)
    service.kill()
    (tmp_path / "ingest.toml").write_text(CONFIG.format(afterwards="keep").replace("upload_mb = 2", "upload_mb = 200"))
    service.start(AWS_ENDPOINT_URL="http://127.0.0.1:9")
    before = resident_mb(service.pid)
    assert service.ask("PUT", "/v1/uploads/marked/long.part.csv", b"1,2,3\n" * 25_000_000).status == 201
    assert resident_mb(service.pid) < before + 20
