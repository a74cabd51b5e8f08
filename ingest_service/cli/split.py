"""The command `split`."""

from collections.abc import Sequence
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
    settings_of,
)
from ingest_service.cli.loading import CheckpointPlace, StateDir, load_jobs
from ingest_service.cli.report import show_report

if TYPE_CHECKING:
    from ingest_service.analysis.split import Rule
    from ingest_service.config import Settings
    from ingest_service.pipeline.report import Report


def split(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Files, patterns, or archive.zip#member.")],
    by: Annotated[
        str, typer.Option("--by", metavar="leave-one-out|R,R,R", help="How: the last ones of each user, or by ratios.")
    ] = "leave-one-out",
    field: Annotated[str, typer.Option("--field", help="The field that says train, valid or test.")] = "split",
    to: To = None,
    dataset: Dataset = None,
    columns: Columns = None,
    restart: Annotated[bool, typer.Option("--restart", help="Load the sources again from their start.")] = False,
    checkpoint: CheckpointPlace = None,
    state_dir: StateDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Load sources as `run` does, each record with a field that says whether it is for training, validation or test."""
    from ingest_service.analysis.split import rule_of

    rule = rule_of(by)
    flags = {
        "to": to or None,
        "dataset": dataset,
        "columns": column_names(columns),
        "checkpoint": checkpoint,
        "state_dir": state_dir,
    }
    report = execute(_split(sources, settings_of(flags, config), rule, field, restart=restart))
    show_report(report, as_json=as_json)


async def _split(sources: Sequence[str], settings: "Settings", rule: "Rule", field: str, *, restart: bool) -> "Report":
    from tempfile import TemporaryDirectory

    from ingest_service.analysis.split import WHEN_STOPPED, split_jobs
    from ingest_service.pipeline.run import jobs_of

    jobs = jobs_of(sources, settings, restart=restart)
    with TemporaryDirectory(prefix="ingest-split-") as folder:
        async with at_work("split", WHEN_STOPPED) as (stop, progress):
            jobs = await split_jobs(jobs, rule, field, Path(folder), stop, progress)
        return await load_jobs(jobs, settings, stop)
