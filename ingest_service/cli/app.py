"""The commands. Results go to stdout, logs and progress to stderr, and a user's mistake is one sentence.

What `--help` does without, asyncio included, is imported where it is used.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    print_findings,
    say,
    settings_of,
)
from ingest_service.cli.datasets import datasets
from ingest_service.cli.ending import code_of
from ingest_service.cli.estimate import estimate
from ingest_service.cli.export import export_dynamodb
from ingest_service.cli.infer import infer
from ingest_service.cli.loading import CheckpointPlace, Memory, StateDir, StateMirror, load_jobs
from ingest_service.cli.movielens import movielens
from ingest_service.cli.popular import covisited, popular
from ingest_service.cli.replay import replay
from ingest_service.cli.report import show_report
from ingest_service.cli.serve import serve
from ingest_service.cli.show import show
from ingest_service.cli.split import split
from ingest_service.cli.work import ShardMb, refuse_what_is_not_shared, run_with_workers, work, work_on_ray
from ingest_service.errors import UsageError
from ingest_service.runtime.process import stop_on_signals
from ingest_service.telemetry.stderr import open_all

if TYPE_CHECKING:
    from ingest_service.audit.crash_trial import CrashReport
    from ingest_service.audit.findings import Findings
    from ingest_service.config import Settings
    from ingest_service.pipeline.report import Report
    from ingest_service.sinks.base import Finding

app = typer.Typer(
    name="ingest-service",
    help="Load interaction files into stores and lakes: resumable, with every row accounted for.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would take longer to import than the rest of it
    context_settings={"help_option_names": ["-h", "--help"]},
)

Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE", help="Files, patterns, '-' for standard input, or archive.zip#member."),
]


@app.command()
def run(
    sources: Sources,
    to: To = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many rows of each source.")
    ] = None,
    dataset: Dataset = None,
    columns: Columns = None,
    max_rejects: Annotated[
        str | None,
        typer.Option("--max-rejects", metavar="N|N%", help="Stop when more are refused; 100% for no limit."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Load the sources again from their start.")] = False,
    memory_mb: Memory = None,
    checkpoint: CheckpointPlace = None,
    state_dir: StateDir = None,
    state_mirror: StateMirror = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", metavar="PORT", help="Answer GET /metrics for Prometheus here meanwhile."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Divide the sources among so many processes.")
    ] = None,
    shard_mb: ShardMb = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="ray://HOST:PORT", help="Let Ray start the workers, on its machines."),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", metavar="published", help="Compare the rows with what the data set was published with."
        ),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Load sources into sinks, going on where an earlier run stopped. `run FILE 1000` loads its first 1,000 rows."""
    sources, limit = _trailing_limit(sources, limit)
    flags = {
        "to": to or None,
        "limit": limit,
        "dataset": dataset,
        "columns": column_names(columns),
        "max_rejects": max_rejects,
        "memory_mb": memory_mb,
        "checkpoint": checkpoint,
        "state_dir": state_dir,
        "state_mirror": state_mirror,
        "metrics_port": metrics_port,
    }
    if expect not in (None, "published"):
        raise UsageError("--expect is for: published.")
    settings = settings_of(flags, config)
    if expect and settings.limit:
        raise UsageError("--expect published is for whole files, and not with --limit.")
    if on is not None:
        if restart:
            raise UsageError("With --on a load goes on where it stood; begin again with: run --workers 1 --restart.")
        report = work_on_ray(on, workers or 1, sources, settings, shard_mb)
    elif workers:
        refuse_what_is_not_shared(sources, settings)
        report = execute(run_with_workers(sources, settings, workers, shard_mb, config, restart=restart))
    else:
        report = execute(_run(sources, settings, restart=restart))
    show_report(report, as_json=as_json)
    if expect:
        _compare(sources, report, settings)


def _compare(sources: Sequence[str], report: "Report", settings: "Settings") -> None:
    """Say as which published file each source is. NotAsPublished if one is as none."""
    from ingest_service.datasets.catalogue import published_as
    from ingest_service.pipeline.run import jobs_of
    from ingest_service.sources.digest import sha256_of

    for stream, job in zip(report.streams, jobs_of(sources, settings), strict=True):
        rows = max(sink.counts.read for sink in stream.sinks.values())
        found = published_as(job.dataset, rows, partial(sha256_of, job.source))
        say(f"{stream.source.rpartition('/')[2]}: as published, {found}", err=True)


async def _run(sources: Sequence[str], settings: "Settings", *, restart: bool) -> "Report":
    from ingest_service.pipeline.run import jobs_of

    return await load_jobs(jobs_of(sources, settings, restart=restart), settings, stop_on_signals())


@app.command()
def check(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Files to look at too: can they be read?"),
    ] = None,
    to: To = None,
    create: Annotated[bool, typer.Option("--create", help="Make tables that are missing.")] = False,
    dataset: Dataset = None,
    columns: Columns = None,
    config: Config = None,
) -> None:
    """Is every sink reachable and permitted, are its tables there and right for the rows? A line each; 69 if not."""
    settings = settings_of({"to": to or None, "dataset": dataset, "columns": column_names(columns)}, config)
    findings = execute(_check(sources or [], settings, create=create))
    print_findings(findings)


async def _check(sources: Sequence[str], settings: "Settings", *, create: bool) -> "list[tuple[str, Finding]]":
    import asyncio

    from ingest_service.pipeline.run import examine, examine_source, sinks_of

    findings = [(name, await asyncio.to_thread(examine_source, name, settings)) for name in sources]
    dataset = settings.dataset_named()
    for sink in sinks_of(settings.sink_urls(), dataset):
        found = await examine(sink, dataset, create=create)
        findings += [(sink.name, finding) for finding in found]
    return findings


@app.command()
def preview(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, or archive.zip#member.")],
    rows: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 5,
    to: To = None,
    dataset: Dataset = None,
    columns: Columns = None,
    config: Config = None,
) -> None:
    """What the first rows would become in each sink, and the first refused rows; writes nothing."""
    settings = settings_of({"to": to or None, "dataset": dataset, "columns": column_names(columns)}, config)
    texts = execute(_preview(source, rows, settings))
    with output():
        for text in texts:
            say(text)


async def _preview(name: str, rows: int, settings: "Settings") -> list[str]:
    import asyncio

    from ingest_service.pipeline.run import jobs_of, sinks_of
    from ingest_service.sinks.abilities import Previewed

    job = jobs_of([name], settings)[0]
    reader = await asyncio.to_thread(job.open_reader, limit=rows)
    try:
        block = await asyncio.to_thread(reader.next)
        if block is None:
            return ["The source has a header and no rows."]
        chunk = reader.chunk(block)
        texts = []
        for sink in sinks_of(settings.sink_urls(), job.dataset):
            shown = (
                sink.preview(chunk.columns) if isinstance(sink, Previewed) else ["is a kind of sink that shows none"]
            )
            texts += [f"{sink.name}:", *(f"  {text}" for text in shown)]
            await sink.close()
        texts += [f"refused: line {reject.line}: {reject.code}: {reject.reason}" for reject in chunk.rejects]
        return texts
    finally:
        reader.close()


@app.command()
def status(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="By default all that have a checkpoint.")
    ] = None,
    to: To = None,
    dataset: Dataset = None,
    checkpoint: CheckpointPlace = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Where each sink stands: offset, rows, percent, complete or not."""
    settings = settings_of({"to": to or None, "dataset": dataset, "checkpoint": checkpoint}, config)
    lines = execute(_status(source, settings))
    with output():
        for line in lines:
            for text in (json.dumps(line),) if as_json else _status_texts(line):
                say(text)
        if not lines:
            say("No source has a checkpoint in these sinks yet.", err=as_json)


async def _status(source: str | None, settings: "Settings") -> list[dict[str, Any]]:
    from ingest_service.audit.status import status_of
    from ingest_service.config import stream_named
    from ingest_service.pipeline.run import sinks_of
    from ingest_service.sources import sources_named

    wanted = {stream_named(found.uri) for found in sources_named(source)} if source else None
    sinks = sinks_of(settings.sink_urls(), settings.dataset_named())
    return [line for sink in sinks for line in await status_of(sink, settings.checkpoint_dir, wanted)]


def _status_texts(line: dict[str, Any]) -> list[str]:
    state = "complete" if line["complete"] else "in work" if line["holder"] else "stopped"
    percent = "?" if line["percent"] is None else f"{line['percent']}%"
    names = ("read", "rejected", *(("filtered",) if line["filtered"] else ()), "written", "merged", "dead")
    counts = ", ".join(f"{line[name]:,} {name}" for name in names)
    text = f"{line['sink']}  {line['source']}  {state}  {percent}  at offset {line['offset']:,}: {counts}"
    if "shards" not in line:
        return [text]
    at_work = [f"{one['shard'] + 1} at {one['percent']}% by {one['holder']}" for one in line["shards"] if one["holder"]]
    shards = f"  {line['shards_complete']} of {len(line['shards'])} shards complete"
    return [text, f"{shards}; in work: {', '.join(at_work)}" if at_work else shards]


@app.command()
def verify(
    sources: Sources,
    to: To = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Only so many users, always the same ones; for big tables.")
    ] = None,
    dataset: Dataset = None,
    columns: Columns = None,
    checkpoint: CheckpointPlace = None,
    state_dir: StateDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Read sources again and compare every sink and the dead letters with them; exit 1 if there are differences."""
    flags = {
        "to": to or None,
        "dataset": dataset,
        "columns": column_names(columns),
        "checkpoint": checkpoint,
        "state_dir": state_dir,
    }
    findings = execute(_verify(sources, settings_of(flags, config), sample))
    with output():
        for line in (json.dumps(findings.as_json()),) if as_json else findings.lines():
            say(line)
    if not findings.equal:
        raise typer.Exit(1)


async def _verify(sources: Sequence[str], settings: "Settings", sample: int | None) -> "Findings":
    from ingest_service.audit.verify import WHEN_STOPPED, verify
    from ingest_service.pipeline.run import jobs_of, opened, sinks_of

    jobs = jobs_of(sources, settings)
    sinks = sinks_of(settings.sink_urls(), settings.dataset_named())
    async with at_work("verify", WHEN_STOPPED) as (stop, progress), opened(sinks):
        return await verify(jobs, sinks, stop, progress, sample=sample)


@app.command(name="crash-test")
def crash_test(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, or archive.zip#member.")],
    to: To = None,
    cycles: Annotated[int, typer.Option("--cycles", min=1, help="How often to kill a run.")] = 30,
    seed: Annotated[int | None, typer.Option("--seed", help="Make the same choices as an earlier trial.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Kill runs that so many processes share.")
    ] = None,
    dataset: Dataset = None,
    columns: Columns = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="sink|file", help="Where checkpoints are kept; by default both in turn."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Load a file into scratch places of the sinks, kill the runs again and again, and see that nothing gets lost."""
    if checkpoint not in (None, "sink", "file"):
        raise UsageError("--checkpoint is 'sink' or 'file' here; the folder is a temporary one.")
    settings = settings_of({"to": to or None, "dataset": dataset, "columns": column_names(columns)}, config)
    arguments = [source, *(f"--column={column}" for column in columns or ())]
    arguments += [f"--dataset={dataset}"] if dataset else []
    arguments += [f"--config={config}"] if config else []
    kinds = [checkpoint] if checkpoint else ["sink", "file"]
    report = execute(_crash_test(source, settings, arguments, kinds, cycles, seed, workers or 0))
    with output():
        for line in (json.dumps(report.as_json()),) if as_json else report.lines():
            say(line)
    if not report.lossless:
        raise typer.Exit(1)


async def _crash_test(
    source: str,
    settings: "Settings",
    arguments: list[str],
    checkpoints: list[str],
    cycles: int,
    seed: int | None,
    workers: int,
) -> "CrashReport":
    import secrets

    from ingest_service.audit.crash_trial import crash_test
    from ingest_service.pipeline.run import jobs_of
    from ingest_service.telemetry.show import show_on_stderr

    jobs = jobs_of([source], settings)
    if len(jobs) != 1:
        raise UsageError(f"{source!r} names {len(jobs)} files; try them one at a time.")
    stop = stop_on_signals()
    with show_on_stderr() as show:
        return await crash_test(
            jobs[0],
            settings.sink_urls(),
            arguments,
            checkpoints,
            cycles=cycles,
            seed=secrets.randbelow(1 << 32) if seed is None else seed,
            workers=workers,
            stop=stop,
            progress=show.counter("crash-test"),
        )


def _trailing_limit(sources: list[str], limit: int | None) -> tuple[list[str], int | None]:
    """`run file.csv 1000`: a bare integer after the files is the limit, unless a file has that name."""
    last = sources[-1]
    if limit is None and len(sources) > 1 and last.isascii() and last.isdigit() and not Path(last).exists():
        if int(last) < 1:
            raise UsageError("The limit must be at least 1.")
        return sources[:-1], int(last)
    return sources, limit


app.command()(work)
app.command()(replay)
app.command()(show)
app.command()(infer)
app.command()(estimate)
app.command("export-dynamodb")(export_dynamodb)
app.command()(popular)
app.command()(split)
app.command()(covisited)
app.command()(datasets)
app.command()(serve)
app.add_typer(movielens)


@cache
def commands() -> Callable[..., Any]:
    """All of them, as typer makes them."""
    return typer.main.get_command(app)


def prepare() -> None:
    """Make what every start makes: for a process from which others are forked."""
    from ingest_service.config import prepare_settings

    prepare_settings()
    commands()


def main() -> None:
    """The console script."""
    open_all()
    gc.disable()  # imports make much and throw little away; a run enables it again
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start threads for algebra that is not done here
    sys.exit(code_of(lambda: commands()(standalone_mode=False)))
