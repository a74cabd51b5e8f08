"""What a sink may be able to do beside writing. Whoever needs it asks with `isinstance`."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from uuid import UUID

from ingest_service.errors import ConfigurationError
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.schema import Schema
from ingest_service.sinks.base import AnySink, Finding

if TYPE_CHECKING:
    import polars as pl


@runtime_checkable
class Probed(Protocol):
    """For `check`. Without it a sink is only opened."""

    async def check(self, *, create: bool) -> list[Finding]:
        """Is it reachable, permitted, and are its tables there? With `create`, make those that are missing."""


@runtime_checkable
class Previewed(Protocol):
    """For `preview`."""

    def preview(self, columns: Columns) -> list[str]:
        """What these rows would become here, one text each."""


@runtime_checkable
class TakesBack(Protocol):
    """For a source whose last line goes on later. Without it such a source must be loaded again."""

    async def remove(self, columns: Columns) -> None:
        """Take out the records of these rows, where they are there: the rows were none. May be repeated."""


@runtime_checkable
class ReadBack(Protocol):
    """For `verify` and `crash-test`: what the sink holds, and what it should. See `readback`."""

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        """Of rows with different keys those that the sink should hold, if these are all that their users have.

        All columns stay; added are `event_key`, `value` as in `stored`, and `expired`: it may be gone by now.
        """

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        """What the sink holds of these users, one row a record, in any order: `readback.STORED_SCHEMA`."""


@runtime_checkable
class HasOwnForm(Protocol):
    """For `verify` of a sink with `ReadBack` whose records are told apart, and say what they say, in another way."""

    def in_own_form(self, columns: Columns) -> "pl.DataFrame":
        """Each record as `ReadBack.stored` would give it back: `expected` is given these columns, too."""


@runtime_checkable
class OffersTrial(Protocol):
    """For `crash-test`."""

    def scratch(self, url: str, folder: Path) -> AbstractAsyncContextManager[str]:
        """The URL of an empty place with the options of `url`, this sink's own; what is in it goes on leaving.

        On the same server where there is one, in `folder` where there is none. It never holds anything of the user's.
        ConfigurationError where no such place can be made.
        """


@runtime_checkable
class AnswersRecent(Protocol):
    async def recent(self, user_id: UUID | str, limit: int) -> list[VideoInteraction]:
        """A user's newest interactions, newest first."""


@runtime_checkable
class AnswersHistory(Protocol):
    async def history(
        self, user_id: UUID | str, since: datetime | None, until: datetime | None, limit: int | None = None
    ) -> list[VideoInteraction]:
        """A user's interactions in [since, until), oldest first, or so many of them."""


def read_back_of(sink: AnySink) -> ReadBack:
    """ConfigurationError if it cannot be read back."""
    if not isinstance(sink, ReadBack):
        raise ConfigurationError(f"{sink.name} is a kind of sink that cannot be read back.")
    return sink


def trial_of(sink: AnySink) -> OffersTrial:
    """ConfigurationError if it has none."""
    if not isinstance(sink, OffersTrial):
        raise ConfigurationError(f"{sink.name} is a kind of sink that has no place for a trial.")
    return sink
