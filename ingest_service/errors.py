"""What can go wrong, as one tree. A family answers "what now?", and carries the exit code that says so.

    IngestError
    ├── UsageError            2   the command line makes no sense: fix it
    ├── TooManyRejects       65   more rows are refused than --max-rejects allows, or nearly all without it
    ├── SourceNotFound       66   no such file, glob match or archive member
    ├── SinkUnavailable      69   a sink stayed down past its retry budget: run again later
    ├── LeaseHeld            73   another runner works on this stream
    ├── LocalIOError         74   disk full, unreadable source, damaged archive
    ├── Stopped              75   stopped on request: run again to go on
    └── ConfigurationError   78   a setting, a permission or a missing table: fix it
        ├── SourceChanged    78   the file is not the one that the checkpoint is about
        ├── CheckpointDamaged 78  the checkpoint cannot be trusted
        └── RowsGone     78  the sink no longer has the rows that the checkpoint is about
    RowError                      one row is refused; the run goes on
    Retry                         a sink asks for another try (never leaves the sink)

Messages are one sentence that says what to do. They never hold row contents or secrets.
"""

from typing import ClassVar


class IngestError(Exception):
    """Anything that ends a run. `exit_code` is what the process returns for it."""

    exit_code: ClassVar[int] = 70


class UsageError(IngestError):
    exit_code = 2


class TooManyRejects(IngestError):
    exit_code = 65


class SourceNotFound(IngestError, FileNotFoundError):
    exit_code = 66


class SinkUnavailable(IngestError):
    exit_code = 69


class LeaseHeld(IngestError):
    exit_code = 73


class LocalIOError(IngestError):
    exit_code = 74


class Stopped(IngestError):
    exit_code = 75


class ConfigurationError(IngestError):
    exit_code = 78


class SourceChanged(ConfigurationError):
    pass


class CheckpointDamaged(ConfigurationError):
    pass


class RowsGone(ConfigurationError):
    pass


class RowError(Exception):
    """One row is refused.

    `stage` is where ("parse", "validate" or a sink's name), `code` comes from the fixed list in
    `dead_letter.CODES`, `reason` is one sentence.
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
