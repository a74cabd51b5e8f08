"""What tells whether two sources hold the same bytes."""

from hashlib import sha256

from ingest_service.sources.base import Source

_PIECE_BYTES = 1 << 20


def sha256_of(source: Source) -> str:
    """The SHA-256 of its bytes without compression, in hexadecimal. Reads them; blocks."""
    stream, digest = source.open(), sha256()
    try:
        while data := stream.read(_PIECE_BYTES):
            digest.update(data)
    finally:
        stream.close()
    return digest.hexdigest()
