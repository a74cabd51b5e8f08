"""Redis's errors in the terms of ours: what passes is tried again, what does not is told by what it is.

The text of an error may quote rows, so nothing of it is passed on but its first word and the names of commands.
"""

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions

from ingest_service.errors import ConfigurationError, IngestError, Retry
from ingest_service.runtime.tls_causes import TlsCause, tls_cause

# Error replies by their first word.
MOVING = frozenset(("ASK", "CLUSTERDOWN", "MOVED"))  # the slots have gone, or go, to other nodes
PASSING = MOVING | frozenset(
    ("BUSY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "NOSCRIPT", "OOM", "READONLY", "TRYAGAIN", "UNKILLABLE")
)
IS_SENTINEL = "If it is a Sentinel, have it name the primary: redis+sentinel://HOST:26379/SERVICE/0."
NO_TLS = "The server does not speak TLS; use redis:// instead of rediss://, or name its port for TLS."
ONLY_TLS = "The server speaks TLS on this port; use rediss:// instead of redis://."
NO_CLUSTER_SLOTS = "This Redis is a cluster, and its user may not run CLUSTER SLOTS; permit it (see docs)."

_CHECK = "check the password and the ACL (see docs)."
_FORBIDDEN = {
    "DENIED": "it is in protected mode, which lets nobody in from elsewhere without a password",
    "NOAUTH": "it asks for a password, and the URL has none",
    "NOPERM": "",
    "WRONGPASS": "the user name or the password is wrong",
}
_COMMAND = re.compile(r"(?:unknown command|permissions to run the) ['`\"]?([A-Za-z][A-Za-z|._-]*)")

_SERVER = "The server cannot prove who it is: its certificate"
_CLIENT = "name {} with ?cert_file= and ?key_file=."
_TLS = {
    TlsCause.OTHER_NAME: f"{_SERVER} is for another host than the URL's.",
    TlsCause.EXPIRED: f"{_SERVER} has expired.",
    TlsCause.NOT_VALID_YET: f"{_SERVER} is not valid yet.",
    TlsCause.UNTRUSTED: f"{_SERVER} is of an authority that is not trusted; name it with ?ca_file=.",
    TlsCause.INVALID: f"{_SERVER} is not valid.",
    TlsCause.CLIENT_UNTRUSTED: f"The server does not trust the client certificate; {_CLIENT.format('another')}",
    TlsCause.CLIENT_UNNAMED: f"The server wants a client certificate; {_CLIENT.format('one')}",
    TlsCause.NO_VERSION: "The server has no version of TLS from 1.2 on.",
    TlsCause.NO_TLS: NO_TLS,
}


def refusal(code: str, text: str = "") -> IngestError:
    """What cannot pass by waiting, by an error reply's first word and, where it is at hand, its whole text."""
    found = _COMMAND.search(text)
    command = found[1].upper().replace("|", " ") if found else ""
    if code in _FORBIDDEN:
        why = _FORBIDDEN[code] or (f"it may not run {command}" if command else "")
        return ConfigurationError(f"Redis refuses this user ({code}){f': {why}' if why else ''}; {_CHECK}")
    if text.startswith("AUTH <password> called") or text.startswith("Client sent AUTH"):
        return ConfigurationError("The URL has a password and this Redis asks for none; take it out of the URL.")
    if code == "SELECT":
        return ConfigurationError("A Redis cluster has database 0 only; end the URL with /0.")
    if code == "DB":
        return ConfigurationError("This Redis has no database of that number; name a lower one.")
    if command == "SELECT":
        return ConfigurationError(f"This server knows no databases. {IS_SENTINEL}")
    if command:
        return ConfigurationError(
            f"This Redis does not know the command {command}; was it renamed, or is it older than Redis 6.2?"
        )
    return ConfigurationError(f"Redis refuses the commands ({code}); is it Redis 6.2 or newer?")


@contextmanager
def errors_translated() -> Iterator[None]:
    """redis-py's errors in the terms of ours."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise refusal(_code(error), str(error)) from error
    except exceptions.InvalidResponse as error:
        raise ConfigurationError(
            "What listens there is no Redis; check the URL's host and port, and whether it is rediss:// (TLS)."
        ) from error
    except (
        exceptions.ConnectionError,  # BusyLoadingError and ReadOnlyError's kin below are not all its subclasses
        exceptions.TimeoutError,
        exceptions.BusyLoadingError,
        exceptions.ReadOnlyError,
        exceptions.OutOfMemoryError,
        exceptions.TryAgainError,
        exceptions.AskError,  # and MovedError
        OSError,
        EOFError,
        TimeoutError,
    ) as error:
        if cause := _cause_in_tls(error):
            raise ConfigurationError(cause) from error
        raise Retry(f"connection or server fault ({_kind(error)})") from error
    except exceptions.ResponseError as error:
        code = _code(error)
        if code in PASSING:
            raise Retry(f"the server answers {code}") from error
        raise refusal(code, str(error)) from error


def _code(error: exceptions.RedisError) -> str:
    """The first word of an error reply; of one that has no word of its own (ERR) the next."""
    status = error.status_code
    return status if status and status != "ERR" else str(error).partition(" ")[0]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it: redis-py keeps the network's own errors there."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kind(error: Exception) -> str:
    for one in _chain(error):
        if isinstance(one, socket.gaierror):
            return "the host's name is not known"
        if isinstance(one, ConnectionRefusedError):
            return "connection refused"
        if isinstance(one, PermissionError | FileNotFoundError):
            return str(one.strerror)  # of a socket's path
    return type(error).__name__


def _cause_in_tls(error: Exception) -> str:
    """What waiting cannot mend between two that cannot agree on TLS, in a sentence; else nothing."""
    causes = (tls_cause(str(one)) for one in _chain(error) if isinstance(one, ssl.SSLError))
    return next((_TLS[cause] for cause in causes if cause is not None), "")
