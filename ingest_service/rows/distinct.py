"""The different texts of a column, found by their bytes without a Python object a row."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Ints, hashed
from ingest_service.rows.texts import Texts

_WORD = 8
_LONGEST = 256  # bytes: each row takes as much memory as the longest text


def distinct(texts: Texts) -> tuple[Texts, Ints]:
    """Each text once, and for each row which of them it has: int64[n].

    Texts are sorted by a 64-bit hash, and those of one hash compared byte by byte: a collision costs time, never truth.
    """
    if not len(texts):
        return texts, np.empty(0, np.int64)
    if int(np.max(texts.widths)) > _LONGEST:
        return _by_dictionary(texts)
    words = _words(texts)
    hashes = hashed(words.T, len(words))
    _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    if (words == words[firsts[inverse]]).all():
        return texts.take(firsts), inverse
    _, firsts, inverse = np.unique(words, axis=0, return_index=True, return_inverse=True)
    return texts.take(firsts), inverse.reshape(-1)


def each_once(texts: Texts, change: Callable[[str], str]) -> Texts:
    """What a function makes of each text; it is called once for each different one."""
    different, inverse = distinct(texts)
    return Texts.of([change(text) for text in different.to_list()]).take(inverse)


def _by_dictionary(texts: Texts) -> tuple[Texts, Ints]:
    known: dict[str, int] = {}
    inverse = np.array([known.setdefault(text, len(known)) for text in texts.to_list()], np.int64)
    return Texts.of(list(known)), inverse


def _words(texts: Texts) -> NDArray[np.uint64]:
    """Each text as a row of words, its width in the last: equal just when the texts are."""
    widths = np.broadcast_to(np.asarray(texts.widths, np.int64), len(texts))
    n_words = -(-int(widths.max()) // _WORD)
    padded = np.concatenate((texts.buffer, np.zeros(_WORD, np.uint8)))
    words = np.zeros((len(texts), n_words + 1), np.uint64)
    words[:, -1] = widths
    at: NDArray[Any] = np.ndarray(len(padded) - _WORD + 1, "<u8", padded.data, 0, (1,))
    for number in range(n_words):
        left = widths - number * _WORD
        rows = np.flatnonzero(left > 0)
        word = at[texts.starts[rows] + number * _WORD]
        # What lies behind a text is another's.
        excess = np.maximum(_WORD - left[rows], 0).astype(np.uint64) * np.uint64(8)
        words[rows, number] = word & (np.uint64(0xFFFFFFFFFFFFFFFF) >> excess)
    return words
