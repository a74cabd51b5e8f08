"""The page: static files of the package, read once."""

import mimetypes
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from ingest_service.service.http.problems import Problem


def page_router() -> APIRouter:
    """`/` and `/static/…`. Blocks while it reads the files."""
    found = {
        file.name: file.read_bytes()
        for file in files("ingest_service.service").joinpath("page").iterdir()
        if file.is_file()
    }
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index() -> Response:
        return Response(found["index.html"], media_type="text/html")

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in found:
            raise Problem(404, "There is no such file.")
        return Response(found[name], media_type=mimetypes.guess_type(name)[0] or "application/octet-stream")

    return router
