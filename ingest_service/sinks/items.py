"""What is known of items, a title or how many likes: one record an item, beside the interactions.

Several data sets may say something of an item, each in fields of its own. So a record is never replaced: what a data
set says is set, and what others have said stays.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from ingest_service.errors import ConfigurationError
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import VideoInteraction
from ingest_service.rows.schema import FieldKind, Schema
from ingest_service.sinks.abilities import Probed, trial_of
from ingest_service.sinks.base import AnySink, Finding, Sink, Written

if TYPE_CHECKING:
    import polars as pl

Fields: TypeAlias = Mapping[str, Any]  # of one item, by name: texts and numbers

TITLE = "title"  # the field that is shown beside interactions
_PIECE_ITEMS = 1_000  # sent, or asked for, at once


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """Why an item cannot be stored: for its dead letter."""

    code: str
    reason: str


class ItemTable(ABC):
    """The items of one store, by id. Used while the sink is open whose it is."""

    @abstractmethod
    async def put(self, items: Mapping[str, Fields]) -> Mapping[str, RefusedItem]:
        """Set these fields of each item, and make those that are not there. Returns the items that are refused."""

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """All that is known of these items, without their ids; an item of which nothing is known may be left out.

        A number may be a text.
        """

    @abstractmethod
    async def remove(self, ids: Sequence[str], names: Sequence[str]) -> None:
        """Take these fields out of these items."""


@runtime_checkable
class HoldsItems(Protocol):
    """For data sets about items, and for titles beside interactions."""

    @property
    def items(self) -> ItemTable: ...

    def for_items(self) -> AnySink:
        """A sink of the same URL whose checkpoints and place are those of the items; itself, if they share them."""


def about_items(sink: AnySink) -> "ItemSink":
    """What writes items where the sink would write interactions. ConfigurationError if it cannot."""
    if not isinstance(sink, HoldsItems):
        raise ConfigurationError(f"{sink.name} is a kind of sink that holds interactions, and nothing about items.")
    return ItemSink(sink.for_items())


def items_of(sink: AnySink) -> ItemTable:
    """ConfigurationError if it holds none."""
    if not isinstance(sink, HoldsItems):
        raise ConfigurationError(f"{sink.name} is a kind of sink that holds nothing about items.")
    return sink.items


async def with_titles(sink: AnySink, interactions: Sequence[VideoInteraction]) -> list[VideoInteraction]:
    """The same, each with the `title` of its video where the sink knows one. ConfigurationError if it holds none."""
    videos = list({str(one.video_id) for one in interactions})
    known = await items_of(sink).get(videos) if videos else {}
    titles = {item: fields[TITLE] for item, fields in known.items() if TITLE in fields}
    return [
        one.model_copy(update={TITLE: titles[str(one.video_id)]}) if str(one.video_id) in titles else one
        for one in interactions
    ]


class ItemSink(Sink[Ints]):
    """Writes what a data set says of items through an ordinary sink, which has the connection and the checkpoints."""

    scheme = "items"

    def __init__(self, carrier: AnySink) -> None:
        super().__init__(carrier.options, carrier.limit)
        self._carrier = carrier
        self._table = items_of(carrier)
        self.name, self.retrier, self.rate = carrier.name, carrier.retrier, carrier.rate
        self.checkpoints = carrier.checkpoints
        self.is_apart = carrier.is_apart
        self._share()

    def _share(self) -> None:
        """What the carrier may have put in another one's place."""
        self.place, self.warnings = self._carrier.place, self._carrier.warnings

    async def open(self) -> None:
        await self._carrier.open()
        self._share()

    async def close(self) -> None:
        await self._carrier.close()

    def prepare(self, chunk: Chunk) -> Ints:
        """The rows to store."""
        return chunk.last_of_each_key()

    async def write(self, chunk: Chunk, prepared: Ints) -> Written:
        dead = []
        size = self.rate.piece(_PIECE_ITEMS)
        for first in range(0, len(prepared), size):
            rows = prepared[first : first + size]
            items = await asyncio.to_thread(_fields_by_id, chunk.columns.take(rows))
            await self.rate.take(len(rows))
            refused = await self._table.put(items)
            for row, item in zip(rows.tolist(), items, strict=True):
                if why := refused.get(item):
                    dead.append(chunk.dead_row(row, self.name, why.code, why.reason))
        return Written(len(prepared) - len(dead), chunk.accepted - len(prepared), dead)

    async def remove(self, columns: Columns) -> None:
        names = [field.name for field in columns.schema.described]
        await self._table.remove(list(_fields_by_id(columns)), names)

    async def survey(self, columns: Columns) -> list[Finding]:
        return await self._carrier.survey(columns)

    async def check(self, *, create: bool) -> list[Finding]:
        if isinstance(self._carrier, Probed):
            return await self._carrier.check(create=create)
        await self.open()
        return []

    async def assure(self) -> None:
        await self._carrier.assure()
        self._share()

    async def flush(self) -> None:
        await self._carrier.flush()

    async def epoch(self) -> str:
        return await self._carrier.epoch()

    def preview(self, columns: Columns) -> list[str]:
        owner = columns.schema.owner
        return [str({owner: item, **fields}) for item, fields in _fields_by_id(columns).items()]

    def expected(self, frame: "pl.DataFrame", schema: Schema) -> "pl.DataFrame":
        from ingest_service.sinks.readback import all_expected

        return all_expected(frame, schema)

    async def stored(self, users: Sequence[str], schema: Schema) -> "pl.DataFrame":
        """What the data set of this schema says of these items; what others say of them is no business of its."""
        import polars as pl

        from ingest_service.sinks.readback import STORED_SCHEMA, value_text

        rows: list[tuple[str, str, str]] = []
        for first in range(0, len(users), _PIECE_ITEMS):
            found = await self._table.get(users[first : first + _PIECE_ITEMS])
            rows += [(item, "", value_text(schema, one)) for item, all_ in found.items() if (one := own(all_, schema))]
        return pl.DataFrame(rows, schema=STORED_SCHEMA, orient="row")

    async def known(self, item: str, schema: Schema) -> dict[str, Any]:
        """What the data set of this schema says of an item."""
        return own((await self._table.get([item])).get(item, {}), schema)

    def scratch(self, url: str, folder: Path) -> AbstractAsyncContextManager[str]:
        return trial_of(self._carrier).scratch(url, folder)


def own(fields: Fields, schema: Schema) -> dict[str, Any]:
    """Those of an item's fields that are of the schema, numbers as such."""
    kinds = {field.name: field.kind for field in schema.described}
    return {name: _typed(fields[name], kind) for name, kind in kinds.items() if fields.get(name) is not None}


def _typed(value: Any, kind: FieldKind) -> Any:
    """What is no number stays what it is: nothing that was written here."""
    with suppress(ValueError, TypeError):
        if kind is FieldKind.INT:
            return int(value)
        if kind is FieldKind.FLOAT:
            return float(value)
    return value


def _fields_by_id(columns: Columns) -> dict[str, dict[str, Any]]:
    """The records as fields, by their item's id, in their order."""
    schema = columns.schema
    lists: dict[str, list[Any]] = {name: columns.texts[name].to_list() for name in schema.texts}
    lists |= {name: columns.numbers[name].tolist() for name in schema.numbers}
    ids = lists.pop(schema.owner)
    return {
        item: dict(zip(lists, row, strict=True))
        for item, row in zip(ids, zip(*lists.values(), strict=True), strict=True)
    }
