"""Texts as numbers, where a record's key has some."""

from hashlib import blake2b

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.texts import Texts


def numbers_of(texts: Texts) -> tuple[Ints, Ints]:
    """128 bits of each text (BLAKE2b, RFC 7693): two texts have the same once in billions of billions of billions."""
    strings = texts.to_list()
    digests = {text: blake2b(text.encode(), digest_size=16).digest() for text in set(strings)}
    words = np.frombuffer(b"".join(map(digests.__getitem__, strings)), np.int64).reshape(-1, 2)
    return words[:, 0], words[:, 1]
