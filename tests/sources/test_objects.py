"""Objects over HTTP, from a server that knows ranges and ETags, and can break a reply off."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from ingest_service.datasets import dataset_named
from ingest_service.errors import ConfigurationError, LocalIOError, SourceChanged, SourceNotFound, UsageError
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.sources import sources_named
from ingest_service.sources.objects import ObjectSource

ROWS = b"".join(b"%d,%d,1583366400000\r\n" % (row % 97, row) for row in range(700_000))
FILE = b"user,item,timestamp\r\n" + ROWS


class Handler(BaseHTTPRequestHandler):
    content: ClassVar[dict[str, bytes]] = {}
    etag: ClassVar[str] = "one"
    cuts: ClassVar[int] = 0  # so many replies still break off halfway
    ranges: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        data = self.content.get(self.path)
        if data is None:
            self.send_error(403 if "secret" in self.path else 404)
            return
        if self.headers.get("If-Match", f'"{self.etag}"') != f'"{self.etag}"':
            self.send_error(412)
            return
        wanted = self.headers["Range"]
        Handler.ranges.append(wanted)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        assert match
        first, last = int(match[1]), min(len(data), int(match[2]) + 1)
        if first >= len(data):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(data)}")
        self.send_header("Content-Length", str(last - first))
        self.send_header("ETag", f'"{self.etag}"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        if Handler.cuts:
            Handler.cuts -= 1
            last = (first + last) // 2
            self.close_connection = True
        self.wfile.write(data[first:last])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.content, Handler.etag, Handler.cuts, Handler.ranges = {"/data/pairs.csv": FILE}, "one", 0, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def whole(url: str) -> bytes:
    parts = []
    with ObjectSource(url).open() as stream:
        while data := stream.read(1 << 20):
            parts.append(data)
    return b"".join(parts)


def test_an_object_is_read_in_ranges(address: str) -> None:
    """The bytes are those of the object; none is asked for twice."""
    assert whole(f"{address}/data/pairs.csv") == FILE
    assert len(Handler.ranges) == -(-len(FILE) // (8 << 20))


@pytest.mark.fault(25)
def test_a_reply_that_breaks_off_is_asked_for_again(address: str) -> None:
    """Three broken replies in a row cost three requests, and no byte."""
    Handler.cuts = 3
    assert whole(f"{address}/data/pairs.csv") == FILE


def test_an_object_that_stays_broken_is_an_error(address: str) -> None:
    """After some tries it is said so: the next run goes on."""
    Handler.cuts = 100
    with pytest.raises(LocalIOError, match="run again to go on"):
        whole(f"{address}/data/pairs.csv")


@pytest.mark.fault(25)
def test_an_object_that_is_replaced_meanwhile_is_refused(address: str) -> None:
    """Ranges of two versions are never put together."""
    with ObjectSource(f"{address}/data/pairs.csv").open() as stream:
        stream.read(1)
        Handler.etag = "two"
        with pytest.raises(SourceChanged):
            while stream.read(1 << 20):
                pass


def test_a_resumed_run_fetches_only_what_it_needs(address: str) -> None:
    """Going on at a place skips the ranges before it, and gives the rest of the rows."""
    source = ObjectSource(f"{address}/data/pairs.csv")
    reader = DelimitedReader(source, dataset_named("microlens"))
    blocks = []
    while (block := reader.next()) is not None:
        blocks.append(block)
    Handler.ranges.clear()
    again = DelimitedReader(source, dataset_named("microlens"))
    again.resume(blocks[-2].end)
    last = again.next()
    assert last is not None and last.data == blocks[-1].data and last.start == blocks[-1].start
    assert len(Handler.ranges) == 2  # the first for the header, and the last


@pytest.mark.parametrize(
    ("path", "error"),
    [("/data/none.csv", SourceNotFound), ("/secret.csv", ConfigurationError), ("", ConfigurationError)],
)
def test_what_cannot_be_read_is_told_apart(address: str, path: str, error: type[Exception]) -> None:
    """Missing, forbidden and unnamed objects are different mistakes."""
    with pytest.raises(error):
        whole(address + path)


def test_an_empty_object_is_empty(address: str) -> None:
    """It has no first range, and that is no error."""
    Handler.content["/empty.csv"] = b""
    assert whole(f"{address}/empty.csv") == b""


def test_secrets_stay_out_of_the_name(address: str) -> None:
    """The address that is stored and logged has no user and no password."""
    assert "canary" not in ObjectSource(address.replace("http://", "http://me:canary@") + "/data/pairs.csv").uri


def test_other_schemes_are_refused() -> None:
    """With a sentence that says what there is."""
    with pytest.raises(UsageError, match="s3, gs, https or file"):
        sources_named("ftp://host/pairs.csv")
