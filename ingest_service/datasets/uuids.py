"""uuid5 of many ids at once: each id is hashed once, and rows share the text of its UUID."""

from collections.abc import Iterable, Sequence
from hashlib import sha1
from threading import Lock
from uuid import UUID

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.interaction import NAMESPACE
from ingest_service.rows.parse import Bytes
from ingest_service.rows.texts import Texts

_MAX_KNOWN = 200_000  # about 10 MB; beyond it the dictionary starts again rather than grow with the file
_DENSE = 1 << 22  # ids below it are looked up in a table, which is as long as the highest
_UUID_BYTES, _SHA1_BYTES = 36, 20
_DIGITS = [index for index in range(_UUID_BYTES) if index not in (8, 13, 18, 23)]


class UuidDictionary:
    """uuid5(namespace, prefix + id) as text, RFC 4122 section 4.3. Safe to share between threads."""

    def __init__(self, prefix: str, namespace: UUID = NAMESPACE) -> None:
        self._prefix = namespace.bytes + prefix.encode()
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._places: Ints = np.empty(0, np.int64)  # of each id below _DENSE in `_texts`, -1 for those not known
        self._texts: Bytes = np.empty(0, np.uint8)

    def uuids(self, ids: Ints) -> Texts:
        """int64[n] to n texts of 36 characters."""
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= _DENSE):
            distinct, inverse = np.unique(ids, return_inverse=True)
            return Texts(self._hashed(distinct), inverse * _UUID_BYTES, _UUID_BYTES)
        with self._lock:
            if len(self._texts) > _MAX_KNOWN * _UUID_BYTES:
                self._forget()
            high = int(ids.max(initial=0))
            if high >= len(self._places):
                more = np.full(high + 1 + high // 4 - len(self._places), -1)
                self._places = np.concatenate((self._places, more))
            starts = self._places[ids]
            if (starts < 0).any():
                missing = np.flatnonzero(np.bincount(ids[starts < 0]))
                self._places[missing] = len(self._texts) + np.arange(len(missing)) * _UUID_BYTES
                self._texts = np.concatenate((self._texts, self._hashed(missing)))
                starts = self._places[ids]
            return Texts(self._texts, starts, _UUID_BYTES)

    def _hashed(self, ids: Ints) -> Bytes:
        return _texts_of(_uuid5s(self._prefix, map(str, ids.tolist())))


class TextUuids:
    """The same of texts. Safe to share between threads."""

    def __init__(self, prefix: str, namespace: UUID = NAMESPACE) -> None:
        self._prefix = namespace.bytes + prefix.encode()
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._places: dict[str, int] = {}  # of each known text among the following
        self._texts: Bytes = np.empty(0, np.uint8)
        self._words: Ints = np.empty((0, 2), np.int64)

    def uuids(self, ids: Texts) -> tuple[Texts, tuple[Ints, Ints]]:
        """n texts to n texts of 36 characters, and the same as numbers, which tell the texts apart as the UUIDs do."""
        texts = ids.to_list()
        with self._lock:
            if len(self._places) > _MAX_KNOWN:
                self._forget()
            try:
                places = self._known(texts)
            except KeyError:
                self._learn([text for text in dict.fromkeys(texts) if text not in self._places])
                places = self._known(texts)
            words = self._words[places]
            return Texts(self._texts, places * _UUID_BYTES, _UUID_BYTES), (words[:, 0], words[:, 1])

    def _known(self, texts: Sequence[str]) -> Ints:
        return np.fromiter(map(self._places.__getitem__, texts), np.int64, len(texts))

    def _learn(self, texts: Sequence[str]) -> None:
        uuids = _uuid5s(self._prefix, texts)
        self._places.update(zip(texts, range(len(self._words), len(self._words) + len(texts)), strict=True))
        self._words = np.concatenate((self._words, uuids.view(np.int64)))
        self._texts = np.concatenate((self._texts, _texts_of(uuids)))


def _uuid5s(prefix: bytes, names: Iterable[str]) -> Bytes:
    """uint8[n, 16]"""
    digests = b"".join([sha1(prefix + name.encode(), usedforsecurity=False).digest() for name in names])
    uuids = np.frombuffer(digests, np.uint8).reshape(-1, _SHA1_BYTES)[:, :16].copy()
    uuids[:, 6] = uuids[:, 6] & 0x0F | 0x50  # version 5
    uuids[:, 8] = uuids[:, 8] & 0x3F | 0x80  # the RFC's variant
    return uuids


def _texts_of(uuids: Bytes) -> Bytes:
    """The texts of UUIDs, one after the other."""
    texts = np.full((len(uuids), _UUID_BYTES), ord("-"), np.uint8)
    texts[:, _DIGITS] = np.frombuffer(uuids.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    return texts.reshape(-1)
