"""Object stores for tests: one of our own that speaks HTTP and as much of Google's XML API as obstore uses, and S3.

with ObjectServer() as server:
    server.objects["/data/x.zip"] = b"…"   # server.url + "/data/x.zip"; or gs://data/x.zip with server.environment
"""

import threading
import time
import uuid
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from tests.servers import CACHE, Server, _find, _speaks_http

_HOST = "127.0.0.1"


@dataclass
class ObjectServer:
    """Objects by path. `cuts` replies break off halfway, each GET waits `wait_s` first.

    `ranges` were asked for, by `clients`.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    cuts: int = 0
    wait_s: float = 0.0
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    clients: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer((_HOST, 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes this the place of gs:// URLs."""
        return {"GOOGLE_BASE_URL": self.url, "GOOGLE_BEARER_TOKEN": "test"}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: ObjectServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self.store.clients.add(self.client_address)
        time.sleep(self.store.wait_s)
        self._get(body=True)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = self._query()
        if "uploadId" in query:
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
        elif self.headers.get("x-goog-if-generation-match") == "0" and self._name() in self.store.objects:
            self._answer(412)
            return
        else:
            self.store.objects[self._name()] = body
        self._answer(200, headers={"ETag": _etag(body)})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = self._query()
        if "uploads" in query:
            upload = uuid.uuid4().hex
            self.store.uploads[upload] = {}
            xml = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        else:
            parts = self.store.uploads.pop(query["uploadId"])
            numbers = [
                int(one.text or 0) for one in ElementTree.fromstring(body).iter() if one.tag.endswith("PartNumber")
            ]
            data = b"".join(parts[number] for number in numbers)
            self.store.objects[self._name()] = data
            xml = f"<CompleteMultipartUploadResult><ETag>{_etag(data)}</ETag></CompleteMultipartUploadResult>"
        self._answer(200, xml.encode())

    def do_DELETE(self) -> None:
        self.store.uploads.pop(self._query().get("uploadId", ""), None)
        self._answer(204)

    def _get(self, *, body: bool) -> None:
        data = self.store.objects.get(self._name())
        if data is None:
            self._answer(404)
            return
        headers = {"ETag": _etag(data), "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", "Accept-Ranges": "bytes"}
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            self._answer(412)
            return
        wanted = self.headers.get("Range")
        first, last = 0, len(data)
        if wanted and body:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(len(data), int(end) + 1)
            self.store.ranges.append((self._name(), first, last))
            if first >= len(data):
                self._answer(416)
                return
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(data)}"
        self._answer(206 if wanted and body else 200, data[first:last], headers, body=body)

    def _answer(
        self, status: int, data: bytes = b"", headers: dict[str, str] | None = None, *, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if status == 206 and self.store.cuts:
            self.store.cuts -= 1
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _etag(data: bytes) -> str:
    return f'"{hash(data):x}"'


class Moto(Server):
    """S3, in memory."""

    def command(self) -> list[str]:
        return [_find("moto_server", CACHE / "moto/bin/moto_server"), "-H", _HOST, "-p", str(self.port)]

    def answers(self) -> bool:
        return _speaks_http(self.port)

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true"}

    def make_bucket(self, name: str) -> None:
        self.put(name, b"")

    def put(self, path: str, data: bytes) -> None:
        """An object, BUCKET/NAME."""
        connection = HTTPConnection(_HOST, self.port)
        connection.request("PUT", f"/{path}", data)
        assert connection.getresponse().status == 200
        connection.close()


def find_s3(folder: Path) -> Moto:
    """A server yet to be started; ServerMissingError where it was not fetched."""
    return Moto(folder)
