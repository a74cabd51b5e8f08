"""Objects over HTTP for the service: every connection and every redirect is held to what is allowed.

obstore would resolve names and follow redirects by itself, to wherever they lead. HTTP is httpcore2's, by connections
that are made here, to addresses that were looked at.
"""

import re
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore2
from obstore import exceptions

from ingest_service.sources.allowed import Allowed, addresses_of
from ingest_service.sources.object_file import ObjectFile
from ingest_service.sources.object_store import Address, errors_translated

_STEP_S = 30.0  # to send, or to get the next bytes
_CONNECT_S = 10.0  # to any of a name's addresses
_HEAD_S = 15.0  # redirects included
_RANGE_S = 600.0  # the same; a range has 8 MiB
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TIMEOUTS = {"connect": _CONNECT_S, "read": _STEP_S, "write": _STEP_S}


class AllowedHttpFile(ObjectFile):
    """An ObjectFile that connects for itself, and keeps its connections."""

    def __init__(self, address: Address, allowed: Allowed, *, at_once: bool = True) -> None:
        self._allowed = allowed
        self._network = _Network()
        self._pool = httpcore2.ConnectionPool(_tls(), network_backend=self._network)
        try:
            super().__init__(address, at_once=at_once)
        except BaseException:
            self._pool.close()
            raise

    def close(self) -> None:
        self._pool.close()
        super().close()

    def _head(self) -> None:
        with errors_translated(self._address.uri), self._answer("HEAD", {}, _HEAD_S) as (_, headers):
            self.size, self.etag = int(headers.get("content-length") or 0), _version(headers)

    def _get_once(self, start: int) -> memoryview:
        end = self._range_end(start)
        wanted = {"Range": f"bytes={start}-{end - 1}"}
        if self.etag and self.etag.startswith('"'):
            wanted["If-Match"] = self.etag
        with self._answer("GET", wanted, _RANGE_S) as (response, headers):
            if response.status == 416 and start == 0:
                return memoryview(b"")  # an empty object has no first byte
            given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("content-range", ""))
            if response.status != 206 or given is None or int(given[1]) != start:
                raise exceptions.GenericError("the server does not know ranges")
            if self.etag and _version(headers) != self.etag:
                raise exceptions.PreconditionError("another version")
            self.size, self.etag = int(given[3]), _version(headers)
            return memoryview(_body(response, min(end, self.size) - start))

    @contextmanager
    def _answer(
        self, method: str, headers: dict[str, str], within_s: float
    ) -> Iterator[tuple[httpcore2.Response, dict[str, str]]]:
        """The answer, after redirects, and its headers by their names in lower case.

        Errors are those of obstore, as for any other store; or SourceRefused.
        """
        self._network.until_s = time.monotonic() + within_s
        url = self._address.uri
        try:
            for _ in range(_MAX_REDIRECTS):
                parts = urlsplit(self._allowed.url(url))
                sent = {"Host": parts.netloc, "Accept-Encoding": "identity", **headers}
                with self._pool.stream(
                    method,
                    httpcore2.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=parts.path),
                    headers=list(sent.items()),
                    extensions={"timeout": _TIMEOUTS},
                ) as response:
                    given = _texts(response.headers)
                    if response.status not in _REDIRECTS:
                        _raise_for(response.status)
                        yield response, given
                        return
                    url = urljoin(url, given.get("location", ""))
        except (OSError, httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
            met = next((one for one in error.args if isinstance(one, Exception)), error)  # httpcore2 wraps what it met
            raise exceptions.GenericError(type(met).__name__) from error
        raise exceptions.GenericError("too many redirects")


class _Network(httpcore2.NetworkBackend):
    """Connects to addresses that may be connected to, and to nothing else; nothing that it does goes on past `until_s`.

    So a host that sends a byte now and then is given up as well.
    """

    def __init__(self) -> None:
        self.until_s = 0.0
        self._backend = httpcore2.SyncBackend()

    def left(self, timeout: float | None) -> float:
        """What may be waited now. TimeoutError if there is no time left."""
        left_s = self.until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the host takes too long")
        return left_s if timeout is None else min(timeout, left_s)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """A name may have many addresses: the time is for all of them. SourceRefused for one that is not allowed."""
        until_s = time.monotonic() + self.left(timeout)
        failure: Exception = OSError("the name has no address")
        for address in addresses_of(host, port):
            if (left_s := until_s - time.monotonic()) <= 0:
                break
            try:
                return _Stream(self._backend.connect_tcp(address, port, left_s, local_address, socket_options), self)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore2.NetworkStream):
    """One that keeps to the time of the network that it is of."""

    def __init__(self, stream: httpcore2.NetworkStream, network: _Network) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        encrypted = self._stream.start_tls(ssl_context, server_hostname, self._network.left(timeout))
        return _Stream(encrypted, self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _texts(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _body(response: httpcore2.Response, size: int) -> bytes:
    """To its end, for the connection to be kept, unless it is longer than it says."""
    data = bytearray()
    for piece in response.iter_stream():
        data += piece
        if len(data) > size:
            break
    if len(data) < size:
        raise exceptions.GenericError("the answer broke off")
    return bytes(data[:size])


def _raise_for(status: int) -> None:
    if status in (404, 410):
        raise exceptions.NotFoundError(str(status))
    if status in (401, 403):
        raise exceptions.PermissionDeniedError(str(status))
    if status == 412:
        raise exceptions.PreconditionError(str(status))
    if status >= 400 and status != 416:
        raise exceptions.GenericError(str(status))


def _version(headers: dict[str, str]) -> str:
    return headers.get("etag") or headers.get("last-modified") or ""


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
