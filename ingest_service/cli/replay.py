"""The command `replay`."""

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
    column_names,
    execute,
    output,
    say,
    settings_of,
)
from ingest_service.cli.loading import CheckpointPlace
from ingest_service.runtime.process import stop_on_signals

if TYPE_CHECKING:
    from ingest_service.audit.chosen import Chosen
    from ingest_service.audit.replay import ReplayReport
    from ingest_service.config import Settings
    from ingest_service.datasets.base import Dataset as DatasetOfFiles
    from ingest_service.sinks.base import AnySink


def replay(
    dead_letters: Annotated[Path, typer.Argument(metavar="DEAD_LETTERS", help="A file of dead letters.")],
    code: Annotated[str | None, typer.Option("--code", help="Only those that were refused with this code.")] = None,
    letter: Annotated[
        str | None, typer.Option("--letter", metavar="ID", help="Only this one, by the id that the service tells.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="What that letter's row is to be, in place of what it is.")
    ] = None,
    to: To = None,
    dataset: Dataset = None,
    columns: Columns = None,
    checkpoint: CheckpointPlace = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Try dead letters again, after they were edited or the sink was mended; what lands is removed from the file."""
    from ingest_service.audit.chosen import Chosen

    chosen = Chosen(code, letter, text)
    flags = {"to": to or None, "dataset": dataset, "columns": column_names(columns), "checkpoint": checkpoint}
    report = execute(_replay(dead_letters, settings_of(flags, config), chosen))
    with output():
        if as_json:
            typer.echo(json.dumps(report.as_json()))
            return
        say(f"{report.letters:,} dead letters: {report.landed:,} landed, {report.left:,} left.")
        if report.other:
            say(f"{report.other:,} of those left are for sinks that were not named with --to.")


async def _replay(path: Path, settings: "Settings", chosen: "Chosen") -> "ReplayReport":
    import asyncio

    from ingest_service.audit.replay import WHEN_STOPPED, replay
    from ingest_service.pipeline.run import ended_in_time, mirror_of, opened, survey
    from ingest_service.pipeline.steps import target_of
    from ingest_service.telemetry.listeners import listening
    from ingest_service.telemetry.show import show_on_stderr

    stop = stop_on_signals()
    with listening("replay", settings), show_on_stderr() as show:
        progress = show.counter("replay")
        async with ended_in_time(stop, WHEN_STOPPED):
            target = await asyncio.to_thread(target_of, path, settings)
            sinks, dataset = target or _sinks_and_dataset(settings)
            columns = settings.columns if target is None else {}
            mirror, folder = mirror_of(settings, path), settings.checkpoint_dir
            async with opened(sinks):
                await survey(sinks, dataset, show.warning)
                return await replay(path, sinks, dataset, columns, folder, stop, progress, mirror, chosen)


def _sinks_and_dataset(settings: "Settings") -> "tuple[list[AnySink], DatasetOfFiles]":
    from ingest_service.pipeline.run import sinks_of

    dataset = settings.dataset_named()
    return sinks_of(settings.sink_urls(), dataset), dataset
