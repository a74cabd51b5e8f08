"""What commands that load have in common: where state is kept, and the run with what shows it."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import asyncio

    from ingest_service.config import Settings
    from ingest_service.pipeline.job import Job
    from ingest_service.pipeline.report import Report
    from ingest_service.telemetry.show import RunObserver

CheckpointPlace = Annotated[
    str | None, typer.Option("--checkpoint", metavar="sink|file:DIR", help="Where checkpoints are kept.")
]
Memory = Annotated[int | None, typer.Option("--memory", metavar="MB", help="The most memory to take; 350 by default.")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where dead letters are kept.")]
StateMirror = Annotated[
    str | None,
    typer.Option("--state-mirror", metavar="URL", help="A folder of an object store where they are kept as well."),
]


async def load_jobs(jobs: "Sequence[Job]", settings: "Settings", stop: "asyncio.Event") -> "Report":
    """Load them into the sinks of the settings, and show it."""
    from ingest_service.pipeline.run import run, sinks_of

    sinks = sinks_of(settings.sink_urls(), jobs[0].dataset if jobs else settings.dataset_named())
    with observed("run", settings, len(jobs)) as observer:
        return await run(jobs, sinks, stop, observer)


@contextmanager
def observed(command: str, settings: "Settings", n_streams: int) -> "Iterator[RunObserver]":
    """What shows a load on stderr and to whoever listens. All that is imported by then stays."""
    from ingest_service.telemetry.listeners import listening
    from ingest_service.telemetry.show import RunObserver, show_on_stderr

    with listening(command, settings) as listeners:
        gc.enable()
        gc.freeze()  # what the imports made lives as long as the process: no collection need look at it again
        with show_on_stderr(n_streams) as show:
            yield RunObserver(show, listeners)
