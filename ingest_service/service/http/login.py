"""Who may come in: those who know the token, by a header or by a cookie that the page got for it.

Sessions are kept here rather than in signed cookies (Starlette's `SessionMiddleware`), which nobody can end: a logout
ends copies of its cookie too, and the streams that it opened.

Without a token the service listens on loopback alone and takes requests for loopback names alone, so that no website
can reach it through a name of its own.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ingest_service.config import ServeSettings
from ingest_service.errors import ConfigurationError
from ingest_service.service.http.problems import Problem

COOKIE = "ingest_session"
SESSION_S = 12 * 3600
_MIN_TOKEN = 16
_MAX_SESSIONS = 1_000
_WRONG_S = 0.5  # how long a wrong token waits for its answer, one after the other
_MAX_WAITING = 20


@dataclass(eq=False, slots=True)
class Session:
    """A login by the page. What goes on longer than a request ends with it."""

    ends_at_s: float  # by the monotonic clock
    _at_end: set[Callable[[], None]] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        return self.ends_at_s <= time.monotonic()

    def end(self) -> None:
        self.ends_at_s = 0.0
        for tell in list(self._at_end):
            tell()

    @contextmanager
    def until_end(self, tell: Callable[[], None]) -> Iterator[None]:
        """Inside, `tell` is called once the session is over: by a logout, or after its time."""
        self._at_end.add(tell)
        alarm = asyncio.get_running_loop().call_later(max(0.0, self.ends_at_s - time.monotonic()), tell)
        try:
            yield
        finally:
            alarm.cancel()
            self._at_end.discard(tell)


class Login:
    """Tokens and sessions; `token` is None where no login is needed. With `is_secure` cookies are for TLS alone."""

    def __init__(self, token: str | None, *, is_secure: bool = False) -> None:
        self._token = token.encode() if token is not None else None
        self.is_secure = is_secure
        self._sessions: dict[bytes, Session] = {}  # by the hash of their id
        self._wrong = asyncio.Lock()
        self._waiting = 0

    @property
    def is_needed(self) -> bool:
        return self._token is not None

    async def is_in(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request comes from one who has logged in. Problem if wrong tokens come too fast."""
        if self._token is None:
            return True
        if self.session(cookies) is not None:
            return True
        kind, _, token = headers.get("authorization", "").partition(" ")
        return bool(token) and kind.lower() == "bearer" and await self._is_right(token.strip())

    def session(self, cookies: Mapping[str, str]) -> Session | None:
        """The session of a request, if it came with one that is not over."""
        found = self._sessions.get(_hash(cookies.get(COOKIE, "")))
        return found if found is not None and not found.is_over else None

    async def enter(self, token: str) -> str:
        """A new session's id. Problem if the token is wrong."""
        if not await self._is_right(token):
            raise Problem(401, "The token is wrong.")
        now = time.monotonic()
        self._sessions = {id_: session for id_, session in self._sessions.items() if not session.is_over}
        while len(self._sessions) >= _MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions))).end()
        session = secrets.token_urlsafe(32)
        self._sessions[_hash(session)] = Session(now + SESSION_S)
        return session

    def leave(self, session: str) -> None:
        if (found := self._sessions.pop(_hash(session), None)) is not None:
            found.end()

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
