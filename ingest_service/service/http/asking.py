"""The routes that answer what is asked before a load. Who asks may go: then nothing is looked at any more."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ingest_service.service.http.problems import Problem
from ingest_service.service.questions import Answer, Questions

T = TypeVar("T")


class OfSource(BaseModel):
    """A path below a root or a URL below an allowed prefix."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(min_length=1, max_length=4096)


class OfLoad(OfSource):
    """What would be loaded, into sinks by their names."""

    sinks: list[Annotated[str, Field(min_length=1, max_length=40)]] = Field([], max_length=64)
    dataset: str | None = Field(None, min_length=1, max_length=100)


def question_router(questions: Questions) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["before a load"])

    @router.post("/preview", response_model=Answer)
    async def preview(wanted: OfLoad, request: Request) -> Answer:
        """What the first rows would become in each sink, and the first refused rows."""
        return await _while_heard(request, questions.ask("preview", wanted.source, wanted.sinks, wanted.dataset))

    @router.post("/infer", response_model=Answer)
    async def infer(wanted: OfSource, request: Request) -> Answer:
        """A schema file for the source, and what was found."""
        return await _while_heard(request, questions.ask("infer", wanted.source))

    @router.post("/estimate", response_model=Answer)
    async def estimate(wanted: OfLoad, request: Request) -> Answer:
        """What a load would take. All of the source is read for it."""
        return await _while_heard(request, questions.ask("estimate", wanted.source, wanted.sinks, wanted.dataset))

    return router


async def _while_heard(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when whoever asked has gone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise Problem(400, "The connection ended before the answer came.")  # which nobody hears
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
