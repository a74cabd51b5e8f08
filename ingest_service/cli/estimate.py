"""The command `estimate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest_service.cli.common import (
    AsJson,
    Columns,
    Config,
    Dataset,
    To,
    at_work,
    column_names,
    execute,
    output,
    say,
    settings_of,
)
from ingest_service.errors import UsageError

if TYPE_CHECKING:
    from ingest_service.analysis.estimate import Estimate
    from ingest_service.config import Settings


def estimate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, archive.zip#member, or an object's URL.")],
    to: To = None,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", metavar="FILE", help="DynamoDB's prices, in TOML, in place of the list's."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the rate by a short load into scratch places of the sinks.")
    ] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Read only parts of a long file, and say what it takes at most.")
    ] = False,
    dataset: Dataset = None,
    columns: Columns = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """What a load would take: rows, users, write units and money, memory, disk, time. Writes nothing."""
    settings = settings_of({"to": to or None, "dataset": dataset, "columns": column_names(columns)}, config)
    made = execute(_estimate(source, settings, prices, measure=measure, sample=sample))
    with output():
        for line in [json.dumps(made.as_json())] if as_json else made.lines():
            say(line)


async def _estimate(
    source: str, settings: "Settings", prices: Path | None, *, measure: bool, sample: bool
) -> "Estimate":
    from ingest_service.analysis.estimate import WHEN_STOPPED, estimate
    from ingest_service.pipeline.run import jobs_of, sinks_of

    jobs = jobs_of([source], settings)
    if len(jobs) != 1:
        raise UsageError(f"{source!r} names {len(jobs)} files; estimate them one at a time.")
    urls = settings.sink_urls()
    sinks = sinks_of(urls, settings.dataset_named())
    async with at_work("estimate", WHEN_STOPPED) as (stop, progress):
        measured = urls if measure else ()
        return await estimate(jobs[0], sinks, stop, progress, prices=prices, measure=measured, sample=sample)
