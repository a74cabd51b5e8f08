"""uuid5 of many ids at once: each id is hashed once, and rows share the text of its UUID."""

from hashlib import sha1

import numpy as np
import polars as pl

from ingest_service.models import NAMESPACE
from ingest_service.records import Ints

_MAX_CACHED = 200_000  # about 30 MB; beyond it the cache starts again rather than grow with the file


class UuidDictionary:
    """uuid5(NAMESPACE, prefix + id) as text, RFC 4122 section 4.3. Safe to share between threads."""

    def __init__(self, prefix: str) -> None:
        self._prefix = NAMESPACE.bytes + prefix.encode()
        self._cache: dict[int, str] = {}

    def uuids(self, ids: Ints) -> pl.Series:
        """int64[n] to n texts of 36 characters."""
        distinct, inverse = _distinct(ids)
        if len(self._cache) > _MAX_CACHED:
            self._cache = {}
        cache = self._cache
        texts = []
        for value in distinct.tolist():
            text = cache.get(value)
            if text is None:
                text = cache[value] = self._uuid5(value)
            texts.append(text)
        return pl.Series(texts, dtype=pl.String).gather(inverse)

    def _uuid5(self, value: int) -> str:
        digest = bytearray(sha1(self._prefix + str(value).encode(), usedforsecurity=False).digest()[:16])
        digest[6] = digest[6] & 0x0F | 0x50  # version 5
        digest[8] = digest[8] & 0x3F | 0x80  # the RFC's variant
        text = digest.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _distinct(ids: Ints) -> tuple[Ints, Ints]:
    """The distinct ids, ascending, and for each row the index of its own. np.unique, without a sort for small ids."""
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
    if low < 0 or high > 8 * len(ids) + 65_536:
        return np.unique(ids, return_inverse=True)
    present = np.zeros(high + 1, np.bool_)
    present[ids] = True
    distinct = np.flatnonzero(present)
    index = np.zeros(high + 1, np.int64)
    index[distinct] = np.arange(len(distinct))
    return distinct, index[ids]
