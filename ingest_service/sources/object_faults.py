"""What is wrong with an object store, in words: from the library's text, of which nothing else is passed on.

Beside the address and times it has the status, and a part for debugging that names each error within the other.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from ingest_service.runtime.tls_causes import TlsCause, speaks_tls, tls_cause

_TLS: Final = {
    TlsCause.OTHER_NAME: "its certificate is for another name",
    TlsCause.EXPIRED: "its certificate has expired",
    TlsCause.NOT_VALID_YET: "its certificate is not valid yet",
    TlsCause.UNTRUSTED: "its certificate is of no authority that is trusted here; name that with SSL_CERT_FILE",
    TlsCause.INVALID: "its certificate is not valid",
    TlsCause.CLIENT_UNTRUSTED: "it wants a client certificate, which cannot be given here",
    TlsCause.CLIENT_UNNAMED: "it wants a client certificate, which cannot be given here",
    TlsCause.NO_VERSION: "its versions of TLS are not ours",
    TlsCause.NO_TLS: "it speaks no TLS; an address without is http://",
}
_WANTS_TLS: Final = "it wants TLS: https://"
# What waiting cannot mend. A place that may only be read through what a service allows has Python's own errors.
_LASTING: Final = (
    (r"HTTPS port", _WANTS_TLS),
    (r"NoSuchBucket", "there is no such bucket; make it, or name another one"),
    (r"ExpiredToken", "the credentials have expired; renew them"),
    (
        r"AuthorizationHeaderMalformed|PermanentRedirect|without LOCATION|status code: 301\b",
        "the bucket is in another region; set AWS_REGION",
    ),
    (
        r"uri: Some\(\s*\S*/(latest/api/token|latest/meta-data|computeMetadata)(?s:.*)(Connect|status: 4)",
        "there are no credentials for it here; give them as its own tools take them",
    ),
)
_HANGS_UP: Final = r"IncompleteMessage|Parse\(|BadStatusLine|RemoteDisconnected|RemoteProtocolError|ConnectionReset"
_PASSING: Final = (
    (r"dns error|gaierror", "no host of that name is known"),
    (r"tcp connect error|ConnectionRefusedError", "nobody listens there"),
    (r"TimedOut|timed out|TimeoutError", "it does not answer in time"),
    (_HANGS_UP, "it hangs up"),
)
_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})\b")


def status_of(error: Exception) -> int | None:
    """The status that the store answered with, if it did."""
    found = _STATUS.search(str(error).partition("\n")[0])
    return int(found[1]) if found else None


def lasting_cause(error: Exception, url: str) -> str | None:
    """What waiting cannot mend of a store at this address. One that hangs up is asked what it speaks. Blocks."""
    tls = tls_cause(str(error))
    if tls is not None:
        return _TLS[tls]
    parts = urlsplit(url)
    if (
        parts.scheme == "http"
        and re.search(_HANGS_UP, str(error))
        and speaks_tls(parts.hostname or "", parts.port or 80)
    ):
        return _WANTS_TLS
    return _meaning(_LASTING, error)


def passing_cause(error: Exception) -> str:
    status = status_of(error)
    return _meaning(_PASSING, error) or (f"it answers {status}" if status else type(error).__name__)


def _meaning(meanings: tuple[tuple[str, str], ...], error: Exception) -> str | None:
    text = str(error)
    return next((meaning for pattern, meaning in meanings if re.search(pattern, text)), None)
