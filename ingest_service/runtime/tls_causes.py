"""Why two cannot agree on TLS: by what OpenSSL and rustls say, and where there is only silence, by asking.

Who meets it has the text of an error, of a driver's or of its own, and the words for what to do about it.
"""

import re
import socket
import ssl
from enum import Enum, auto
from typing import Final

_ANSWER_S: Final = 2.0


class TlsCause(Enum):
    """What waiting cannot mend."""

    OTHER_NAME = auto()  # the server's certificate is for another name, and so on
    EXPIRED = auto()
    NOT_VALID_YET = auto()
    UNTRUSTED = auto()
    INVALID = auto()
    CLIENT_UNTRUSTED = auto()  # the client's own certificate
    CLIENT_UNNAMED = auto()
    NO_VERSION = auto()  # in common
    NO_TLS = auto()


# openssl-verification-options(1), OpenSSL's names for reasons (sslerr.h), and rustls's errors as obstore shows them.
_SAID: Final = tuple(
    (cause, re.compile(pattern))
    for cause, pattern in (
        (TlsCause.OTHER_NAME, r"Hostname mismatch|IP address mismatch|InvalidCertificate\(\s*NotValidForName"),
        (TlsCause.EXPIRED, r"certificate has expired|InvalidCertificate\(\s*Expired"),
        (TlsCause.NOT_VALID_YET, r"certificate is not yet valid|InvalidCertificate\(\s*NotValidYet"),
        (TlsCause.UNTRUSTED, r"certificate verify failed|InvalidCertificate\(\s*UnknownIssuer"),
        (TlsCause.INVALID, r"InvalidCertificate\("),
        (TlsCause.CLIENT_UNTRUSTED, r"ALERT_UNKNOWN_CA"),
        (TlsCause.CLIENT_UNNAMED, r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|ALERT_BAD_CERTIFICATE"),
        (TlsCause.NO_VERSION, r"UNSUPPORTED_PROTOCOL|ALERT_PROTOCOL_VERSION"),
        (
            TlsCause.NO_TLS,
            r"WRONG_VERSION_NUMBER|\bHTTP_REQUEST|UNKNOWN_PROTOCOL|PACKET_LENGTH_TOO_LONG|RECORD_LAYER|InvalidMessage\(",
        ),
    )
)


def tls_cause(text: str) -> TlsCause | None:
    """What an error's text says of TLS, if it does."""
    return next((cause for cause, pattern in _SAID if pattern.search(text)), None)


def speaks_tls(host: str, port: int) -> bool:
    """Whether a handshake goes through, whoever it is. Blocks."""
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE  # nothing is sent
    try:
        with (
            socket.create_connection((host, port), _ANSWER_S) as plain,
            anyone.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def answer(host: str, port: int, request: bytes) -> bytes:
    """The beginning of what is answered to this without TLS, nothing if nothing is. Blocks."""
    try:
        with socket.create_connection((host, port), _ANSWER_S) as plain:
            plain.sendall(request)
            return plain.recv(64)
    except OSError:
        return b""
