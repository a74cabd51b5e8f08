"""What is wrong with an object store, in words: from the library's text, of which nothing else is passed on.

Beside the address and times it has the status, and a part for debugging that names each error within the other.
"""

import re
from typing import Final

# What waiting cannot mend. A place that may only be read through what a service allows has Python's own errors.
_LASTING: Final = (
    (
        r"InvalidCertificate\(\s*UnknownIssuer|SSLCertVerificationError",
        "its certificate is of no authority that is trusted here; name that with SSL_CERT_FILE",
    ),
    (r"InvalidCertificate\(\s*NotValidForName", "its certificate is for another name"),
    (r"InvalidCertificate\(\s*Expired", "its certificate has expired"),
    (r"InvalidCertificate", "its certificate is not valid"),
    (r"InvalidMessage\(|WRONG_VERSION_NUMBER|SSLError", "it speaks no TLS; an address without is http://"),
    (r"HTTPS port", "it wants TLS: https://"),
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
_PASSING: Final = (
    (r"dns error|gaierror", "no host of that name is known"),
    (r"tcp connect error|ConnectionRefusedError", "nobody listens there"),
    (r"TimedOut|timed out|TimeoutError", "it does not answer in time"),
    (
        r"IncompleteMessage|Parse\(|RemoteProtocolError",
        "it hangs up; it may want https://, or be another kind of server",
    ),
)
_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})\b")


def status_of(error: Exception) -> int | None:
    """The status that the store answered with, if it did."""
    found = _STATUS.search(str(error).partition("\n")[0])
    return int(found[1]) if found else None


def lasting_cause(error: Exception) -> str | None:
    return _meaning(_LASTING, error)


def passing_cause(error: Exception) -> str:
    status = status_of(error)
    return _meaning(_PASSING, error) or (f"it answers {status}" if status else type(error).__name__)


def _meaning(meanings: tuple[tuple[str, str], ...], error: Exception) -> str | None:
    text = str(error)
    return next((meaning for pattern, meaning in meanings if re.search(pattern, text)), None)
