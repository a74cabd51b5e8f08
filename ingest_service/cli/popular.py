"""The commands `popular` and `covisited`."""

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ingest_service.cli.common import (
    AsJson,
    Columns,
    Config,
    Dataset,
    T,
    at_work,
    column_names,
    execute,
    moment,
    output,
    say,
    settings_of,
)
from ingest_service.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from ingest_service.analysis.covisited import Covisited
    from ingest_service.analysis.popular import Popular
    from ingest_service.config import Settings


Sources = Annotated[list[str], typer.Argument(metavar="SOURCE", help="Files, patterns, or archive.zip#member.")]
ToRedis = Annotated[str, typer.Option("--to", metavar="URL", help="The Redis that takes the list.")]
Days = Annotated[float, typer.Option("--days", min=0, help="Interactions of so many days before --as-of.")]
AsOf = Annotated[
    str, typer.Option("--as-of", metavar="now|latest|TIME", help="Up to now, to the newest row, or to a time.")
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Replace the old list by an empty one, too.")]
ExpireS = Annotated[int | None, typer.Option("--expire", metavar="S", min=1, help="The key expires then.")]


def popular(
    sources: Sources,
    to: ToRedis,
    days: Days = 30,
    as_of: AsOf = "now",
    half_life_days: Annotated[
        float | None, typer.Option("--half-life", metavar="DAYS", help="Each counts half as much every so many days.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many items.")] = 100,
    key: Annotated[str, typer.Option("--key", help="The key that is replaced.")] = "rec:fallback:popular",
    allow_empty: AllowEmpty = False,
    expire_s: ExpireS = None,
    dataset: Dataset = None,
    columns: Columns = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """The items with the most interactions of late, counted from files, as a list in Redis. None: the old one stays."""
    from ingest_service.analysis.interactions import Kept, Window
    from ingest_service.analysis.popular import Wanted
    from ingest_service.analysis.popular import popular as count

    if half_life_days is not None and half_life_days <= 0:
        raise UsageError("--half-life is a number of days above 0.")
    settings = settings_of({"to": [to], "dataset": dataset, "columns": column_names(columns)}, config)
    wanted, kept = Wanted(Window(moment(as_of), days), half_life_days, limit), Kept(key, allow_empty, expire_s)
    found = execute(_counted("popular", sources, settings, partial(count, wanted=wanted, kept=kept)))
    _print(found, f"{len(found.items):,} popular items", as_json=as_json)


def covisited(
    sources: Sources,
    to: ToRedis,
    days: Days = 30,
    as_of: AsOf = "now",
    per_user: Annotated[
        int, typer.Option("--per-user", min=2, max=1_000, help="Of each user the items that he came to last.")
    ] = 100,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many for each item.")] = 20,
    key: Annotated[str, typer.Option("--key", help="The hash that is replaced.")] = "rec:covisited",
    allow_empty: AllowEmpty = False,
    expire_s: ExpireS = None,
    dataset: Dataset = None,
    columns: Columns = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """For each item those that most of its users came to as well, counted from files, as a hash in Redis."""
    from ingest_service.analysis.covisited import Wanted, covisited
    from ingest_service.analysis.interactions import Kept, Window

    settings = settings_of({"to": [to], "dataset": dataset, "columns": column_names(columns)}, config)
    wanted, kept = Wanted(Window(moment(as_of), days), per_user, limit), Kept(key, allow_empty, expire_s)
    found = execute(_counted("covisited", sources, settings, partial(covisited, wanted=wanted, kept=kept)))
    _print(found, f"{found.lists:,} items with others", as_json=as_json)


def _print(found: "Popular | Covisited", what: str, *, as_json: bool) -> None:
    with output():
        if as_json:
            typer.echo(json.dumps(found.as_json()))
            return
        say(f"{what} as of {found.as_of:%Y-%m-%d %H:%M:%S} UTC.")
        if not found.stored:
            say("There were none in that time, so the old list stays; --allow-empty replaces it.")


async def _counted(command: str, sources: Sequence[str], settings: "Settings", count: Callable[..., Awaitable[T]]) -> T:
    """What `count` makes of the jobs, the Redis, the stop and the progress."""
    from ingest_service.analysis.interactions import WHEN_STOPPED
    from ingest_service.pipeline.run import jobs_of, sinks_of
    from ingest_service.sinks.redis.sink import RedisSink

    (sink,) = sinks_of(settings.sink_urls())
    if not isinstance(sink, RedisSink):
        raise ConfigurationError(f"A list of items goes into Redis, and {sink.name} is none; name one with --to.")
    if settings.dataset_named().schema.is_about_items:
        raise ConfigurationError("A data set about items has no interactions to count; name one of interactions.")
    jobs = jobs_of(sources, settings)
    async with at_work(command, WHEN_STOPPED) as (stop, progress):
        return await count(jobs, sink, stop=stop, progress=progress)
