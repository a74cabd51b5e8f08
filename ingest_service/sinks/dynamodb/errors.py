"""What AWS, botocore and the connection say, in the terms of this program: one place, and it has a default.

Texts are left out, since they may quote a row; of a refused item the attribute is taken, as the server names it.
"""

import re
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from ingest_service.errors import ConfigurationError, Retry
from ingest_service.runtime.tls_causes import TlsCause, answer, speaks_tls, tls_cause

# AWS error codes by what follows from them. Everything else that is the client's fault is a setting to fix.
THROTTLED = frozenset(
    (
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottledException",
        "ThrottlingException",
    )
)
PASSING = frozenset(
    (
        "InternalFailure",
        "InternalServerError",
        "ItemCollectionSizeLimitExceededException",
        "LimitExceededException",
        "RequestTimeout",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "TransactionInProgressException",
    )
)
EXPIRED = frozenset(("ExpiredToken", "ExpiredTokenException", "RequestExpired"))
INVALID = frozenset(("RequestEntityTooLarge", "SerializationException", "ValidationException"))
_UNSIGNED = frozenset(
    (
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    )
)
_OURS = re.compile(
    r"(BatchWrite|Get|Put|Update)Item|Scan|Query|(Create|Delete|Describe)Table|(Describe|Update)TimeToLive"
)
# "Type mismatch for Index Key device Expected: N Actual: S", "… IndexName: by_session, IndexKey: session_id"
_ATTRIBUTE = re.compile(r"\b[Kk]ey:? ([\w.-]{1,255})")
_TYPES = re.compile(r"\b[Ee]xpected: ([SNB]),? [Aa]ctual: ([SNB])\b")
_NAME_IT = "name its authority with ca_file=… in the URL or AWS_CA_BUNDLE, and check the host in the endpoint"
_NO_TLS = "The DynamoDB endpoint does not speak TLS; write http:// in endpoint=…."
_ONLY_TLS = "The DynamoDB endpoint speaks TLS on this port; write https:// in endpoint=…."
_TLS = {
    TlsCause.OTHER_NAME: f"DynamoDB's certificate does not hold (it is for another host); {_NAME_IT}.",
    TlsCause.EXPIRED: "DynamoDB's certificate does not hold (it has expired); renew it, or check this machine's clock.",
    TlsCause.NOT_VALID_YET: "DynamoDB's certificate does not hold (it is not valid yet); check this machine's clock.",
    TlsCause.UNTRUSTED: f"DynamoDB's certificate does not hold (its authority is not trusted); {_NAME_IT}.",
    TlsCause.INVALID: f"DynamoDB's certificate does not hold; {_NAME_IT}.",
    TlsCause.CLIENT_UNTRUSTED: "The DynamoDB endpoint wants a client certificate, which cannot be given here.",
    TlsCause.CLIENT_UNNAMED: "The DynamoDB endpoint wants a client certificate, which cannot be given here.",
    TlsCause.NO_VERSION: "The DynamoDB endpoint and this program have no version of TLS in common.",
    TlsCause.NO_TLS: _NO_TLS,
}
_NO_CREDENTIALS = "No AWS credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret."


class Refused(Exception):
    """DynamoDB refuses the request as such: some item in it is not valid. `code` is AWS's.

    `attribute` is the one that the server names, maybe, and `types` the type that it wants and the one it has got.
    """

    def __init__(self, code: str, attribute: str = "", types: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.attribute = attribute
        self.types = types


class ConditionFailed(Exception):
    """A conditional write found something else than it was told to expect: `item`, if it had asked for that."""

    def __init__(self, code: str, item: dict[str, Any] | None = None) -> None:
        super().__init__(code)
        self.item = item


class TableMissing(ConfigurationError):
    """There is no table of that name."""


def translated(code: str, status: int, message: str = "", item: dict[str, Any] | None = None) -> Exception:
    """An AWS error code and HTTP status; item: what a condition has met."""
    code = code.rpartition("#")[2]
    if code in THROTTLED:
        return Retry(f"DynamoDB answers {code}", throttled=True)
    if code in PASSING or code in EXPIRED or status >= 500:
        return Retry(f"DynamoDB answers {code or status}")
    if code in INVALID or status == 413:
        attribute, types = _ATTRIBUTE.search(message), _TYPES.search(message)
        wanted = f", wanted as {types[1]}, is {types[2]}" if types else ""
        return Refused(code or str(status), attribute[1] if attribute else "", wanted)
    if code == "ConditionalCheckFailedException":
        return ConditionFailed(code, item)
    if code == "ResourceNotFoundException":
        return TableMissing("The DynamoDB table does not exist; make it with: ingest-service check --create.")
    if code in _UNSIGNED:
        return ConfigurationError(
            f"AWS does not take the credentials ({code}); check the keys, the region and this machine's clock."
        )
    return ConfigurationError(
        f"DynamoDB refuses the request ({code or status}); check credentials, permissions and region."
    )


def fault_of(error: Exception, *, may_pass: bool) -> Exception:
    """Any error of a call through botocore, or of a connection.

    may_pass: whether credentials were found before, so that a source of them that fails now may be there again soon.
    """
    from botocore import exceptions as aws

    if isinstance(error, aws.ClientError):
        return _answer(error)
    if found := _about_credentials(error, may_pass=may_pass):
        return found
    if isinstance(error, aws.NoRegionError):
        return ConfigurationError("No AWS region is named; add region=… to the URL, or set AWS_REGION.")
    return _about_connection(error) or ConfigurationError(
        f"DynamoDB cannot be used as it is set up ({type(error).__name__}); check the endpoint and region in the URL, "
        "and the AWS configuration."
    )


def require_same_language(endpoint: str) -> None:
    """ConfigurationError if one side waits for TLS and one does not, which looks like any other silence. Blocks."""
    parts = urlsplit(endpoint)
    is_tls = parts.scheme == "https"
    address = parts.hostname or "", parts.port or (443 if is_tls else 80)
    if not is_tls and speaks_tls(*address):
        raise ConfigurationError(_ONLY_TLS)
    if is_tls and answer(*address, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/") and not speaks_tls(*address):
        raise ConfigurationError(_NO_TLS)


def _answer(error: Any) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = str(error.response.get("Error", {}).get("Message", ""))
    fault = translated(code, status, message, error.response.get("Item"))
    if _OURS.fullmatch(error.operation_name) or isinstance(fault, Retry):
        return fault
    return ConfigurationError(
        f"AWS gives no credentials ({code or status} at {error.operation_name}); check the profile and its role."
    )


def _about_credentials(error: Exception, *, may_pass: bool) -> Exception | None:
    from botocore import exceptions as aws

    if isinstance(error, aws.ProfileNotFound):
        name = error.kwargs.get("profile")
        return ConfigurationError(f"There is no AWS profile {name!r}; set AWS_PROFILE to one that is configured.")
    if isinstance(error, aws.NoCredentialsError):
        return ConfigurationError(_NO_CREDENTIALS)
    if isinstance(error, aws.PartialCredentialsError):
        missing = error.kwargs.get("cred_var")
        return ConfigurationError(
            f"The AWS credentials are not whole ({missing} is missing); set it beside the others."
        )
    if isinstance(error, aws.SSOError | aws.TokenRetrievalError | aws.NoAuthTokenError | aws.LoginError):
        return ConfigurationError(
            f"There is no AWS login that holds ({type(error).__name__}); log in with: aws sso login, or aws login."
        )
    if isinstance(error, aws.CredentialRetrievalError | aws.MetadataRetrievalError):
        source = getattr(error, "kwargs", {}).get("provider", "metadata")
        if may_pass:
            return Retry(f"AWS credentials cannot be renewed from {source}")
        return ConfigurationError(f"AWS credentials cannot be had from {source}; check it and the profile.")
    if isinstance(error, aws.RefreshWithMFAUnsupportedError):
        return ConfigurationError("The AWS session has ended and its MFA code cannot be asked for; log in again.")
    return None


def _about_connection(error: Exception) -> Exception | None:
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    tls = tls_cause(str(_inner(error, ssl.SSLError) or ""))
    if tls is not None:
        return ConfigurationError(_TLS[tls])
    status = getattr(_inner(error, _response_error()), "status", 0)
    if isinstance(error, aws.ProxyConnectionError) and status in (401, 403, 407):
        return ConfigurationError(
            f"The proxy refuses to connect to DynamoDB ({status}); check HTTPS_PROXY and its login."
        )
    if isinstance(error, ResponseParserError) or (isinstance(error, aws.HTTPClientError) and status == 400):
        return ConfigurationError("The DynamoDB endpoint does not answer as DynamoDB does; check endpoint=….")
    if isinstance(error, OSError | EOFError | aws.HTTPClientError | aws.ConnectionError | aws.IncompleteReadError):
        unknown = _inner(error, socket.gaierror) is not None
        return Retry("the endpoint's host is not found" if unknown else f"connection fault ({type(error).__name__})")
    return None


def _response_error() -> type[Exception]:
    from aiohttp import ClientResponseError

    return ClientResponseError


def _inner(error: Any, kind: type[Exception]) -> Exception | None:
    """The error of this kind that another one was made of; botocore and aiohttp each keep it in their own place."""
    seen = 0
    while isinstance(error, BaseException) and seen < 10:
        if isinstance(error, kind):
            return error
        seen += 1
        places = (getattr(error, "kwargs", {}).get("error"), getattr(error, "os_error", None))
        error = next((one for one in places if one is not None), None) or error.__cause__ or error.__context__
    return None
