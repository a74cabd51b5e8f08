"""The commands `movielens …`: each a step that goes on where an earlier run of it stopped."""

import json
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ingest_service.cli.common import AsJson, Config, execute, moment, output, print_findings, say, settings_of
from ingest_service.cli.report import print_report
from ingest_service.errors import Stopped
from ingest_service.runtime.process import stop_on_signals

if TYPE_CHECKING:
    import asyncio

    from ingest_service.config import Settings
    from ingest_service.pipeline.report import Report
    from ingest_service.sinks.base import Finding
    from ingest_service.telemetry.show import Listener, Show

T = TypeVar("T")

movielens = typer.Typer(
    name="movielens",
    help="MovieLens: the archive into a bucket, movies and ratings into MongoDB, popular movies into Redis.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

CreateIndexes = Annotated[
    bool, typer.Option("--create-indexes", help="Make the indexes that readers need, if they are missing.")
]
MinRating = Annotated[float, typer.Option("--min-rating", min=0, max=5, help="Ratings below it do not count.")]
Days = Annotated[float, typer.Option("--days", min=0, help="How far back ratings count.")]
AsOf = Annotated[
    str,
    typer.Option("--as-of", metavar="TIME", help="Ratings after it do not count: 'now', 'latest' or an ISO 8601 time."),
]
Most = Annotated[int, typer.Option("--limit", min=1, help="How many movies.")]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Replace the list even by an empty one.")]
ExpireS = Annotated[int | None, typer.Option("--expire-s", min=1, help="The list is gone after so many seconds.")]


@movielens.command()
def download(config: Config = None, as_json: AsJson = False) -> None:
    """Copy the archive from MOVIELENS_URL into the bucket, unless it is there."""
    _do("download", {}, config, as_json, lambda steps: steps.download())


@movielens.command()
def movies(config: Config = None, as_json: AsJson = False) -> None:
    """Embed the movies that are new or have changed, store them in MongoDB, and write the movie id map."""
    _do("movies", {}, config, as_json, lambda steps: steps.movies())


@movielens.command()
def ratings(
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many ratings.")] = None,
    max_rejects: Annotated[
        str | None, typer.Option("--max-rejects", metavar="N|N%", help="Stop when more are refused; 100% for no limit.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Load the ratings again from their start.")] = False,
    create_indexes: CreateIndexes = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Load the ratings into MongoDB, going on where an earlier run stopped."""
    flags = {"limit": limit, "max_rejects": max_rejects}
    _do("ratings", flags, config, as_json, lambda steps: steps.ratings(restart, create_indexes))


@movielens.command()
def popular(
    min_rating: MinRating = 4.0,
    days: Days = 30,
    as_of: AsOf = "now",
    limit: Most = 100,
    allow_empty: AllowEmpty = False,
    expire_s: ExpireS = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Put the movies with the most good ratings of late into Redis. No ratings in that time: the old list stays."""
    options = _popular_options(min_rating, days, as_of, limit, allow_empty, expire_s)
    _do("popular", {}, config, as_json, lambda steps: steps.popular(options))


@movielens.command(name="all")
def all_(
    min_rating: MinRating = 4.0,
    days: Days = 30,
    as_of: AsOf = "now",
    limit: Most = 100,
    allow_empty: AllowEmpty = False,
    expire_s: ExpireS = None,
    create_indexes: CreateIndexes = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """All four steps in order."""
    options = _popular_options(min_rating, days, as_of, limit, allow_empty, expire_s)
    _do("all", {}, config, as_json, lambda steps: steps.all(create_indexes, options))


@movielens.command()
def check(
    create: Annotated[bool, typer.Option("--create", help="Make the collection and its indexes.")] = False,
    config: Config = None,
) -> None:
    """Is the place for ratings in MongoDB reachable, with the indexes that readers need? Exit 69 if not."""
    print_findings(execute(_check(settings_of({}, config), create=create)))


async def _check(settings: "Settings", *, create: bool) -> "list[tuple[str, Finding]]":
    from ingest_service.datasets.movielens import MOVIELENS
    from ingest_service.movielens.steps.ratings import ratings_sink
    from ingest_service.pipeline.run import examine

    return [("movielens", one) for one in await examine(ratings_sink(settings, {}), MOVIELENS, create=create)]


def _popular_options(
    min_rating: float, days: float, as_of: str, limit: int, allow_empty: bool, expire_s: int | None
) -> dict[str, Any]:
    return {
        "min_rating": min_rating,
        "days": days,
        "as_of": None if as_of == "now" else moment(as_of),
        "latest": as_of == "latest",
        "limit": limit,
        "allow_empty": allow_empty,
        "expire_s": expire_s,
    }


class _Steps:
    """The steps as the command line runs them: shown on stderr, stopped by signals, each with a line of results."""

    def __init__(
        self, settings: "Settings", stop: "asyncio.Event", show: "Show", listeners: "Sequence[Listener]"
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._listeners = listeners
        self._show = show
        self.results: dict[str, Any] = {}
        self.texts: list[str] = []
        self.reports: list[Report] = []

    async def download(self) -> None:
        from ingest_service.movielens import download

        done = await self._unless_stopped(download(self._settings, self._show))
        text = f"{done.archive} is there already." if done.was_there else f"{done.archive}: {done.size:,} bytes."
        self._tell("download", done.as_json(), text)

    async def movies(self) -> None:
        from ingest_service.movielens import movies

        done = await self._unless_stopped(movies(self._settings, self._show))
        text = f"{done.read:,} movies: {done.stored:,} embedded and stored, {done.unchanged:,} unchanged"
        if done.refused:
            text += f", {done.refused:,} refused ({done.dead_letters})"
        self._tell("movies", done.as_json(), f"{text}. Movie id map: {done.movie_id_map}")

    async def ratings(self, restart: bool, create_indexes: bool) -> None:
        from ingest_service.movielens import ratings
        from ingest_service.telemetry.show import RunObserver

        observer = RunObserver(self._show, self._listeners)
        report = await ratings(
            self._settings, restart=restart, create_indexes=create_indexes, stop=self._stop, observer=observer
        )
        self.results["ratings"] = report.as_json()
        self.reports.append(report)

    async def popular(self, options: dict[str, Any]) -> None:
        from ingest_service.movielens import popular

        done = await self._unless_stopped(popular(self._settings, **options))
        text = f"{len(done.movies):,} popular movies as of {done.as_of:%Y-%m-%d %H:%M:%S} UTC."
        if not done.stored:
            text = f"No movie was rated so well as of {done.as_of:%Y-%m-%d %H:%M:%S} UTC; the list in Redis stays."
        self._tell("popular", done.as_json(), text)

    async def all(self, create_indexes: bool, options: dict[str, Any]) -> None:
        await self.download()
        await self.movies()
        await self.ratings(restart=False, create_indexes=create_indexes)
        await self.popular(options)

    def _tell(self, step: str, result: dict[str, Any], text: str) -> None:
        import structlog

        self.results[step] = result
        self.texts.append(text)
        structlog.get_logger().info("report", step=step, **result)

    async def _unless_stopped(self, job: Coroutine[Any, Any, T]) -> T:
        import asyncio

        running = asyncio.create_task(job)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                running.cancel()
                await asyncio.wait((running,))
                raise Stopped.on_request()
            return running.result()
        finally:
            stopping.cancel()


def _do(name: str, flags: dict[str, Any], config: Path | None, as_json: bool, start: Any) -> None:
    from ingest_service.telemetry.listeners import listening
    from ingest_service.telemetry.show import show_on_stderr

    settings = settings_of(flags, config)

    async def run() -> _Steps:
        stop = stop_on_signals()
        with listening(f"movielens {name}", settings) as listeners, show_on_stderr() as show:
            steps = _Steps(settings, stop, show, listeners)
            await start(steps)
        return steps

    steps = execute(run())
    with output():
        if as_json:
            typer.echo(json.dumps(steps.results if name == "all" else steps.results[name]))
            return
        for text in steps.texts:
            say(text)
        for report in steps.reports:
            print_report(report)
