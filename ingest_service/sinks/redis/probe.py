"""Who listens where a Redis is expected: asked once no connection comes about, since all silence looks alike."""

import asyncio
import ssl

from ingest_service.sinks.redis.address import Address

_ANSWER_S = 2.0


async def speaks_tls(address: Address) -> bool:
    """Whether a TLS handshake goes through, whoever it is."""
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(*address, ssl=anyone)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


async def speaks_plainly(address: Address) -> bool:
    """Whether PING is answered without TLS, be it with an error."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(b"*1\r\n$4\r\nPING\r\n")
                return (await reader.read(1)) in (b"+", b"-")
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False
