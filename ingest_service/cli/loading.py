"""What commands that load have in common: where state is kept, and the run with what shows it."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import asyncio

    from ingest_service.config import Settings
    from ingest_service.pipeline.job import Job
    from ingest_service.pipeline.report import Report

CheckpointPlace = Annotated[
    str | None, typer.Option("--checkpoint", metavar="sink|file:DIR", help="Where checkpoints are kept.")
]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where dead letters are kept.")]


async def load_jobs(jobs: "Sequence[Job]", settings: "Settings", stop: "asyncio.Event") -> "Report":
    """Load them into the sinks of the settings, and show it on stderr and to whoever listens."""
    from ingest_service.pipeline.run import run, sinks_of
    from ingest_service.telemetry.listeners import listening
    from ingest_service.telemetry.show import RunObserver, show_on_stderr

    sinks = sinks_of(settings.sink_urls(), jobs[0].dataset if jobs else settings.dataset_named())
    with listening("run", settings) as listeners:
        gc.enable()
        gc.freeze()  # what the imports made lives as long as the process: no collection need look at it again
        with show_on_stderr(len(jobs)) as show:
            return await run(jobs, sinks, stop, RunObserver(show, listeners))
