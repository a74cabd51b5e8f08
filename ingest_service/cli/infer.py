"""`infer`: a schema file for a source, to look at and to load by."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ingest_service.cli.common import Config, output, say, settings_of
from ingest_service.errors import LocalIOError, UsageError


def infer(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, archive.zip#member, or an object's URL.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the schema here; there must be none yet."),
    ] = None,
    config: Config = None,
) -> None:
    """Look at rows, write a schema file for --dataset to stdout or a new file, and say on stderr what was found."""
    from ingest_service.datasets import is_schema_file
    from ingest_service.inference.infer import infer as inferred
    from ingest_service.pipeline.run import sources_for

    if out is not None and not is_schema_file(out.name):
        raise UsageError(f"--dataset takes a schema by its ending; name {out} with .yaml.")
    if out is not None and out.exists():
        raise _there_is_one(out)
    sources = sources_for(source, settings_of({}, config))
    if len(sources) != 1:
        raise UsageError(f"{source!r} names {len(sources)} files; name one of them.")
    result = inferred(sources[0])
    if out is None:
        with output():
            typer.echo(result.text, nl=False)
            sys.stdout.flush()
    else:
        _write(out, result.text)
    for line in (*result.found, *(f"not sure: {doubt}" for doubt in result.doubts)):
        say(line, err=True)


def _write(path: Path, text: str) -> None:
    """A new file, whole or not at all. UsageError if there is one."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise _there_is_one(path) from None
    except OSError as error:
        raise LocalIOError(f"{path} cannot be written ({error.strerror}).") from error
    try:
        with file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise LocalIOError(f"{path} cannot be written ({error.strerror}); make room, then run again.") from error


def _there_is_one(path: Path) -> UsageError:
    return UsageError(f"There is a file {path} already; name another with -o, or remove it.")
