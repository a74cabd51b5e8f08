"""What `run` prints at its end."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from ingest_service.cli.common import output
from ingest_service.runtime.escaped import escaped

if TYPE_CHECKING:
    from ingest_service.pipeline.report import Report, StreamReport
    from ingest_service.pipeline.tracker import Counts

_SHOWN = 20  # files whose refused rows are named


def show_report(report: "Report", *, as_json: bool) -> None:
    """The report of a load, as one JSON object or for people."""
    with output():
        if as_json:
            typer.echo(json.dumps(report.as_json()))
        else:
            print_report(report)


def print_report(report: "Report") -> None:
    """A table for each source; where there are many, one with the sums, and what is worth a look of each."""
    from ingest_service.pipeline.report import MANY

    if len(report.streams) > MANY:
        _print_sums(report)
        return
    for stream in report.streams:
        _print_stream(stream)


def _print_stream(stream: "StreamReport") -> None:
    state = "complete" if stream.complete else "as far as the limit"
    pace = f" ({stream.rows_per_s:,.0f} rows/s)" if stream.rows_now else ""
    lines = [f"Warning: {warning}" for warning in stream.warnings]
    lines += [f"Warning: {sink}: {text}" for sink, numbers in stream.sinks.items() for text in numbers.warnings]
    if _has_refused(stream):
        lines.append(f"Refused rows, with their reasons: {stream.dead_letters}")
    _print_table(
        f"{_name(stream)}: {state}",
        {sink: numbers.counts for sink, numbers in stream.sinks.items()},
        f"{stream.rows_now:,} rows in this run, {stream.elapsed_s:.1f} s{pace}.",
        lines,
    )


def _print_sums(report: "Report") -> None:
    streams = report.streams
    n_whole, n_before = sum(stream.complete for stream in streams), sum(not stream.rows_now for stream in streams)
    state = "complete" if n_whole == len(streams) else f"{n_whole:,} complete, the others as far as the limit"
    rows_now, elapsed_s = sum(stream.rows_now for stream in streams), sum(stream.elapsed_s for stream in streams)
    pace = f" ({rows_now / elapsed_s:,.0f} rows/s)" if rows_now else ""
    told: dict[str, list[str]] = {}  # the files of each warning
    for stream in streams:
        for sink, numbers in stream.sinks.items():
            for text in numbers.warnings:
                told.setdefault(f"{sink}: {text}", []).append(_name(stream))
        for text in stream.warnings:
            told.setdefault(text, []).append(_name(stream))
    lines = [f"{n_before:,} of the files had nothing new."] if n_before else []
    lines += [f"Warning: {text}{_of(files, len(streams))}" for text, files in told.items()]
    refused = [stream for stream in streams if _has_refused(stream)]
    if refused:
        lines.append(f"Refused rows, with their reasons, of {len(refused):,} files:")
        lines += [f"  {_name(stream)}: {stream.dead_letters}" for stream in refused[:_SHOWN]]
        if len(refused) > _SHOWN:
            lines.append(f"  and {len(refused) - _SHOWN:,} more; --json has them all")
    _print_table(
        f"{len(streams):,} files: {state}",
        {sink: report.total(sink) for sink in streams[0].sinks},
        f"{rows_now:,} rows in this run, {elapsed_s:.1f} s{pace}.",
        lines,
    )


def _name(stream: "StreamReport") -> str:
    return stream.source.rpartition("/")[2]


def _has_refused(stream: "StreamReport") -> bool:
    return any(numbers.counts.rejected or numbers.counts.dead for numbers in stream.sinks.values())


def _of(files: Sequence[str], n: int) -> str:
    """Which files a warning is of, where it is not of all."""
    if len(files) == n:
        return ""
    return f" ({files[0]})" if len(files) == 1 else f" ({files[0]} and {len(files) - 1:,} more)"


def _print_table(title: str, counts: "Mapping[str, Counts]", first: str, lines: Sequence[str]) -> None:
    """What became of rows, a line a sink, and lines for the reader below."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(escaped(title)), title_justify="left")  # a name is no markup
    has_records = any(numbers.records is not None for numbers in counts.values())
    filtered = ("filtered",) if any(numbers.filtered for numbers in counts.values()) else ()
    records = ("n_records",) if has_records else ()
    names = ("read", "accepted", "rejected", *filtered, *records, "written", "merged", "dead")
    for heading in ("sink", *names):
        table.add_column(heading.removeprefix("n_"), justify="left" if heading == "sink" else "right")
    for sink, numbers in counts.items():
        table.add_row(sink, *(f"{getattr(numbers, name):,}" for name in names))
    console = Console()
    with console.capture() as printed:  # its own answer to a closed pipe would be to exit with 1
        console.print(table)
        console.print(first, highlight=False)
        for line in lines:
            console.print(escaped(line), markup=False, highlight=False, soft_wrap=True)
    typer.echo(printed.get(), nl=False)
