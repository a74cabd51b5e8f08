"""The command `popular`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ingest_service.cli.common import (
    AsJson,
    Columns,
    Config,
    Dataset,
    column_names,
    execute,
    moment,
    output,
    say,
    settings_of,
)
from ingest_service.errors import ConfigurationError, UsageError
from ingest_service.runtime.process import stop_on_signals

if TYPE_CHECKING:
    from ingest_service.analysis.popular import Kept, Popular, Wanted
    from ingest_service.config import Settings


def popular(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Files, patterns, or archive.zip#member.")],
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The Redis that takes the list.")],
    days: Annotated[float, typer.Option("--days", min=0, help="Interactions of so many days before --as-of.")] = 30,
    as_of: Annotated[
        str, typer.Option("--as-of", metavar="now|latest|TIME", help="Up to now, to the newest row, or to a time.")
    ] = "now",
    half_life_days: Annotated[
        float | None, typer.Option("--half-life", metavar="DAYS", help="Each counts half as much every so many days.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many items.")] = 100,
    key: Annotated[str, typer.Option("--key", help="The key that is replaced.")] = "rec:fallback:popular",
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Replace the old list by an empty one, too.")
    ] = False,
    expire_s: Annotated[int | None, typer.Option("--expire", metavar="S", min=1, help="The key expires then.")] = None,
    dataset: Dataset = None,
    columns: Columns = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """The items with the most interactions of late, counted from files, as a list in Redis. None: the old one stays."""
    from ingest_service.analysis.popular import Kept, Wanted

    if half_life_days is not None and half_life_days <= 0:
        raise UsageError("--half-life is a number of days above 0.")
    settings = settings_of({"to": [to], "dataset": dataset, "columns": column_names(columns)}, config)
    wanted, kept = Wanted(moment(as_of), days, half_life_days, limit), Kept(key, allow_empty, expire_s)
    found = execute(_popular(sources, settings, wanted, kept))
    with output():
        if as_json:
            typer.echo(json.dumps(found.as_json()))
            return
        say(f"{len(found.items):,} popular items as of {found.as_of:%Y-%m-%d %H:%M:%S} UTC.")
        if not found.stored:
            say("There were none in that time, so the old list stays; --allow-empty replaces it.")


async def _popular(sources: Sequence[str], settings: "Settings", wanted: "Wanted", kept: "Kept") -> "Popular":
    from ingest_service.analysis.popular import WHEN_STOPPED, popular
    from ingest_service.pipeline.run import ended_in_time, jobs_of, sinks_of
    from ingest_service.sinks.redis.sink import RedisSink
    from ingest_service.telemetry.show import show_on_stderr

    (sink,) = sinks_of(settings.sink_urls())
    if not isinstance(sink, RedisSink):
        raise ConfigurationError(
            f"A list of popular items goes into Redis, and {sink.name} is none; name one with --to."
        )
    if settings.dataset_named().schema.is_about_items:
        raise ConfigurationError("A data set about items has no interactions to count; name one of interactions.")
    jobs = jobs_of(sources, settings)
    stop = stop_on_signals()
    with show_on_stderr() as show:
        async with ended_in_time(stop, WHEN_STOPPED):
            return await popular(jobs, sink, wanted, kept, stop, show.counter("popular"))
