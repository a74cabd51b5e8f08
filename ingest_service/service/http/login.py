"""Who may come in: those who know the token, by a header or by a cookie that the page got for it.

Without a token the service listens on loopback alone and takes requests for loopback names alone, so that no website
can reach it through a name of its own.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Mapping

from ingest_service.config import ServeSettings
from ingest_service.errors import ConfigurationError
from ingest_service.service.http.problems import Problem

COOKIE = "ingest_session"
SESSION_S = 12 * 3600
_MIN_TOKEN = 16
_MAX_SESSIONS = 1_000
_WRONG_S = 0.5  # how long a wrong token waits for its answer, one after the other
_MAX_WAITING = 20


class Login:
    """Tokens and sessions; `token` is None where no login is needed."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token is not None else None
        self._sessions: dict[bytes, float] = {}  # when each ends, by the hash of its id
        self._wrong = asyncio.Lock()
        self._waiting = 0

    @property
    def is_needed(self) -> bool:
        return self._token is not None

    async def is_in(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request comes from one who has logged in. Problem if wrong tokens come too fast."""
        if self._token is None:
            return True
        session = cookies.get(COOKIE)
        if session is not None and self._sessions.get(_hash(session), 0) > time.monotonic():
            return True
        kind, _, token = headers.get("authorization", "").partition(" ")
        return bool(token) and kind.lower() == "bearer" and await self._is_right(token.strip())

    async def enter(self, token: str) -> str:
        """A new session's id. Problem if the token is wrong."""
        if not await self._is_right(token):
            raise Problem(401, "The token is wrong.")
        now = time.monotonic()
        self._sessions = {session: end for session, end in self._sessions.items() if end > now}
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[_hash(session)] = now + SESSION_S
        return session

    def leave(self, session: str) -> None:
        self._sessions.pop(_hash(session), None)

    async def _is_right(self, token: str) -> bool:
        if self._token is None or hmac.compare_digest(_hash(token), hashlib.sha256(self._token).digest()):
            return True
        if self._waiting >= _MAX_WAITING:
            raise Problem(429, "Wait a little before the next try.", {"Retry-After": "10"})
        self._waiting += 1
        try:
            async with self._wrong:
                await asyncio.sleep(_WRONG_S)
        finally:
            self._waiting -= 1
        return False


def token_of(settings: ServeSettings) -> str | None:
    """The token, from its file or setting. Blocks. ConfigurationError if it is short, or missing and needed."""
    token = settings.token.get_secret_value() if settings.token is not None else None
    if settings.token_file is not None:
        try:
            token = settings.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{settings.token_file} cannot be read ({type(error).__name__}).") from None
    if token is not None and len(token) < _MIN_TOKEN:
        raise ConfigurationError(f"The token of serve is too short; it needs {_MIN_TOKEN} characters or more.")
    if token is None and not is_loopback(settings.host):
        raise ConfigurationError(
            f"On {settings.host} anyone could come in; set serve.token or serve.token_file, or listen on 127.0.0.1."
        )
    return token


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local_name(header: str) -> bool:
    """Whether a Host header names this machine: what another name leads here with is some website's doing."""
    name, _, port = header.rpartition(":") if not header.endswith("]") else (header, "", "")
    return is_loopback((name if port.isdigit() else header).lower())


def is_foreign(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something was made by another site's page."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
