"""The command `export-dynamodb`."""

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ingest_service.cli.common import (
    AsJson,
    Columns,
    Config,
    Dataset,
    at_work,
    column_names,
    execute,
    output,
    say,
    settings_of,
)
from ingest_service.errors import ConfigurationError

if TYPE_CHECKING:
    from ingest_service.analysis.export import Exported
    from ingest_service.analysis.places import ExportPlace
    from ingest_service.config import Settings
    from ingest_service.sinks.dynamodb.sink import DynamoDBSink


def export_dynamodb(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Files, patterns, or archive.zip#member.")],
    into: Annotated[str, typer.Option("--into", metavar="PLACE", help="s3://bucket/prefix/, or a folder.")],
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="The table that the import makes, and how its items are.")
    ] = "dynamodb://interactions",
    max_rejects: Annotated[
        str | None,
        typer.Option("--max-rejects", metavar="N|N%", help="Stop when more are refused; 100% for no limit."),
    ] = None,
    dataset: Dataset = None,
    columns: Columns = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Files from which DynamoDB makes a new table without write units: the items that a load would leave there."""
    from ingest_service.analysis.places import ExportPlace
    from ingest_service.sinks.dynamodb.imports import import_command
    from ingest_service.sinks.dynamodb.tables import definition

    flags = {"to": [to], "dataset": dataset, "columns": column_names(columns), "max_rejects": max_rejects}
    settings = settings_of(flags, config)
    sink, place = _sink(settings), ExportPlace(into)
    made = execute(_export(sources, settings, sink, place))
    bucket, prefix = (place.bucket, place.prefix) if place.bucket else ("BUCKET", "PREFIX/data/")
    command = import_command(sink.table, sink.options.region, bucket, prefix)
    with output():
        if as_json:
            typer.echo(json.dumps({**made.as_json(), "table": definition(sink.table), "command": command}))
            return
        for line in made.lines():
            say(line)
        if not place.bucket:
            say(f"Copy it: aws s3 cp --recursive {shlex.quote(into.rstrip('/'))}/data s3://BUCKET/PREFIX/data/")
        say("Import it, and then run `check --create` with the same --to:")
        say(command)


def _sink(settings: "Settings") -> "DynamoDBSink":
    from ingest_service.pipeline.run import sinks_of
    from ingest_service.sinks.dynamodb.sink import DynamoDBSink

    (sink,) = sinks_of(settings.sink_urls())
    if not isinstance(sink, DynamoDBSink):
        raise ConfigurationError(f"The export is for DynamoDB, and {sink.name} is none; name its table with --to.")
    if settings.dataset_named().schema.is_about_items:
        raise ConfigurationError("A data set about items is written into the table of items; load it with run.")
    return sink


async def _export(
    sources: Sequence[str], settings: "Settings", sink: "DynamoDBSink", place: "ExportPlace"
) -> "Exported":
    from ingest_service.analysis.export import WHEN_STOPPED, export
    from ingest_service.pipeline.run import jobs_of

    jobs = jobs_of(sources, settings)
    async with at_work("export-dynamodb", WHEN_STOPPED) as (stop, progress):
        return await export(jobs, sink, place, stop, progress)
