"""What can go wrong, as one tree. A family answers "what now?", and carries the exit code that says so.

    IngestError
    ├── UsageError            2   the command line makes no sense: fix it
    ├── TooManyRejects       65   more rows are refused than --max-rejects allows, or nearly all without it
    ├── NotAsPublished       65   with --expect published: the source has other rows than the published one
    ├── SourceNotFound       66   no such file, glob match or archive member
    ├── SinkUnavailable      69   a sink stayed down past its retry budget: run again later
    ├── LeaseHeld            73   another runner works on this stream
    ├── LocalIOError         74   disk full, unreadable source, damaged archive
    ├── Stopped              75   stopped on request: run again to go on
    └── ConfigurationError   78   a setting, a permission or a missing table: fix it
        ├── SourceChanged    78   the file is not the one that the checkpoint is about
        │   └── LineContinued 78  its last line had no end when it was loaded, and went on since
        ├── CheckpointDamaged 78  the checkpoint cannot be trusted
        └── RowsGone     78  the sink no longer has the rows that the checkpoint is about
    RowError                      one row is refused; the run goes on
    Retry                         a sink asks for another try (never leaves the sink)

Messages are one sentence that says what to do. They never hold row contents or secrets.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

GO_ON = "run the same command again to go on"


class IngestError(Exception):
    """Anything that ends a run. `exit_code` is what the process returns for it.

    `resumable` of what may pass by itself: the same run, started again later, goes on.
    """

    exit_code: ClassVar[int] = 70
    resumable: ClassVar[bool] = False


class UsageError(IngestError):
    exit_code = 2


class TooManyRejects(IngestError):
    exit_code = 65


class NotAsPublished(IngestError):
    exit_code = 65


class SourceNotFound(IngestError, FileNotFoundError):
    exit_code = 66


class SinkUnavailable(IngestError):
    exit_code = 69
    resumable = True


class LeaseHeld(IngestError):
    exit_code = 73
    resumable = True


class LocalIOError(IngestError):
    exit_code = 74


class Stopped(IngestError):
    exit_code = 75
    resumable = True

    @classmethod
    def on_request(cls, then: str = GO_ON) -> Self:
        """As all say it; `then` is what became of the work, or what to do."""
        return cls(f"Stopped on request; {then}.")


class ConfigurationError(IngestError):
    exit_code = 78


class SourceChanged(ConfigurationError):
    pass


class LineContinued(SourceChanged):
    pass


class CheckpointDamaged(ConfigurationError):
    pass


class RowsGone(ConfigurationError):
    pass


def family_of(exit_code: int) -> type[IngestError]:
    """The family that a process which ended so speaks of; IngestError itself for what is no known end."""
    return next((kind for kind in IngestError.__subclasses__() if kind.exit_code == exit_code), IngestError)


CODES: dict[str, str] = {}  # what each code of a dead letter means; those of the modules that are imported


def declare_codes(codes: Mapping[str, str]) -> None:
    """A module says for what it refuses rows."""
    CODES.update(codes)


class RowError(Exception):
    """One row is refused.

    `stage` is where ("parse", "validate" or a sink's name), `code` is one that its module has declared, `reason` is one
    sentence.
    """

    def __init__(self, stage: str, code: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.code = code
        self.reason = reason


class Retry(Exception):
    """Raised inside a sink for a fault that may pass; `retry.Retrier` decides when to try again.

    `throttled` tells a server that asks for less from one that is broken or away.
    """

    def __init__(self, reason: str, *, throttled: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.throttled = throttled
