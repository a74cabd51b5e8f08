"""How a command ends: the exit code, and what is said of an error."""

import errno
import io
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import typer

from ingest_service.errors import IngestError, LocalIOError, Stopped
from ingest_service.runtime.escaped import escaped
from ingest_service.runtime.process import Reason, end_with_parent, tell
from ingest_service.telemetry.stderr import Stderr, discard

# What makes no sense on the command line. Its class is public under no name that all versions of typer have.
_WRONG_USE: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
_BUG = "This is a bug; please report it with the lines above."


def code_of(command: Callable[[], Any]) -> int:
    """Run a command. An IngestError becomes one sentence and its exit code, anything unexpected is a bug."""
    try:
        end_with_parent()
        return command() or 0
    except IngestError as error:
        _say(error, str(error), f"ingest-service: {escaped(str(error))}\n")
        return error.exit_code
    except typer.Abort:
        return Stopped.exit_code
    except _WRONG_USE as error:
        return _wrong_use(error)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            return _bug(error)
        discard(sys.stdout)  # help that nobody reads is no fault, and no difference found
        return 0 if error.errno == errno.EPIPE else LocalIOError.exit_code
    except Exception as error:
        return _bug(error)


def _say(error: Exception, reason: str, text: str) -> None:
    """To the service that wanted this run, or to the user."""
    tell("reason", asdict(Reason(escaped(reason), type(error).__name__)))
    Stderr().write(text)


def _wrong_use(error: Any) -> int:
    if isinstance(error.message, str) and type(error).__name__ != "NoArgsIsHelpError":  # which is help, in lines
        error.message = escaped(error.message)
    shown = io.StringIO()
    error.show(file=shown)
    _say(error, error.format_message(), shown.getvalue())
    code: int = error.exit_code
    return code


def _bug(error: Exception) -> int:
    _say(error, _BUG, f"{_as_bug(error)}ingest-service: {_BUG}\n")
    return IngestError.exit_code


def _as_bug(error: Exception) -> str:
    """Where an error came from that nobody expected, without the texts of errors: they may quote rows or secrets."""
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        # Places only: the lines of the source may be anybody's, as in `python -c`.
        lines.append("Traceback (most recent call last):\n")
        for frame, line in traceback.walk_tb(cause.__traceback__):
            lines.append(f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n')
        lines.append(f"{type(cause).__module__}.{type(cause).__qualname__}\n")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "".join(lines)
