"""What a sink is. A new one is one class with this contract, registered in the group `ingest_service.sinks`.

Sinks take whole chunks, several at once, in any order: writes must be idempotent. The pipeline never has two chunks
in flight that share a record's key, so a sink needs no order beyond that within a chunk.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest_service.errors import ConfigurationError
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Schema
from ingest_service.runtime.plugins import registered
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.pacing import AdaptiveLimit
from ingest_service.sinks.retry import Retrier

if TYPE_CHECKING:
    import polars as pl


class SinkOptions(BaseModel):
    """Options that every sink takes in its URL's query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("", pattern=r"^[A-Za-z0-9_-]*$", description="tells two sinks of one kind apart")
    retry_budget_s: float = Field(60, gt=0, description="how long to try while nothing gets through")
    rate: float | None = Field(None, gt=0, description="rows a second at most")
    consumers: int = Field(1, ge=1, le=64, description="chunks written at once; each already keeps its sink busy")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a chunk's accepted rows: written + merged + len(dead) of them."""

    written: int
    merged: int = 0
    dead: list[DeadRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. What is not `ok` keeps a run from starting; a warning is told and stops nothing."""

    what: str
    ok: bool
    detail: str = ""
    warning: bool = False


class Sink(ABC):
    """Constructed from a URL without connecting. `name` tells it apart in reports, logs and checkpoints.

    `limit` says how many requests may be in flight, `retrier` tries them again; both are shown in the metrics.
    `forgets` says, where it is so, when the sink drops all of a user's rows by itself. `warnings` is what the user
    should know of this run beside its counts: it stands in the report, and the sink may add to it up to the end.
    """

    scheme: ClassVar[str]
    forgets: str = ""
    is_apart: ClassVar[bool] = False  # whether its rows can be lost without its checkpoints
    options: SinkOptions
    name: str
    retrier: Retrier
    limit: AdaptiveLimit
    checkpoints: CheckpointStore
    place: Place = Place()  # told apart from others by whoever keeps checkpoints; none if there can be only one
    warnings: list[str]

    def __new__(cls, *_: Any, **__: Any) -> Self:
        sink = super().__new__(cls)
        sink.warnings = []
        return sink

    @abstractmethod
    async def open(self) -> None:
        """Connect. ConfigurationError if something must be set up first, SinkUnavailable if it cannot be reached."""

    def prepare(self, chunk: Chunk) -> Chunk:
        """What `write` is to be given for a chunk, with whatever can be made without the server made already.

        Called in a thread while earlier chunks are being written.
        """
        return chunk

    @abstractmethod
    async def write(self, chunk: Chunk) -> Written:
        """Store all rows of the chunk, retrying what may pass, and say what became of each.

        May be cancelled at any time; the chunk is then written again.
        """

    async def remove(self, columns: Columns) -> None:
        """Take out the records of these rows, where they are there: the rows were none. May be repeated."""
        raise ConfigurationError(
            f"The source's last line had no line end when it was ingested, and was continued since; {self.name} is a "
            "kind of sink that can take no row back: use --restart to start it again."
        )

    async def survey(self, columns: Columns) -> list[Finding]:
        """What would be refused, doubled, dropped or expire if such rows were written to this place.

        `columns` has no rows; its names and kinds are those of what will be written. Looked at before a row is sent.
        """
        return []

    async def assure(self) -> None:
        """Before each checkpoint: RowsGone if what was written may not be there any more, as far as a look can tell."""

    async def flush(self) -> None:
        """Make what was written durable, before a checkpoint that is kept elsewhere says so."""

    async def epoch(self) -> str:
        """Tells the place where the rows are from one that takes its place, empty or restored: it goes with them."""
        return await self.checkpoints.epoch()

    @abstractmethod
    async def check(self, *, create: bool) -> list[Finding]:
        """Is it reachable, permitted, and are its tables there? With `create`, make those that are missing."""

    @abstractmethod
    def preview(self, columns: Columns) -> list[str]:
        """What these rows would become here, one text each."""

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        """Of rows with different keys those that the sink should hold, if these are all that their users have.

        All columns stay; added are `event_key`, `value` as in `stored`, and `expired`: it may be gone by now.
        """
        import polars as pl

        from ingest_service.sinks.readback import event_key_of, value_of

        return frame.with_columns(event_key_of(schema), value_of(schema), pl.lit(False).alias("expired"))

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        """What the sink holds of these users, one row a record, in any order: `readback.STORED_SCHEMA`."""
        raise ConfigurationError(f"{self.name} is a kind of sink that cannot be read back.")

    def scratch(self, url: str, folder: Path) -> AbstractAsyncContextManager[str]:
        """The URL of an empty place with the options of `url`, this sink's own; what is in it goes on leaving.

        For trials: on the same server where there is one, in `folder` where there is none. It never holds anything of
        the user's. ConfigurationError where no such place can be made.
        """
        raise ConfigurationError(f"{self.name} is a kind of sink that has no place for a trial.")

    @abstractmethod
    async def close(self) -> None:
        """Release everything. Safe to call twice, and after a failed open."""


def split_url(url: str) -> SplitResult:
    """A sink URL in parts; ConfigurationError if it has no valid host."""
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc.rpartition("@")[2]:  # MongoDB takes several hosts, each with a port of its own
            _ = parts.port  # is only looked at when it is asked for
    except ValueError:
        if "://arn:" in url:
            raise ConfigurationError(
                "A DynamoDB URL takes the table's name rather than its ARN: dynamodb://interactions?region=eu-west-1."
            ) from None
        raise ConfigurationError(
            "A sink URL has no valid host or port; in a password, write / as %2F, # as %23 and ? as %3F."
        ) from None
    return parts


def parse_options(url: str, options: type[BaseModel]) -> tuple[SplitResult, Any]:
    """A sink URL in parts, its query checked against `options`; what is wrong with it is named."""
    parts = split_url(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    try:
        return parts, options.model_validate(query)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(options.model_fields))
            raise ConfigurationError(f"{parts.scheme}:// has no option {name!r}; it knows: {known}.") from None
        raise ConfigurationError(f"Option {name!r} of {parts.scheme}:// is wrong: {first['msg']}.") from None


def sink_at(url: str) -> Sink:
    """The sink that a URL names, not yet open."""
    scheme = split_url(url).scheme
    known = registered("sinks")
    if scheme not in known:
        raise ConfigurationError(
            f"There is no sink for {scheme or 'that'}:// URLs; there are: {', '.join(sorted(known))}."
        )
    sink: Sink = known[scheme].load()(url)
    return sink
