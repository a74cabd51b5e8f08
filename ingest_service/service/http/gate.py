"""What every request passes before a route sees it: host, origin, size, login; and the headers of every answer."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest_service.service.http.login import Login, is_foreign, is_local_name
from ingest_service.service.http.problems import Problem

MAX_BODY_BYTES = 64 << 10
UPLOADS = "/v1/uploads/"  # below it, what is PUT is a file, which its route takes in as it comes
_BODY_S = 30
_OPEN = ("/", "/healthz", "/readyz", "/v1/session")  # to all: the page must be there to log in on
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, login: Login) -> None:
        self._app = app
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if is_upload(scope["method"], scope["path"]):
                    headers["Connection"] = "close"  # the file may be refused before it has come
            await send(message)

        try:
            await self._check(scope)
            if not is_upload(scope["method"], scope["path"]):
                receive = _once(await _body(scope, receive), receive)
        except Problem as problem:
            await problem.response()(scope, receive, send_with_headers)
            return
        if scope["method"] == "HEAD" and not scope["path"].endswith("/events"):  # those streams have no end
            scope = {**scope, "method": "GET"}  # the server leaves the body out
        await self._app(scope, receive, send_with_headers)

    async def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if not self._login.is_needed and not is_local_name(headers.get("host", "")):
            # TrustedHostMiddleware of Starlette says 400 in plain text, redirects to www, and cannot list 127.0.0.0/8.
            raise Problem(403, "Without a token the service answers to localhost only.")
        if is_foreign(scope["method"], headers):
            raise Problem(403, "Another site's page may not do this.")
        path: str = scope["path"]
        if path in _OPEN or path.startswith("/static/"):
            return
        if not await self._login.is_in(headers, cookie_parser(headers.get("cookie", ""))):
            raise Problem(
                401, "Send the token as 'Authorization: Bearer …', or log in.", {"WWW-Authenticate": "Bearer"}
            )


def is_upload(method: str, path: str) -> bool:
    return method == "PUT" and path.startswith(UPLOADS)


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, which is small; Problem if it is not, or takes too long."""
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            while (message := await receive())["type"] == "http.request":
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise Problem(408, f"A body must come within {_BODY_S} seconds.", {"Connection": "close"}) from None
    return bytes(body)


def _too_large() -> Problem:
    return Problem(413, f"A body may have {MAX_BODY_BYTES} bytes.", {"Connection": "close"})


def _once(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what comes after it: the end of the connection."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
