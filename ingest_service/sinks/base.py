"""What a sink is: a writer. A new one is a class with this contract, registered in the group `ingest_service.sinks`.

Sinks take whole chunks, several at once, in any order: writes must be idempotent. The pipeline never has two chunks
in flight that share a record's key, so a sink needs no order beyond that within a chunk. What else a sink may be able
to do stands in `abilities`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Columns
from ingest_service.sinks.checkpoints import CheckpointStore, Place
from ingest_service.sinks.pacing import AdaptiveLimit, RateLimit
from ingest_service.sinks.retry import Retrier


class SinkOptions(BaseModel):
    """Options that every sink takes in its URL's query."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str = Field("", pattern=r"^[A-Za-z0-9_-]*$", description="tells two sinks of one kind apart")
    retry_budget_s: float = Field(60, gt=0, description="how long to try while nothing gets through")
    rate: float | None = Field(None, gt=0, description="rows a second at most")
    consumers: int = Field(1, ge=1, le=64, description="chunks written at once; each already keeps its sink busy")


Stored: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a chunk's accepted rows: written + merged + len(dead) of them.

    `stored`, where there is one, is to be called, and returns once they are: until then they only wait in this process
    for rows that are stored together with them. Of equal keys the one that was written later wins all the same.
    """

    written: int
    merged: int = 0
    dead: list[DeadRow] = field(default_factory=list)
    stored: Stored | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. What is not `ok` keeps a run from starting; a warning is told and stops nothing."""

    what: str
    ok: bool
    detail: str = ""
    warning: bool = False


P = TypeVar("P")


class Sink(ABC, Generic[P]):
    """Constructed from a URL without connecting. `name` tells it apart in reports, logs and checkpoints.

    `limit` says how many requests may be in flight, `rate` how many rows a second, `retrier` tries requests again; they
    are shown in the metrics. `forgets` says, where it is so, when the sink drops all of a user's rows by itself.
    `warnings` is what the user should know of this run beside its counts: it stands in the report, and the sink may
    add to it up to the end. P is what `prepare` makes of a chunk for `write`.
    """

    scheme: ClassVar[str]
    forgets: str = ""
    is_apart: bool = False  # whether its rows can be lost without its checkpoints
    is_prepared_whole: ClassVar[bool] = False  # whether `write` needs no more of the rows than what `prepare` made
    most_waiting: ClassVar[int] = 0  # rows that may wait to be stored with others, see `Written`
    own_mb: ClassVar[int] = 0  # memory that it takes whatever the length of chunks, for its libraries say
    is_fenced: ClassVar[bool] = False  # whether rows change with the checkpoint, so that who lost the lease stores none
    takes_parts: ClassVar[bool] = True  # whether parts of a source may be written side by side, in any order
    keeps_spans: ClassVar[bool] = False  # whether rows are kept by where they stood, and `begin` takes them back
    checkpoints: CheckpointStore
    place: Place = Place()  # told apart from others by whoever keeps checkpoints; none if there can be only one

    def __init__(self, options: SinkOptions, limit: AdaptiveLimit | None = None, *, can_hang: bool = True) -> None:
        """can_hang: whether a request may stay without an answer, as of a server."""
        self.options = options
        self.name = options.name or self.scheme
        self.retrier = Retrier(self.name, options.retry_budget_s, can_hang=can_hang)
        self.limit = limit or AdaptiveLimit(options.consumers)
        self.rate = RateLimit(options.rate)
        self.warnings: list[str] = []
        self.stored_ahead = 0  # rows of those that waited which are stored, while others of them are not yet: progress

    def hold_at_most(self, n_bytes: int) -> None:
        """How much memory the rows may take that wait to be stored with others."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. ConfigurationError if something must be set up first, SinkUnavailable if it cannot be reached."""

    async def begin(self, stream: str, offset: int | None) -> None:
        """The chunks that follow are a stream's, from an offset on: what is there of it beyond will be written again.

        Called by who holds the stream's lease. 0: from its first row on. None: single rows of it, beside all others.
        """

    @abstractmethod
    def prepare(self, chunk: Chunk) -> P:
        """Whatever can be made of a chunk without the server: `write` is given it.

        Called in a thread while earlier chunks are being written.
        """

    @abstractmethod
    async def write(self, chunk: Chunk, prepared: P) -> Written:
        """Store all rows of the chunk, or take them to be stored, retrying what may pass, and say what became of each.

        May be cancelled at any time; the chunk is then written again.
        """

    async def end(self) -> None:
        """No chunk follows for now: those that wait are not to wait for others."""

    async def store(self, chunk: Chunk) -> Written:
        """Prepare a chunk and write it; its rows do not wait any more."""
        written = await self.write(chunk, await asyncio.to_thread(self.prepare, chunk))
        if written.stored is not None:
            await self.end()
            await written.stored()
        return written

    async def survey(self, columns: Columns) -> list[Finding]:
        """What would be refused, doubled, dropped or expire if such rows were written to this place.

        `columns` has no rows; its schema is that of what will be written. Looked at before a row is sent.
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
    async def close(self) -> None:
        """Release everything. Safe to call twice, and after a failed open."""


AnySink: TypeAlias = Sink[Any]
