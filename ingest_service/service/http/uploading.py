"""The routes by which files are put into inboxes. Their bodies are taken in as they come (gate.py)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.requests import ClientDisconnect

from ingest_service.service.http.gate import UPLOADS
from ingest_service.service.http.problems import Problem, documented
from ingest_service.service.uploads import Uploads

_SILENT_S = 30.0
_SLOWEST_BYTES_PER_S = 16 << 10
_FILE = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"format": "binary"}}}},
}

InboxName = Annotated[str, PathParameter(max_length=40)]
FileName = Annotated[str, PathParameter(max_length=255, description="That of the file in the inbox.")]


def upload_router(uploads: Uploads) -> APIRouter:
    router = APIRouter(prefix=UPLOADS.rstrip("/"), tags=["uploads"])

    @router.get("")
    async def inboxes() -> dict[str, Any]:
        """The inboxes that files can be put into, and how long one may be."""
        return {"inboxes": uploads.inboxes(), "most_bytes": uploads.most_bytes}

    @router.put("/{inbox}/{file}", status_code=201, responses=documented(404, 409, 411), openapi_extra=_FILE)
    async def put(inbox: InboxName, file: FileName, request: Request) -> dict[str, Any]:
        """Put a file into an inbox: it is there once it is whole and on disk, and never in another one's place."""
        found = uploads.inbox(inbox)
        if found is None:
            raise Problem(404, "There is no inbox of that name that files can be put into.")
        declared = request.headers.get("content-length", "")
        if not declared.isdigit():
            raise Problem(411, "Say how long the file is, by Content-Length.")
        if int(declared) > uploads.most_bytes:
            raise Problem(413, f"A file may have {uploads.most_bytes:,} bytes (the setting serve.upload_mb).")
        try:
            size = await uploads.put(found, file, _in_time(request.stream()))
        except FileExistsError:
            raise Problem(409, "The inbox has a file of that name; give this one another name.") from None
        except ClientDisconnect:
            raise Problem(400, "The connection ended before the file did.") from None
        return {"inbox": found.name, "file": file, "bytes": size}

    return router


async def _in_time(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a file. Problem where none comes for a while, or they are too slow as a whole."""
    loop = asyncio.get_running_loop()
    begun_s, received = loop.time(), 0
    while True:
        too_slow_s = begun_s + _SILENT_S + received / _SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout_at(min(loop.time() + _SILENT_S, too_slow_s)):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise Problem(
                408,
                f"A file must come at {_SLOWEST_BYTES_PER_S:,} bytes a second or faster, and without a pause of "
                f"{_SILENT_S:g} seconds.",
            ) from None
        if piece is None:
            return
        received += len(piece)
        yield piece
