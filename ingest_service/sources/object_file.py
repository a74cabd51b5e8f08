"""The stored bytes of one version of an object, as a file: in ranges, each retried, all of one version (its ETag)."""

import io
import time
from typing import TYPE_CHECKING, Any

from ingest_service.errors import LocalIOError
from ingest_service.runtime.backoff import backoff_s
from ingest_service.sources.object_faults import status_of
from ingest_service.sources.object_store import Address, errors_translated

if TYPE_CHECKING:
    from obstore import GetOptions

RANGE_BYTES = 8 << 20
_TRIES = 5


class ObjectFile(io.RawIOBase):
    """The stored bytes of one version of an object, as a file that can be read and sought.

    With `at_once` its size is known by the answer to the first range; else by a question of its own, and no bytes are
    fetched before they are read. No range goes beyond `fetch_to`, where it is set.
    """

    def __init__(self, address: Address, *, at_once: bool = True) -> None:
        super().__init__()
        self._address = address
        self._store = address.store()
        self._position = 0
        self._range = memoryview(b"")
        self._range_start = 0
        self.size = 0
        self.etag: str | None = None
        self.fetch_to: int | None = None
        if at_once:
            self._range = self._get(0)
        else:
            self._head()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError("a position before the object's start")  # where a file says EINVAL
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self.size:
            return 0
        start = self._position - self._range_start
        if not 0 <= start < len(self._range):
            self._range = memoryview(b"")  # rather than hold two
            self._range = self._get(self._position)
            self._range_start, start = self._position, 0
        data = self._range[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _head(self) -> None:
        import obstore

        with errors_translated(self._address.uri):
            meta = obstore.head(self._store, self._address.path)
        self.size, self.etag = meta["size"], meta["e_tag"]

    def _get(self, start: int) -> memoryview:
        """The next range. obstore retries requests; a body that breaks off is asked for again here."""
        from obstore.exceptions import GenericError

        for failures in range(_TRIES):
            try:
                with errors_translated(self._address.uri):
                    return self._get_once(start)
            except LocalIOError as error:
                if failures + 1 == _TRIES or not isinstance(error.__cause__, GenericError):
                    raise
                time.sleep(backoff_s(failures))
        raise AssertionError("the last try returns or raises")

    def _range_end(self, start: int) -> int:
        """One past the last byte of the range from `start` on, which may lie beyond the object."""
        end = start + RANGE_BYTES
        return min(end, self.fetch_to) if self.fetch_to is not None and start < self.fetch_to else end

    def _get_once(self, start: int) -> memoryview:
        import obstore

        end = self._range_end(start)
        options: GetOptions = {"range": (start, end)}
        if self.etag:
            options["if_match"] = self.etag
        try:
            result = obstore.get(self._store, self._address.path, options=options)
        except obstore.exceptions.GenericError as error:
            if start == 0 and status_of(error) == 416:
                return memoryview(b"")  # an empty object has no first byte
            raise
        self.size, self.etag = result.meta["size"], result.meta["e_tag"]
        return memoryview(result.bytes())
