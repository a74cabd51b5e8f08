"""Objects by address: s3://, gs://, https://. Read in ranges, each retried, all of one version (its ETag)."""

import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from ingest_service.errors import ConfigurationError, LocalIOError, SourceChanged, SourceNotFound
from ingest_service.retry import backoff_s
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.compression import open_stream

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore

SCHEMES: Final = frozenset({"s3", "gs", "https", "http"})
_RANGE_BYTES = 8 << 20
_TRIES = 5


class ObjectSource(Source):
    """One object. Credentials, region and endpoint come from the environment, as obstore's stores read it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]  # what stands before it may be a secret
        self.uri = f"{parts.scheme}://{host}{parts.path}"
        self._name = posixpath.basename(parts.path)
        self._path = unquote(parts.path.lstrip("/"))
        self._root = f"{parts.scheme}://{parts.netloc}"
        self._size: int | None = None
        if not self._path:
            raise ConfigurationError(f"{self.uri} names no object; add its path.")
        if parts.query:
            raise ConfigurationError(f"{self.uri} has a query, which is not supported; name the object by its path.")

    def size(self) -> int | None:
        return self._size

    def open(self) -> Stream:
        store = self._store()
        file = _Object(store, self._path, self.uri)
        self._size, self.etag = file.size, file.etag or ""
        return open_stream(file, self._name)

    def _store(self) -> "ObjectStore":
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        try:
            return from_url(self._root, client_options={"allow_http": self._root.startswith("http:")})
        except (BaseError, ValueError) as error:
            raise ConfigurationError(
                f"{self.uri} cannot be opened ({type(error).__name__}); check its address."
            ) from error


class _Object:
    """The stored bytes of one version of an object, from front to back."""

    def __init__(self, store: "ObjectStore", path: str, uri: str) -> None:
        self._store = store
        self._path = path
        self._uri = uri
        self._position = 0
        self._range = memoryview(b"")
        self.size = 0
        self.etag: str | None = None
        self._range = self._get(0)

    def read(self, n: int) -> bytes:
        if not self._range and self._position < self.size:
            self._range = self._get(self._position)
        data = bytes(self._range[:n])
        self._range = self._range[n:]
        self._position += len(data)
        return data

    def skip(self, n: int) -> int:
        """Pass over `n` bytes without fetching them; fewer only at the end."""
        target = min(self._position + n, self.size)
        skipped, self._position = target - self._position, target
        self._range = self._range[skipped:]
        return skipped

    def _get(self, start: int) -> memoryview:
        """The next range. obstore retries requests; a body that breaks off is asked for again here."""
        from obstore.exceptions import GenericError

        for failures in range(_TRIES):
            try:
                with _errors_translated(self._uri):
                    return self._get_once(start)
            except LocalIOError as error:
                if failures + 1 == _TRIES or not isinstance(error.__cause__, GenericError):
                    raise
                time.sleep(backoff_s(failures))
        raise AssertionError("the last try returns or raises")

    def _get_once(self, start: int) -> memoryview:
        import obstore

        options: GetOptions = {"range": (start, start + _RANGE_BYTES)}
        if self.etag:
            options["if_match"] = self.etag
        try:
            result = obstore.get(self._store, self._path, options=options)
        except obstore.exceptions.GenericError as error:
            if start == 0 and "416" in str(error):
                return memoryview(b"")  # an empty object has no first byte
            raise
        self.size, self.etag = result.meta["size"], result.meta["e_tag"]
        return memoryview(result.bytes())

    def close(self) -> None:
        pass


@contextmanager
def _errors_translated(uri: str) -> Iterator[None]:
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError):
        raise SourceNotFound(f"There is no object {uri}.") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise ConfigurationError(f"{uri} may not be read; check the credentials and their rights.") from error
    except exceptions.PreconditionError as error:
        raise SourceChanged(f"{uri} was replaced while it was read; run again.") from error
    except exceptions.BaseError as error:
        raise LocalIOError(f"{uri} cannot be read ({type(error).__name__}); run again to go on.") from error
