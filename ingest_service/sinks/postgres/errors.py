"""PostgreSQL's errors in our words: what may pass, what must be mended, and what is one row's fault.

By the five characters of SQLSTATE (PostgreSQL documentation, "Error Codes"). The server's text may quote rows, and is
never passed on; that of a connection that cannot be made is libpq's, has no code, and is looked through for causes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from ingest_service.errors import ConfigurationError, Retry, declare_codes
from ingest_service.runtime.tls_causes import TlsCause, answer, tls_cause

declare_codes(
    {
        "item_too_large": "larger than the sink takes",
        "duplicate_key": "another record has the row's value in a unique index of the sink",
        "refused": "the sink refused the row for a reason of its own",
    }
)

UNIQUE = "23505"
TOO_SLOW = "57014"  # the server's statement_timeout, or somebody ended the statement
READ_ONLY = "25006"

_PASSING = {
    "40001": "other transactions stand in the way",
    "40P01": "a deadlock with another session",
    "55P03": "another session holds a lock on the table or its rows",
    "57014": "a statement was ended, by statement_timeout or by hand",
    "25P03": "idle_in_transaction_session_timeout ended the connection",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has no free connection",
    "57P01": "the server, or this connection, was ended",
    "57P02": "the server crashed",
    "57P03": "the server does not take connections yet",
    "25006": "the server takes no rows: it is a standby by now",
}
_PASSING_CLASSES = ("08", "40", "53", "57", "58", "XX")
ROW_CLASSES = ("22", "23", "44", "54", "P0")
_REASONS = {
    "23505": ("duplicate_key", "Another row has this value in a unique index."),
    "22021": ("refused", "It has a character that PostgreSQL's texts cannot hold."),
    "22P05": ("refused", "It has a character that the database's encoding does not have."),
    "54000": ("item_too_large", "It is larger than the table or an index of it takes."),
}

_OTHER = "it does not speak PostgreSQL's protocol; check host and port"
# Parts of libpq's text, with what they mean, and whether waiting cannot mend it.
_CAUSES: tuple[tuple[str, str, bool], ...] = (
    (
        "password authentication failed",
        "it refuses the user or the password; check the URL, PGPASSWORD or ~/.pgpass",
        True,
    ),
    ("no password supplied", "it wants a password; give one in the URL, PGPASSWORD or ~/.pgpass", True),
    ("no pg_hba.conf entry", "its pg_hba.conf does not let this user in from here, or not without TLS", True),
    ("authentication failed", "it refuses the user; check the URL", True),
    ("permission denied for database", "the user may not connect to that database; GRANT CONNECT on it", True),
    ("is not permitted to log in", "the user may not log in; ALTER ROLE … LOGIN", True),
    ("server does not support SSL", "it speaks no TLS; leave sslmode out", True),
    ("root certificate file", "sslrootcert names no file that can be read; name the authority's certificate", True),
    ("invalid response to SSL negotiation", _OTHER, True),
    ("unsupported frontend protocol", _OTHER, True),
    ("expected authentication request", _OTHER, True),
    ("too many", "it has no free connection", False),
    ("connection slots", "it has no free connection", False),
    ("starting up", "it is starting up", False),
    ("shutting down", "it is shutting down", False),
    ("recovery mode", "it recovers from a crash", False),
    ("session is read-only", "no server of those takes rows", False),
    ("session is not read-only", "no server of those is a standby", False),
    ("Connection refused", "nobody listens there", False),
    ("No such file or directory", "nobody listens there", False),
    ("could not translate host name", "no host of that name is known", False),
    ("Name or service not known", "no host of that name is known", False),
    ("name resolution", "the name service does not answer", False),
    ("unreachable", "there is no way to it", False),
    ("timeout", "it does not answer in time", False),
    ("closed the connection", "it closes the connection", False),
)
_TLS = {
    TlsCause.OTHER_NAME: "its certificate is not for the name or address in the URL",
    TlsCause.EXPIRED: "its certificate has expired",
    TlsCause.NOT_VALID_YET: "its certificate is not valid yet",
    TlsCause.UNTRUSTED: "its certificate is of no authority that is trusted here; name that with sslrootcert=",
    TlsCause.INVALID: "its certificate is not valid",
    TlsCause.CLIENT_UNTRUSTED: "it does not trust the client's certificate",
    TlsCause.CLIENT_UNNAMED: "it wants a certificate of the client; name that with sslcert= and sslkey=",
    TlsCause.NO_VERSION: "its versions of TLS are not ours",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row is refused: for its dead letter."""

    code: str
    reason: str


class RowRefused(Exception):
    """One of the rows of a statement is refused, and with it all of them."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state


def of_rows(error: psycopg.Error) -> RowRefused | None:
    """What a statement that writes rows met, if it was a row's fault."""
    state = error.sqlstate or ""
    return RowRefused(state) if state.startswith(ROW_CLASSES) else None


def refusal(state: str, rule: str) -> Refusal:
    """`rule` is the constraint, if it was one; a trigger may raise what it likes."""
    if state in _REASONS:
        return Refusal(*_REASONS[state])
    if state.startswith("23") and rule:
        return Refusal("refused", f"The table's rule {rule} refuses it.")
    if state.startswith("P0"):
        return Refusal("refused", f"A trigger refuses it ({state}).")
    return Refusal("refused", f"PostgreSQL refuses it ({state}).")


def translated(error: psycopg.Error) -> ConfigurationError | Retry:
    """Any other error of a server that is connected, or was."""
    state = error.sqlstate or ""
    if state in _PASSING:
        return Retry(_PASSING[state])
    if state.startswith(_PASSING_CLASSES):
        return Retry(f"PostgreSQL error {state}")
    if not state and isinstance(error, psycopg.OperationalError):
        return Retry("the connection broke")
    if state == "42501":
        return ConfigurationError(
            "PostgreSQL does not allow it (42501): this user lacks rights on the schema or its tables; see `check`."
        )
    if state in ("42P01", "3F000"):
        return ConfigurationError(f"PostgreSQL has no such schema or table ({state}); see `check --create`.")
    return ConfigurationError(f"PostgreSQL refuses a request ({state or type(error).__name__}); see `check`.")


def of_connecting(error: psycopg.Error) -> ConfigurationError | Retry:
    """Why no connection can be made. Of several hosts one that may come back is enough to wait for."""
    causes = [_cause(line) for line in _attempts(str(error))]
    passing = next((text for text, lasts in causes if not lasts), None)
    if passing is not None:
        return Retry(passing)
    return ConfigurationError(f"PostgreSQL cannot be used: {causes[0][0]}.")


def of_silence(address: Mapping[str, Any]) -> ConfigurationError | Retry:
    """Why a connection is taken and nothing said: PostgreSQL hangs up on what others answer. Blocks."""
    host, port = str(address.get("host", "localhost")), str(address.get("port", "5432"))
    if port.isdigit() and not host.startswith("/") and answer(host, int(port), b"PING\r\n\r\n"):
        return ConfigurationError(f"PostgreSQL cannot be used: {_OTHER}.")
    return Retry("it does not answer in time")


def _attempts(text: str) -> list[str]:
    """The text of each host, as psycopg lists them where there are several."""
    listed = text.partition("All failures were:")[2]
    return [part for part in listed.split("\n- ") if part.strip()] or [text]


def _cause(text: str) -> tuple[str, bool]:
    if "certificate" in text or "SSL error" in text or "tls" in text.lower():
        named = "does not match host name" in text
        cause = TlsCause.OTHER_NAME if named else tls_cause(text)
        if cause in _TLS:
            return _TLS[cause], True
    if missing := re.search(r'(role|database) ".*" does not exist', text):
        what = "no such user; check the URL or PGUSER" if missing[1] == "role" else "no such database; check the URL"
        return f"it has {what}", True
    for part, meaning, lasts in _CAUSES:
        if part in text:
            return meaning, lasts
    return "no connection can be made", False
