"""Errors as the API tells them: application/problem+json (RFC 9457)."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ingest_service.errors import IngestError, LeaseHeld, LocalIOError, SinkUnavailable, SourceNotFound
from ingest_service.runtime.escaped import escaped
from ingest_service.sources.allowed import SourceRefused

MEDIA_TYPE = "application/problem+json"
_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "One sentence."},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_TITLES = {
    401: "A login is needed.",
    403: "This is not allowed.",
    404: "There is no such thing.",
    405: "This cannot be done here.",
    409: "There is one already.",
    411: "The length of the body is missing.",
    413: "The body is too large.",
    422: "The request makes no sense.",
    429: "There were too many wrong logins.",
    500: "The service has a bug; please report it.",
    503: "The service cannot do this now.",
}


class Problem(Exception):
    """Raised by a route to answer with an error. `detail` is one sentence."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def response(self) -> JSONResponse:
        title = _TITLES.get(self.status) or f"{HTTPStatus(self.status).phrase}."
        content = {"type": "about:blank", "title": title, "status": self.status, "detail": escaped(self.detail)}
        return JSONResponse(content, self.status, self.headers, MEDIA_TYPE)


def handle_errors(app: FastAPI) -> None:
    """All errors become problems, and the API's description says so."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(IngestError, _ingest_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route or an app."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": _TITLES[status], "content": {MEDIA_TYPE: schema}} for status in statuses}


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.response()


async def _ingest_error(request: Request, error: Exception) -> JSONResponse:
    kinds = {SourceRefused: 403, SourceNotFound: 422, LeaseHeld: 503, SinkUnavailable: 503, LocalIOError: 503}
    status = next((status for kind, status in kinds.items() if isinstance(error, kind)), 422)
    return Problem(status, str(error)).response()


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code  # a body that is no JSON, or nested too deeply
    return Problem(status, _TITLES.get(status, str(error.detail)), dict(error.headers or {})).response()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What was sent is not repeated: it might be a secret in the wrong place."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return Problem(422, f"{where}: {first['msg']}.").response()


async def _bug(request: Request, error: Exception) -> JSONResponse:
    structlog.get_logger().error("request failed", path=request.url.path, error=type(error).__qualname__)
    return Problem(500, _TITLES[500]).response()


def _described(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        app.openapi_schema.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _SCHEMA
    return app.openapi_schema
