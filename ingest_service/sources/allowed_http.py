"""Objects over HTTP for the service: every connection and every redirect is held to what is allowed.

obstore would resolve names and follow redirects by itself, to wherever they lead.
"""

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Timer
from typing import Any, Self
from urllib.parse import SplitResult, urljoin, urlsplit

from obstore import exceptions

from ingest_service.sources.allowed import Allowed, connect
from ingest_service.sources.object_file import ObjectFile
from ingest_service.sources.object_store import Address, errors_translated

_TIMEOUT_S = 30.0
_CONNECT_S = 10.0  # to any of a name's addresses
_HEAD_S = 15.0  # redirects included
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


class AllowedHttpFile(ObjectFile):
    """An ObjectFile that connects for itself."""

    def __init__(self, address: Address, allowed: Allowed, *, at_once: bool = True) -> None:
        self._allowed = allowed
        super().__init__(address, at_once=at_once)

    def _head(self) -> None:
        with (
            errors_translated(self._address.uri),
            _Alarm(_HEAD_S) as alarm,
            self._answer("HEAD", {}, alarm) as response,
        ):
            self.size, self.etag = int(response.headers.get("Content-Length") or 0), _version(response)

    def _get_once(self, start: int) -> memoryview:
        end = self._range_end(start)
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if self.etag and self.etag.startswith('"'):
            headers["If-Match"] = self.etag
        with self._answer("GET", headers) as response:
            if response.status == 416 and start == 0:
                return memoryview(b"")  # an empty object has no first byte
            given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            if response.status != 206 or given is None or int(given[1]) != start:
                raise exceptions.GenericError("the server does not know ranges")
            if self.etag and _version(response) != self.etag:
                raise exceptions.PreconditionError("another version")
            self.size, self.etag = int(given[3]), _version(response)
            data = response.read(min(end, self.size) - start)
            if start + len(data) < min(end, self.size):
                raise exceptions.GenericError("the answer broke off")
            return memoryview(data)

    @contextmanager
    def _answer(self, method: str, headers: dict[str, str], alarm: "_Alarm | None" = None) -> Iterator[HTTPResponse]:
        """The answer, after redirects, before the alarm goes off.

        Errors are those of obstore, as for any other store; or SourceRefused.
        """
        url = self._address.uri
        for _ in range(_MAX_REDIRECTS):
            parts = urlsplit(self._allowed.url(url))
            try:
                with closing(_connection(parts)) as connection:
                    if alarm is not None:
                        alarm.watch(connection)
                    connection.request(method, parts.path, headers={"Accept-Encoding": "identity", **headers})
                    with connection.getresponse() as response:
                        if response.status not in _REDIRECTS:
                            _raise_for(response.status)
                            yield response
                            return
                        url = urljoin(url, response.headers.get("Location", ""))
            except (OSError, HTTPException) as error:
                raise exceptions.GenericError(type(error).__name__) from error
        raise exceptions.GenericError("too many redirects")


class _Alarm:
    """Hangs up after so many seconds, on a host that sends a byte now and then as well."""

    def __init__(self, after_s: float) -> None:
        self._timer = Timer(after_s, self._hang_up)
        self._timer.daemon = True
        self._connection: HTTPConnection | None = None
        self._is_over = False

    def watch(self, connection: HTTPConnection) -> None:
        """OSError if it is too late already."""
        self._connection = connection
        if self._is_over:
            raise TimeoutError("the host takes too long")

    def _hang_up(self) -> None:
        self._is_over = True
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()


def _raise_for(status: int) -> None:
    if status in (404, 410):
        raise exceptions.NotFoundError(str(status))
    if status in (401, 403):
        raise exceptions.PermissionDeniedError(str(status))
    if status == 412:
        raise exceptions.PreconditionError(str(status))
    if status >= 400 and status != 416:
        raise exceptions.GenericError(str(status))


def _version(response: HTTPResponse) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _connection(parts: SplitResult) -> HTTPConnection:
    if parts.scheme == "https":
        return _AllowedHttps(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    return _AllowedHttp(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)


class _AllowedHttp(HTTPConnection):
    def connect(self) -> None:
        self.sock = connect(self.host, self.port, _CONNECT_S)
        self.sock.settimeout(_TIMEOUT_S)


class _AllowedHttps(HTTPSConnection):
    def connect(self) -> None:
        plain = connect(self.host, self.port, _CONNECT_S)
        self.sock: Any = _tls().wrap_socket(plain, server_hostname=self.host)
        self.sock.settimeout(_TIMEOUT_S)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
