"""Texts hashed with a key that the environment has: equal texts stay equal, and nobody without the key finds them.

BLAKE2b (RFC 7693) takes a key itself, in one pass where HMAC-SHA256 takes two. What is said of a key in a checkpoint is
another hash of it, which helps nobody who guesses keys more than a stored hash of a known text does.
"""

import os
from hashlib import blake2b

from ingest_service.datasets.expressions import wrong
from ingest_service.rows.distinct import each_once
from ingest_service.rows.texts import Texts

LEAST_KEY_BYTES = 32
_HASH_BYTES = 16  # 32 hexadecimal digits: of a billion texts no two have the same one
_CHECK_BYTES = 8


def key_of(variable: str) -> bytes:
    """The key that an environment variable has. RowError if there is none, or one that can be guessed."""
    secret = os.environ.get(variable, "").encode(errors="surrogateescape")
    if len(secret) < LEAST_KEY_BYTES:
        what = f"has fewer than {LEAST_KEY_BYTES} bytes" if secret else "is not set"
        raise wrong(f"the environment variable {variable}, which is the key, {what}; openssl rand -hex 32 makes one")
    return blake2b(secret, person=b"ingest key").digest()  # of any length, where a key of BLAKE2b has 64 bytes at most


def check_of(key: bytes) -> str:
    """What tells a key from others without telling what it is."""
    return blake2b(key=key, digest_size=_CHECK_BYTES, person=b"ingest check").hexdigest()


def hashed_texts(texts: Texts, key: bytes) -> Texts:
    """32 hexadecimal digits for each, each different text once."""
    return each_once(texts, lambda text: blake2b(text.encode(), key=key, digest_size=_HASH_BYTES).hexdigest())
