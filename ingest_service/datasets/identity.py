"""Texts as numbers, where a record's key has some."""

from hashlib import blake2b

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.distinct import distinct
from ingest_service.rows.texts import Texts


def numbers_of(texts: Texts) -> tuple[Ints, Ints]:
    """128 bits of each text (BLAKE2b, RFC 7693): two texts have the same once in billions of billions of billions."""
    different, inverse = distinct(texts)
    digests = [blake2b(text.encode(), digest_size=16).digest() for text in different.to_list()]
    words = np.frombuffer(b"".join(digests), np.int64).reshape(-1, 2)[inverse]
    return words[:, 0], words[:, 1]
