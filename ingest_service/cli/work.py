"""`work`: one of any number of workers; and `run --workers`, which starts some of them here."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
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
    settings_of,
)
from ingest_service.cli.loading import CheckpointPlace, Memory, StateDir, StateMirror, observed
from ingest_service.cli.report import show_report
from ingest_service.errors import ConfigurationError, UsageError
from ingest_service.runtime.process import WORKER, is_confined, stop_on_signals

if TYPE_CHECKING:
    from ingest_service.config import Settings
    from ingest_service.pipeline.report import Report

ShardMb = Annotated[
    int | None,
    typer.Option("--shard-mb", metavar="MB", min=1, help="How long a shard is, where the source is not divided yet."),
]
_OWN_MB = 80  # of the process that starts workers and shows what they do


def work(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="As `run` takes them; the same for all.")],
    to: To = None,
    share: Annotated[
        int,
        typer.Option("--share", metavar="N", min=1, help="Of how many workers this is one: they divide rate and wcu."),
    ] = 1,
    shard_mb: ShardMb = None,
    dataset: Dataset = None,
    columns: Columns = None,
    max_rejects: Annotated[
        str | None, typer.Option("--max-rejects", metavar="N|N%", help="Stop when more of a shard are refused.")
    ] = None,
    memory_mb: Memory = None,
    checkpoint: CheckpointPlace = None,
    state_dir: StateDir = None,
    state_mirror: StateMirror = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", metavar="PORT", help="Answer GET /metrics for Prometheus here.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Load sources side by side with other workers, here or elsewhere; ends once all is loaded, by whomever."""
    flags = {
        "to": to or None,
        "dataset": dataset,
        "columns": column_names(columns),
        "max_rejects": max_rejects,
        "memory_mb": memory_mb,
        "checkpoint": checkpoint,
        "state_dir": state_dir,
        "state_mirror": state_mirror,
        "metrics_port": metrics_port,
    }
    settings = settings_of(flags, config)
    refuse_what_is_not_shared(sources, settings)
    report = execute(_work(sources, settings, share, shard_mb))
    show_report(report, as_json=as_json)


def refuse_what_is_not_shared(sources: Sequence[str], settings: "Settings") -> None:
    if "-" in sources:
        raise UsageError("Standard input can be read by one process only; name a file, or leave the workers out.")
    if settings.limit is not None:
        raise UsageError("A limit is for one run; leave it out, or the workers.")


async def _work(sources: Sequence[str], settings: "Settings", share: int, shard_mb: int | None) -> "Report":
    from ingest_service.pipeline.run import jobs_of, sinks_of, work_on
    from ingest_service.sinks.urls import shared_by

    jobs = jobs_of(sources, settings)
    sinks = sinks_of([shared_by(url, share) for url in settings.sink_urls()], settings.dataset_named())
    with observed("work", settings, len(jobs)) as observer:
        return await work_on(jobs, sinks, stop_on_signals(), observer, shard_mb)


async def run_with_workers(
    sources: Sequence[str], settings: "Settings", n: int, shard_mb: int | None, config: Path | None, *, restart: bool
) -> "Report":
    """Divide the sources, let `n` processes load them, and load what these left."""
    from ingest_service.cli.team import Team
    from ingest_service.pipeline.run import divide_all, jobs_of, run, sinks_of
    from ingest_service.sinks.urls import split_url

    environment = _environment(settings, _memory_of_each(settings, n))
    arguments = [
        f"--share={n}",
        *([] if shard_mb is None else [f"--shard-mb={shard_mb}"]),
        *([f"--config={config}"] if config else []),
        "--",
        *sources,
    ]
    jobs = jobs_of(sources, settings, restart=restart)
    stop = stop_on_signals()
    with observed("run", settings, len(jobs)) as observer:
        sinks = sinks_of(settings.sink_urls(), settings.dataset_named())
        schemes = [split_url(url).scheme for url in settings.sink_urls()]
        team = Team(observer, jobs, await divide_all(jobs, sinks, stop, observer, shard_mb), schemes)
        await team.work(n, arguments, environment, stop)
        sinks = sinks_of(settings.sink_urls(), settings.dataset_named())
        return team.whole(await run([replace(job, restart=False) for job in jobs], sinks, stop, team))


def work_on_ray(address: str, n: int, sources: Sequence[str], settings: "Settings", shard_mb: int | None) -> "Report":
    """The same by Ray's workers, which read the sources and the state folder by the same names."""
    from ingest_service.cli.on_ray import run_on_ray
    from ingest_service.pipeline.dead_letter import bring
    from ingest_service.pipeline.run import jobs_of

    refuse_what_is_not_shared(sources, settings)
    if not address.startswith("ray://"):
        raise UsageError("--on takes ray://HOST:PORT, or ray://local for a Ray that is started here.")
    told = {
        "to": settings.sink_urls(),
        "dataset": settings.dataset,
        "columns": settings.columns,
        "checkpoint": settings.checkpoint,
        "state_dir": str(settings.state_dir.absolute()),
        "state_mirror": settings.state_mirror,
        "max_rejects": settings.max_rejects,
        "memory_mb": settings.memory_mb,
    }
    paths = [name if "://" in name else str(Path(name).absolute()) for name in sources]
    report = run_on_ray(address, n, paths, told, shard_mb)
    for job in jobs_of(paths, settings):
        bring(job)
    return report


def _memory_of_each(settings: "Settings", n: int) -> int:
    """What of --memory is a worker's; where that is not set, as much as a run takes by itself. ConfigurationError."""
    from ingest_service.formats.memory import MIN_MEMORY_MB

    if "memory_mb" not in settings.model_fields_set:
        return settings.memory_mb
    mine = (settings.memory_mb - _OWN_MB) // n
    if mine < MIN_MEMORY_MB:
        raise ConfigurationError(
            f"{settings.memory_mb} MB are too little for {n} workers; "
            f"give --memory {n * MIN_MEMORY_MB + _OWN_MB} or more, or take fewer workers."
        )
    return mine


def _environment(settings: "Settings", memory_mb: int) -> dict[str, str]:
    """Of a worker: the settings that the flags have set, some of which may hold secrets."""
    environment = {
        **os.environ,
        "INGEST_TO": json.dumps(list(settings.to)),
        "INGEST_DATASET": settings.dataset,
        "INGEST_COLUMNS": json.dumps(settings.columns),
        "INGEST_CHECKPOINT": settings.checkpoint,
        "INGEST_STATE_DIR": str(settings.state_dir),
        "INGEST_MEMORY_MB": str(memory_mb),
    }
    if settings.state_mirror is not None:
        environment["INGEST_STATE_MIRROR"] = settings.state_mirror
    if settings.max_rejects is not None:
        environment["INGEST_MAX_REJECTS"] = settings.max_rejects
    if not is_confined():
        environment[WORKER] = "1"
    return environment
