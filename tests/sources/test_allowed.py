"""Which sources the service may read, in all the spellings in which others may be asked for."""

import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ingest_service.errors import LocalIOError, SourceChanged, SourceNotFound
from ingest_service.sources import source_allowed
from ingest_service.sources.allowed import Allowed, SourceRefused, is_never_allowed, normal_url
from ingest_service.sources.allowed_http import _Network
from ingest_service.sources.base import Source
from tests.buckets import ObjectServer

HEADER = b"user,item,timestamp\n"


def content(source: Source) -> bytes:
    with source.open() as stream:
        return b"".join(iter(lambda: stream.read(1 << 20), b""))


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file; beside it one that is not for all, and links and a pipe that lead to it."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "pairs.csv").write_bytes(HEADER)
    (tmp_path / "root-secret").mkdir()
    (tmp_path / "root-secret" / "secret.csv").write_bytes(HEADER)
    (root / "link.csv").symlink_to(tmp_path / "root-secret" / "secret.csv")
    (root / "folder").symlink_to(tmp_path / "root-secret")
    (root / "round").symlink_to("round")
    os.mkfifo(root / "pipe.csv")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "../root-secret/secret.csv",
        "link.csv",
        "folder/secret.csv",
        "folder/../secret.csv",
        "/etc/passwd",
        "/proc/self/environ",
        "../root-secret",
        "..",
        "a\0b",
        "link.csv#member",
        "../root-secret/secret.csv#member",
    ],
)
def test_nothing_leads_out_of_a_root(root: Path, name: str) -> None:
    """Neither dots, links nor absolute paths; a folder whose name begins with a root's is another folder."""
    with pytest.raises(SourceRefused):
        source_allowed(os.path.join(root, name), Allowed.of([root]))  # noqa: PTH118 - "/etc" replaces the root


@pytest.mark.parametrize("name", ["missing.csv", "*.csv", "pipe.csv", "", "round", "-"])
def test_what_is_no_file_is_not_read(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither patterns, pipes, folders, loops of links nor standard input."""
    monkeypatch.chdir(root)
    with pytest.raises((SourceNotFound, SourceRefused)):
        source_allowed(str(root / name) if name != "-" else "-", Allowed.of([root]))


def test_a_file_below_a_root_is_read(root: Path) -> None:
    """By its real path, also where a link within the root, or the root itself, is one."""
    (root / "inner.csv").symlink_to("pairs.csv")
    outer = root.parent / "outer"
    outer.symlink_to(root)
    for name in (root / "pairs.csv", root / "inner.csv", outer / "pairs.csv"):
        source = source_allowed(str(name), Allowed.of([outer]))
        assert source.uri == (root / "pairs.csv").as_uri()
        assert content(source) == HEADER


def test_a_link_that_is_planted_later_is_refused(root: Path) -> None:
    """Between the look and the opening the file, or a folder above it, may be replaced by a link, or by a pipe."""
    (root / "deep").mkdir()
    (root / "deep" / "secret.csv").write_bytes(HEADER)
    allowed = Allowed.of([root])
    by_file, by_folder = (source_allowed(str(root / name), allowed) for name in ("pairs.csv", "deep/secret.csv"))
    (root / "pairs.csv").unlink()
    (root / "pairs.csv").symlink_to(root.parent / "root-secret" / "secret.csv")
    (root / "deep").rename(root / "was")
    (root / "deep").symlink_to(root.parent / "root-secret")
    with pytest.raises((SourceRefused, LocalIOError)):
        by_file.open()
    with pytest.raises(SourceRefused):
        by_folder.open()
    (root / "pairs.csv").unlink()
    os.mkfifo(root / "pairs.csv")
    with pytest.raises(SourceRefused):
        by_file.open()


# --- URLs -----------------------------------------------------------------------------------------

LISTED = ("https://data.example/in/", "s3://bucket/in", "http://10.1.2.3:8080/")


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://data.example/in/a.csv", "https://data.example/in/a.csv"),
        ("HTTPS://DATA.Example:443/in/a.csv", "https://data.example/in/a.csv"),
        ("https://data.example./in/a.csv", "https://data.example/in/a.csv"),
        ("s3://bucket/in/a.csv", "s3://bucket/in/a.csv"),
        ("http://10.1.2.3:8080/a.csv", "http://10.1.2.3:8080/a.csv"),
    ],
)
def test_one_spelling_for_one_address(url: str, normal: str) -> None:
    """What is listed is allowed in the spellings that are harmless, and goes by one of them."""
    assert Allowed.of(LISTED).url(url) == normal


@pytest.mark.parametrize(
    "url",
    [
        "https://data.example/other.csv",
        "https://data.example/inner/a.csv",
        "https://data.example:8443/in/a.csv",
        "http://data.example/in/a.csv",
        "https://data.example.evil/in/a.csv",
        "https://evil/https://data.example/in/a.csv",
        "https://data.example@evil/in/a.csv",
        "https://evil@data.example/in/a.csv",
        "https://data.example\\@evil/in/a.csv",
        "https://data.example%2eevil/in/a.csv",
        "https://data.example#@evil/in/a.csv",
        "https://data.example/in/../secret.csv",
        "https://data.example/in/%2e%2e/secret.csv",
        "https://data.example/in/..%2fsecret.csv",
        "https://data.example/in/a.csv?to=evil",
        "https://data.example /in/a.csv",
        "https://data.example\n/in/a.csv",
        "https:///in/a.csv",
        "https://data.example:port/in/a.csv",
        "s3://bucket/inner/a.csv",
        "s3://bucket2/in/a.csv",
        "s3://key:secret@bucket/in/a.csv",
        "gs://bucket/in/a.csv",
        "file:///etc/passwd",
        "ftp://data.example/in/a.csv",
        "gopher://data.example/in/a.csv",
        "https://ｄata.example/in/a.csv",  # noqa: RUF001 - that is the point
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    """Another host, port, scheme, bucket or path, however it is dressed up."""
    with pytest.raises(SourceRefused):
        source_allowed(url, Allowed.of(LISTED))


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fd00:ec2::254]",
        "[FD00:EC2::254]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "0.0.0.0",
        "0",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.1",
        "100.100.100.200",
        "169。254。169。254",
        "①⑥⑨.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_no_spelling_of_an_inner_address_can_even_be_listed(host: str) -> None:
    """Link-local and metadata addresses, and numbers that are no address in its usual form, are refused as a URL."""
    with pytest.raises(SourceRefused):
        normal_url(f"http://{host}/latest/meta-data")


@pytest.mark.parametrize(
    "address", ["169.254.1.1", "fe80::1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::", "::", "0.1.2.3"]
)
def test_addresses_that_are_never_connected_to(address: str) -> None:
    """The same holds for what a name resolves to."""
    assert is_never_allowed(ipaddress.ip_address(address))
    assert not is_never_allowed(ipaddress.ip_address("10.1.2.3"))
    assert not is_never_allowed(ipaddress.ip_address("2606:4700::1"))


def test_no_name_leads_to_this_machine() -> None:
    """A name that resolves to loopback is refused at the time of the connection; a listed address of it is not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        network = _Network()
        network.until_s = time.monotonic() + 5
        with pytest.raises(SourceRefused):
            network.connect_tcp("localhost", port)
        network.connect_tcp("127.0.0.1", port).close()


# --- objects over HTTP ----------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer() as found:
        yield found


def test_an_object_is_read_in_ranges_of_one_version(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from any store: ranges, each retried; a version that changes is noticed; an empty one is empty."""
    monkeypatch.setattr("ingest_service.sources.object_file.RANGE_BYTES", 1 << 16)
    rows = HEADER + b"".join(b"%d,%d,1583366400000\n" % (row % 97, row) for row in range(20_000))
    server.objects.update({"/in/a.csv": rows, "/in/empty.csv": b""})
    allowed = Allowed.of([f"{server.url}/in/"])
    server.cuts = 1
    source = source_allowed(f"{server.url}/in/a.csv", allowed)
    assert content(source) == rows and len(server.ranges) > 3
    assert len(server.clients) == 2  # one connection broke off, the other was kept
    assert source.version() == source_allowed(f"{server.url}/in/a.csv", allowed).version() != ""
    assert content(source_allowed(f"{server.url}/in/empty.csv", allowed)) == b""
    with pytest.raises(SourceNotFound):
        source_allowed(f"{server.url}/in/none.csv", allowed).open()
    with source.open() as stream:
        stream.read(10)
        server.objects["/in/a.csv"] = rows[::-1]
        with pytest.raises(SourceChanged):
            while stream.read(1 << 20):
                pass


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", "version"),
        (b"HTTP/1.1 200 OK\r\nX: ", "open"),
        (b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-999/1000\r\n\r\n", "open"),
    ],
    ids=["a question", "a head", "a body"],
)
def test_a_host_that_trickles_is_given_up(head: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps nobody waiting beyond the time for the whole."""
    monkeypatch.setattr("ingest_service.sources.allowed_http._HEAD_S", 0.5)
    monkeypatch.setattr("ingest_service.sources.allowed_http._RANGE_S", 0.5)
    monkeypatch.setattr("ingest_service.sources.object_file._TRIES", 1)
    ended = threading.Event()

    def trickle(listener: socket.socket) -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                connection.sendall(head)
                while not ended.wait(0.02):
                    connection.sendall(b"7")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/in/a.csv"
        source = source_allowed(url, Allowed.of([url]))
        try:
            with pytest.raises(LocalIOError, match="does not answer in time"):
                getattr(source, name)()
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class Redirecting(BaseHTTPRequestHandler):
    """Sends everybody to what stands in the path's last part, once the first was read."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.server.target)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def redirecting() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_redirects_are_held_to_the_list(redirecting: ThreadingHTTPServer, server: ObjectServer) -> None:
    """A redirect to what is listed is followed; one to anything else, or in a circle, is not."""
    server.objects.update({"/in/a.csv": HEADER, "/secret/a.csv": HEADER})
    here = f"http://127.0.0.1:{redirecting.server_port}/"
    allowed = Allowed.of([here, f"{server.url}/in/"])
    redirecting.target = f"{server.url}/in/a.csv"  # type: ignore[attr-defined]
    assert content(source_allowed(f"{here}a.csv", allowed)) == HEADER
    for target in (
        f"{server.url}/secret/a.csv",
        f"{server.url}/in/../secret/a.csv",
        f"http://localhost:{redirecting.server_port}/",
        "http://169.254.169.254/latest/",
        "http://2852039166/",
        "file:///etc/passwd",
        "//169.254.169.254/",
    ):
        redirecting.target = target  # type: ignore[attr-defined]
        with pytest.raises(SourceRefused):
            source_allowed(f"{here}a.csv", allowed).open()
    redirecting.target = here  # type: ignore[attr-defined]
    with pytest.raises(LocalIOError):
        source_allowed(f"{here}a.csv", allowed).version()


@pytest.mark.parametrize(
    "path", ["..;/a", "a/..;v=1/b", "..%5cb", "%2e%2e%5cb", "%252e%252e/b", "%25252e%25252e/b", ".%252e/b", "..%3b/b"]
)
def test_dots_are_found_however_they_are_written(path: str) -> None:
    """Some server on the way may take them for a way out of the prefix."""
    with pytest.raises(SourceRefused, match=r"\.\."):
        normal_url(f"https://data.example/in/{path}")


@pytest.mark.parametrize("path", ["a..b/c", "...", "a%5cb", "a;v=1", "100%25", "%2525"])
def test_what_only_looks_like_dots_is_allowed(path: str) -> None:
    """Names of objects have such characters."""
    assert normal_url(f"https://data.example/in/{path}") == f"https://data.example/in/{path}"


@pytest.mark.parametrize("is_refused", [False, True])
def test_hard_links_are_refused_where_that_is_set(tmp_path: Path, is_refused: bool) -> None:
    """A file with a second name may lie outside of the roots under it."""
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.csv").write_text("a,b\n")
    (tmp_path / "root" / "link.csv").hardlink_to(tmp_path / "secret.csv")
    allowed = Allowed.of([tmp_path / "root"], refuse_hard_links=is_refused)
    path = allowed.path(tmp_path / "root" / "link.csv")
    if is_refused:
        with pytest.raises(SourceRefused, match="hard_links"):
            allowed.open_file(path)
        (tmp_path / "secret.csv").unlink()
    allowed.open_file(path).close()
