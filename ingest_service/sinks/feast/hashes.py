"""MurmurHash3 (Austin Appleby, public domain) with the seed 0, as Feast takes it from mmh3."""

import struct

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.texts import Texts

Words = NDArray[np.uint64]

_WORD = 0xFFFFFFFF
_C1, _C2 = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)


def murmur3_128(texts: Texts) -> list[bytes]:
    """MurmurHash3_x64_128 of each, 16 bytes: texts of one length side by side."""
    widths = np.broadcast_to(np.asarray(texts.widths, np.int64), len(texts))
    found = np.empty((len(texts), 2), "<u8")
    for width in np.unique(widths).tolist():
        rows = np.flatnonzero(widths == width)
        padded = np.zeros((len(rows), -(-width // 16) * 16), np.uint8)
        padded[:, :width] = texts.buffer[texts.starts[rows][:, None] + np.arange(width)]
        found[rows] = _of_width(padded.view("<u8").astype(np.uint64), width)
    data = found.tobytes()
    return [data[start : start + 16] for start in range(0, len(data), 16)]


def _of_width(words: Words, width: int) -> Words:
    """words: of each text, with zeros after it, which change nothing."""
    one, two = np.zeros(len(words), np.uint64), np.zeros(len(words), np.uint64)
    for block in range(words.shape[1] // 2):
        one ^= _turned(words[:, 2 * block] * _C1, 31) * _C2
        if block < width // 16:
            one = (_turned(one, 27) + two) * np.uint64(5) + np.uint64(0x52DCE729)
        two ^= _turned(words[:, 2 * block + 1] * _C2, 33) * _C1
        if block < width // 16:
            two = (_turned(two, 31) + one) * np.uint64(5) + np.uint64(0x38495AB5)
    one, two = one ^ np.uint64(width), two ^ np.uint64(width)
    one = one + two
    two = two + one
    one, two = _finished(one), _finished(two)
    one = one + two
    return np.stack((one, two + one), axis=1)


def _turned(words: Words, bits: int) -> Words:
    found: Words = words << np.uint64(bits) | words >> np.uint64(64 - bits)
    return found


def _finished(words: Words) -> Words:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        words = (words ^ words >> np.uint64(33)) * np.uint64(factor)
    found: Words = words ^ words >> np.uint64(33)
    return found


def murmur3_32(data: bytes) -> int:
    """MurmurHash3_x86_32 with the seed 0."""
    found = 0
    n_whole = len(data) // 4 * 4
    for (word,) in struct.iter_unpack("<I", data[:n_whole]):
        found = (_rotated(found ^ _mixed(word), 13) * 5 + 0xE6546B64) & _WORD
    found ^= _mixed(int.from_bytes(data[n_whole:], "little")) ^ len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        found = (found ^ found >> shift) * factor & _WORD
    return found


def _mixed(word: int) -> int:
    return _rotated(word * 0xCC9E2D51 & _WORD, 15) * 0x1B873593 & _WORD


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _WORD
