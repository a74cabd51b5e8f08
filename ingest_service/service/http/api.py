"""The HTTP API. Each route is a few lines: what it does is done elsewhere."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from ingest_service.audit.chosen import ALL, Chosen
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.service import letters as letters_
from ingest_service.service.browse import listed
from ingest_service.service.desk import Desk
from ingest_service.service.health import Health
from ingest_service.service.http.asking import question_router
from ingest_service.service.http.events import EventStream
from ingest_service.service.http.gate import Gate
from ingest_service.service.http.login import COOKIE, SESSION_S, Login
from ingest_service.service.http.page import page_router
from ingest_service.service.http.problems import Problem, documented, handle_errors
from ingest_service.service.http.uploading import upload_router
from ingest_service.service.known_datasets import known_datasets
from ingest_service.service.letters import Letters
from ingest_service.service.live import Live, progress_event, run_event
from ingest_service.service.lookups import Asked, Lookups
from ingest_service.service.questions import Questions
from ingest_service.service.runs import Run, Runs, State
from ingest_service.service.uploads import Uploads
from ingest_service.telemetry.prometheus import CONTENT_TYPE, Exposition

MAX_NUMBER = (1 << 63) - 1
Number = Annotated[int, PathParameter(ge=1, le=MAX_NUMBER, description="The id of a run.")]
Stream = Annotated[str, PathParameter(max_length=100)]
Cursor = Annotated[int | None, Query(ge=0, le=MAX_NUMBER, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=500)]
SinkName = Annotated[str, Query(max_length=40, description="By default the first of the usual ones that can say.")]
DatasetName = Annotated[str, Query(max_length=100, description="Of whose files the id is.")]
PartOfSource = Annotated[str, Query(max_length=200, description="What the address of the source has in it.")]
User = Annotated[str, PathParameter(max_length=1024, description="An id as in the files of the data set, or a UUID.")]
Key = Annotated[str | None, Header(min_length=1, max_length=255, description="Any text; the same for a repetition.")]


class RunView(BaseModel):
    """A run, and how it stands. Times are ISO 8601, UTC."""

    id: str
    kind: Annotated[str, Field(description="`run`, `replay`, or the name of the steps of which it is one.")]
    source: str
    dataset: str
    sinks: list[str]
    limit: int | None
    origin: str
    state: State
    created_at: str
    started_at: str | None
    finished_at: str | None
    attempt: int
    exit_code: int | None
    reason: str | None
    progress: dict[str, Any] | None
    report: dict[str, Any] | None


class RunPage(BaseModel):
    """Runs, newest first; `next` is the cursor of the next page."""

    runs: list[RunView]
    next: str | None
    counts: dict[State, int]


class Submission(BaseModel):
    """What to load: a path below a root or a URL below an allowed prefix, into sinks by their names."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(min_length=1, max_length=4096)
    sinks: list[Annotated[str, Field(min_length=1, max_length=40)]] = Field([], max_length=64)
    dataset: str | None = Field(None, min_length=1, max_length=100)
    limit: int | None = Field(None, ge=1, le=MAX_NUMBER)
    restart: bool = False


class Choice(BaseModel):
    """Which dead letters: those of a code, or one by its id, and maybe what its row is to be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    code: str | None = Field(None, min_length=1, max_length=100)
    letter: str | None = Field(None, pattern=r"^[0-9a-f]{16}$")
    raw: str | None = None


class Recent(BaseModel):
    """What a sink has of a user, under the id by which it is stored there."""

    sink: str
    user_id: str
    interactions: list[dict[str, Any]]


class History(Recent):
    """A page of it; `next` is the cursor of the next one."""

    next: str | None


class Token(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    token: SecretStr = Field(max_length=4096)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes use."""

    desk: Desk
    runs: Runs
    live: Live
    exposition: Exposition
    health: Health
    letters: Letters
    login: Login
    lookups: Lookups
    uploads: Uploads
    questions: Questions


def api(parts: Parts) -> FastAPI:
    """The app, behind its gate."""
    app = FastAPI(
        title="ingest-service",
        version="1",
        description="Loads interaction files into stores, and reads back what users did.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # both would fetch scripts from elsewhere
        redoc_url=None,
        responses=documented(401, 403, 413, 422, 429, 503),
    )
    handle_errors(app)
    app.add_middleware(Gate, login=parts.login)
    routers = (_runs, _events, _dead_letters, _looks, _users, _session)
    others = (upload_router(parts.uploads), question_router(parts.questions), page_router())
    for router in (*(one(parts) for one in routers), *others):
        app.include_router(router)
    return app


def _runs(parts: Parts) -> APIRouter:
    router = APIRouter(prefix="/v1/runs", tags=["runs"])

    @router.get("", response_model=RunPage)
    async def list_runs(
        state: State | None = None, source: PartOfSource = "", limit: Limit = 50, cursor: Cursor = None
    ) -> dict[str, Any]:
        """Runs, newest first."""
        found = await parts.runs.look(parts.runs.page, state, limit + 1, cursor, source)
        more = found[limit - 1].id if len(found) > limit else None
        views = [_view(run, parts.live) for run in found[:limit]]
        return {"runs": views, "next": more, "counts": await parts.runs.look(parts.runs.counts)}

    @router.post("", status_code=201, response_model=RunView, responses={200: {"description": "It is there already."}})
    async def submit(wanted: Submission, response: Response, idempotency_key: Key = None) -> dict[str, Any]:
        """Queue a run. What is queued, running or done already, of the same version of the source, is that run.

        What is sent again with the same `Idempotency-Key` is the run of the first time, `restart` or not.
        """
        run, is_new = await parts.desk.load(
            wanted.source,
            sinks=wanted.sinks,
            dataset=wanted.dataset,
            limit=wanted.limit,
            restart=wanted.restart,
            key=idempotency_key,
        )
        response.status_code = 201 if is_new else 200
        return _view(run, parts.live)

    @router.get("/{number}", response_model=RunView, responses=documented(404))
    async def one_run(number: Number) -> dict[str, Any]:
        """One run."""
        return _view(_there(await parts.runs.look(parts.runs.get, number)), parts.live)

    @router.post("/{number}/cancel", status_code=202, response_model=RunView, responses=documented(404))
    async def cancel(number: Number) -> dict[str, Any]:
        """Let a run drain and end; `retry` goes on where it stopped. One that has ended stays as it is."""
        return _view(_there(await parts.desk.cancel(number)), parts.live)

    @router.post("/{number}/retry", status_code=202, response_model=RunView, responses=documented(404))
    async def retry(number: Number) -> dict[str, Any]:
        """Queue a run again that has ended. One that is queued or running stays as it is."""
        return _view(_there(await parts.desk.retry(number)), parts.live)

    return router


def _events(parts: Parts) -> APIRouter:
    events: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Server-sent events."}
    }
    router = APIRouter(prefix="/v1", tags=["events"], default_response_class=Response)

    @router.get("/events", responses=events)
    async def all_events(request: Request) -> Response:
        """`run`: a run whose state has changed. `progress`: once a second for each that is running."""
        _refuse_if_full()

        async def first() -> list[bytes]:
            running = await parts.runs.look(parts.runs.page, "running", 100, None)
            return [event for run in running for event in _now(run)]

        return EventStream(parts.live, None, first, parts.login.session(request.cookies))

    @router.get("/runs/{number}/events", responses={**events, **documented(404)})
    async def events_of_run(number: Number, request: Request) -> Response:
        """The same for one run, which comes first as it is now."""
        _refuse_if_full()
        _there(await parts.runs.look(parts.runs.get, number))

        async def first() -> list[bytes]:
            run = await parts.runs.look(parts.runs.get, number)
            return _now(run) if run else []

        return EventStream(parts.live, number, first, parts.login.session(request.cookies))

    def _now(run: Run) -> list[bytes]:
        progress = parts.live.progress.get(run.number)
        return [run_event(run, progress), *([progress_event(run.number, progress)] if progress else [])]

    def _refuse_if_full() -> None:
        if parts.live.is_full:
            raise Problem(503, "Too many are watching; come again later.")

    return router


def _dead_letters(parts: Parts) -> APIRouter:
    router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])

    @router.get("")
    async def streams() -> dict[str, Any]:
        """The streams that have dead letters."""
        return {"streams": await finish_in_thread(parts.letters.streams)}

    @router.get("/{stream}", responses=documented(404))
    async def letters(stream: Stream, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        """The dead letters of a stream, in the order of the source, each with an `id`."""
        path = _there(await asyncio.to_thread(parts.letters.path, stream))
        found, after = await asyncio.to_thread(letters_.page, path, cursor or 0, limit)
        return {"letters": found, "next": None if after is None else str(after)}

    @router.post("/{stream}/replay", status_code=201, response_model=RunView, responses=documented(404))
    async def replay(stream: Stream, response: Response, choice: Choice | None = None) -> dict[str, Any]:
        """Queue a run that tries them again: all, or those chosen. A letter whose new row is refused stays."""
        path = _there(await asyncio.to_thread(parts.letters.path, stream))
        chosen = Chosen(choice.code, choice.letter, choice.raw) if choice is not None else ALL
        run, is_new = await parts.desk.replay(stream, path, chosen)
        response.status_code = 201 if is_new else 200
        return _view(run, parts.live)

    return router


def _looks(parts: Parts) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/v1/checkpoints")
    async def checkpoints() -> dict[str, Any]:
        """Where each sink stands in each source, as of some seconds ago at most."""
        return await parts.health.checkpoints.get()

    @router.get("/v1/datasets")
    async def datasets() -> dict[str, list[str]]:
        """The names that a submission may say in `dataset`."""
        return {"datasets": known_datasets(parts.desk.settings)}

    @router.get("/v1/files")
    async def files(folder: Annotated[str, Query(max_length=4096)] = "") -> dict[str, Any]:
        """What is in a folder below a root, and may be loaded; the roots, where none is named."""
        return await finish_in_thread(listed, parts.desk.settings.allowed(), folder)

    @router.get("/v1/sinks")
    async def sinks() -> dict[str, Any]:
        """How each sink is, as of some seconds ago at most."""
        return {"sinks": await parts.health.sinks.get()}

    metrics_text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/metrics", response_class=Response, responses=metrics_text)
    async def metrics() -> Response:
        """The numbers of the service and its runs, for Prometheus."""
        await asyncio.gather(parts.health.sinks.get(), parts.health.store.get())
        return Response(await parts.runs.look(parts.exposition.render), media_type=CONTENT_TYPE)

    @router.get("/healthz")
    async def alive() -> dict[str, str]:
        """The service answers."""
        return {"status": "alive"}

    @router.get("/readyz", responses=documented(503))
    async def ready() -> dict[str, str]:
        """All sinks can be reached and written, and runs be stored; 503 names what cannot."""
        if fault := await parts.health.store.get():
            raise Problem(503, f"Not ready: {fault}")
        bad = [sink["name"] for sink in await parts.health.sinks.get() if not sink["healthy"]]
        if bad:
            raise Problem(503, f"Not ready: {', '.join(bad)}. See /v1/sinks.")
        return {"status": "ready"}

    return router


def _users(parts: Parts) -> APIRouter:
    router = APIRouter(prefix="/v1/users", tags=["users"])

    @router.get("/{user}/recent", response_model=Recent)
    async def recent(
        user: User, sink: SinkName = "", dataset: DatasetName = "", titles: bool = False, limit: Limit = 20
    ) -> dict[str, Any]:
        """A user's newest interactions, newest first, as the sink has them now."""
        return await parts.lookups.recent(Asked(user, sink, dataset, titles), limit)

    @router.get("/{user}/history", response_model=History)
    async def history(
        user: User,
        sink: SinkName = "",
        dataset: DatasetName = "",
        titles: bool = False,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        limit: Limit = 50,
        cursor: Annotated[str | None, Query(max_length=60, description="`next` of the page before.")] = None,
    ) -> dict[str, Any]:
        """A user's interactions from `since` on and before `until`, oldest first. Times are ISO 8601 with a zone."""
        return await parts.lookups.history(Asked(user, sink, dataset, titles), since, until, limit, cursor)

    return router


def _session(parts: Parts) -> APIRouter:
    router = APIRouter(prefix="/v1/session", tags=["login"])

    @router.get("")
    async def session(request: Request) -> dict[str, bool]:
        """Whether a login is needed, and done."""
        logged_in = await parts.login.is_in(request.headers, request.cookies)
        return {"login_needed": parts.login.is_needed, "logged_in": logged_in}

    @router.post("", status_code=204)
    async def enter(given: Token, response: Response) -> None:
        """Log in: the answer sets a cookie."""
        session_id = await parts.login.enter(given.token.get_secret_value())
        response.set_cookie(
            COOKIE,
            session_id,
            max_age=SESSION_S,
            path="/",
            httponly=True,
            samesite="strict",
            secure=parts.login.is_secure,
        )

    @router.delete("", status_code=204)
    async def leave(request: Request, response: Response) -> None:
        """Log out."""
        parts.login.leave(request.cookies.get(COOKIE, ""))
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=parts.login.is_secure)

    return router


def _view(run: Run, live: Live) -> dict[str, Any]:
    return run.as_json(live.progress.get(run.number))


def _there(found: Any) -> Any:
    if found is None:
        raise Problem(404, "There is nothing of that name.")
    return found
