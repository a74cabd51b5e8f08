"""What commands have in common: options, settings from all their places, how they run and print."""

import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ingest_service.errors import LocalIOError, UsageError
from ingest_service.runtime.escaped import escaped
from ingest_service.runtime.process import give_back_memory, stop_on_signals
from ingest_service.telemetry.stderr import Stderr, discard

if TYPE_CHECKING:
    import asyncio

    from ingest_service.config import Settings
    from ingest_service.sinks.base import Finding

T = TypeVar("T")

To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="URL",
        help="redis://, dynamodb://, mongodb://, postgresql://, sqlite:// or parquet://. May be given several times.",
    ),
]
Dataset = Annotated[str | None, typer.Option("--dataset", help="The shape of the files.")]
Config = Annotated[Path | None, typer.Option("--config", help="A TOML file; by default ingest.toml, if it is here.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="ROLE=NAME", help="Your own name for a column, or its place: user=uid, user=#1."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def settings_of(flags: dict[str, Any], file: Path | None) -> "Settings":
    from ingest_service.config import load_settings
    from ingest_service.telemetry import logs

    settings = load_settings(flags, file)
    logs.configure(settings.log_level)
    return settings


def column_names(columns: list[str] | None) -> dict[str, str] | None:
    if not columns:
        return None
    names: dict[str, str] = {}
    for column in columns:
        role, mark, name = column.partition("=")
        if not mark or not role or not name:
            raise UsageError(f"--column {column!r} is not ROLE=NAME, for example user=uid or user=#1.")
        if role in names:
            raise UsageError(f"--column names {role} twice; give it one column.")
        if name in names.values():
            raise UsageError(f"--column gives {name!r} to two roles; give each a column of its own.")
        names[role] = name
    return names


def moment(as_of: str) -> datetime | None:
    """What --as-of says; None for the newest row's."""
    if as_of in ("now", "latest"):
        return datetime.now(UTC) if as_of == "now" else None
    try:
        at = datetime.fromisoformat(as_of)
    except ValueError:
        raise UsageError(f"--as-of {as_of!r} is neither 'now', 'latest' nor an ISO 8601 time.") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def say(text: str, *, err: bool = False) -> None:
    """Print one line for a person: names and texts in it that others chose do nothing to a terminal."""
    if err:
        Stderr().write(f"{escaped(text)}\n")
    else:
        typer.echo(escaped(text))


@contextmanager
def output() -> Iterator[None]:
    """What is printed inside may find nobody there, as with `| head`: no fault. A full disk is one."""
    try:
        yield
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise LocalIOError(f"The output cannot be written ({error.strerror}).") from error


def execute(job: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is one."""
    give_back_memory()
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.run(job)
    return uvloop.run(job)


@asynccontextmanager
async def at_work(command: str, when_stopped: str) -> AsyncIterator["tuple[asyncio.Event, Callable[..., None]]"]:
    """For what reads a while: the stop, which ends it in time with that sentence, and what shows its progress."""
    from ingest_service.pipeline.run import ended_in_time
    from ingest_service.telemetry.show import show_on_stderr

    stop = stop_on_signals()
    with show_on_stderr() as show:
        async with ended_in_time(stop, when_stopped):
            yield stop, show.counter(command)


def print_findings(findings: "Sequence[tuple[str, Finding]]") -> None:
    """What `check` found, a line each; exit 69 if something is not as it must be."""
    with output():
        for name, finding in findings:
            verdict = "BAD" if not finding.ok else "WARN" if finding.warning else "ok"
            say(f"{verdict:<4} {name}  {finding.what}: {finding.detail}")
    if not all(finding.ok for _, finding in findings):
        raise typer.Exit(69)
