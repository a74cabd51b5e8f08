"""A data set out of what somebody has said of it: which of its columns are ids, times and fields of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ingest_service.datasets.base import EACH, About, Column, Dataset
from ingest_service.datasets.forms import Form
from ingest_service.datasets.identity import numbers_of
from ingest_service.datasets.kinds import Integer, UuidId
from ingest_service.datasets.times import texts_and_dates, to_utc
from ingest_service.datasets.uuids import TextUuids, UuidDictionary
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns, Values
from ingest_service.rows.interaction import INTERACTION, ITEM, NAMESPACE
from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.rows.texts import Texts, concatenate, decimals

Read: TypeAlias = Mapping[str, Any]  # the values of columns, by role


@dataclass(frozen=True, slots=True)
class IdColumn:
    """A column of ids, and how they are stored: as uuid5 of `prefix` + id; a UUID, or with `is_raw` any, as it is."""

    column: Column
    prefix: str = ""
    namespace: UUID = NAMESPACE
    is_raw: bool = False


@dataclass(frozen=True, slots=True)
class OwnField:
    """A column that is kept as it is, under a name of its own."""

    column: Column
    field: Field
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a file's columns are for.

    time: a column, or the time of all records, in microseconds since 1970 UTC. clock: where `time` is the day alone,
    the column of the time of day; both are in `zone`. event, device: a column, or the text of all records. session: a
    column, or None for `session_<owner>_<date>`.
    """

    name: str
    owner: IdColumn
    item: IdColumn
    time: Column | int
    clock: Column | None
    zone: str
    event: Column | str
    device: Column | str
    session: Column | None
    own: tuple[OwnField, ...]
    form: Form
    about: About

    @property
    def columns(self) -> tuple[Column, ...]:
        roles = (self.owner.column, self.item.column, self.time, self.clock, self.event, self.device, self.session)
        return (*(one for one in roles if isinstance(one, Column)), *(own.column for own in self.own))


@dataclass(frozen=True, slots=True)
class ItemDeclaration:
    """What the columns of a file about items are for."""

    name: str
    item: IdColumn
    own: tuple[OwnField, ...]
    form: Form
    about: About

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.item.column, *(own.column for own in self.own))


def items_of(declared: ItemDeclaration) -> Dataset:
    """Its records say something of items: each is all that this data set has of its item."""
    schema = ITEM.with_kind(FieldKind.TEXT, ITEM.owner) if declared.item.is_raw else ITEM
    schema = schema.extended(declared.name, *(own.field for own in declared.own))
    ids = _Ids(declared.item)

    def records(values: Read) -> Columns:
        item_ids, numbers = ids.stored(values[declared.item.column.role])
        texts, own = _own(declared.own, values)
        never = np.zeros(len(item_ids), np.int64)
        return Columns(schema, numbers, (), never, {ITEM.owner: item_ids, **texts}, own)

    return _dataset(declared, schema, records)


def dataset_of(declared: Declaration) -> Dataset:
    """Its records are interactions, with the fields of its own beside."""
    schema = _schema_of(declared)
    owners, items = _Ids(declared.owner), _Ids(declared.item)
    key_parts = [own for own in declared.own if own.is_key]

    def records(values: Read) -> Columns:
        owner, item = values[declared.owner.column.role], values[declared.item.column.role]
        micros = _micros(declared, values, len(owner))
        timestamps, dates = texts_and_dates(micros)
        user_ids, owner_numbers = owners.stored(owner)
        video_ids, item_numbers = items.stored(item)
        texts = {
            "user_id": user_ids,
            "video_id": video_ids,
            "timestamp": timestamps,
            "event_type": _texts(declared.event, values, len(micros)),
            "device": _texts(declared.device, values, len(micros)),
            "session_id": concatenate([b"session_", _plain(owner), b"_", dates])
            if declared.session is None
            else values[declared.session.role],
        }
        own_texts, numbers = _own(declared.own, values)
        texts |= own_texts
        parts = item_numbers
        for one in key_parts:
            parts = (*parts, *numbers_of(texts[one.field.name]))
        return Columns(schema, owner_numbers, parts, micros, texts, numbers)

    return _dataset(declared, schema, records, has_times=not isinstance(declared.time, int))


def _dataset(
    declared: Declaration | ItemDeclaration,
    schema: Schema,
    records: Callable[[Read], Columns],
    *,
    has_times: bool = False,
) -> Dataset:
    has_many_a_row = any(one.split or any(name.endswith(EACH) for name in one.path) for one in declared.columns)
    return Dataset(
        declared.name,
        declared.columns,
        schema,
        records,
        None,
        declared.form,
        declared.about,
        has_many_a_row,
        has_times=has_times,
    )


def _schema_of(declared: Declaration) -> Schema:
    """An interaction's, but event, device and raw ids may be any texts; a record may have more than its key says."""
    texts = {"event_type", "device"}
    texts |= {name for name, ids in (("user_id", declared.owner), ("video_id", declared.item)) if ids.is_raw}
    keys = [own.field.name for own in declared.own if own.is_key]
    schema = INTERACTION.with_kind(FieldKind.TEXT, *texts)
    if declared.session is None and isinstance(declared.owner.column.kind, Integer):
        schema = schema.with_kind(FieldKind.WORD, "session_id")  # a number and a day
    return schema.extended(declared.name, *(own.field for own in declared.own), key=keys)


class _Ids:
    """How ids of one column become texts, and numbers by which they are told apart."""

    def __init__(self, declared: IdColumn) -> None:
        kind = declared.column.kind
        self._texts = TextUuids(declared.prefix, declared.namespace)
        self._numbers = UuidDictionary(declared.prefix, declared.namespace)
        self._is_stored = declared.is_raw or isinstance(kind, UuidId)

    def stored(self, ids: Values) -> tuple[Texts, tuple[Ints, ...]]:
        numbers = () if isinstance(ids, Texts) else (ids,)
        if self._is_stored:
            return _plain(ids), numbers or numbers_of(_plain(ids))
        return (self._numbers.uuids(ids), numbers) if not isinstance(ids, Texts) else self._texts.uuids(ids)


def _micros(declared: Declaration, values: Read, n: int) -> Ints:
    """When each record was: in microseconds since 1970 UTC."""
    if isinstance(declared.time, int):
        return np.full(n, declared.time)
    micros: Ints = values[declared.time.role]
    if declared.clock is None:
        return micros
    return to_utc(micros + values[declared.clock.role], declared.zone)


def _stored(values: Values, field: Field) -> Values:
    return texts_and_dates(values)[0] if field.kind is FieldKind.TIME and not isinstance(values, Texts) else values


def _own(own: Sequence[OwnField], values: Read) -> tuple[dict[str, Texts], dict[str, NDArray[Any]]]:
    """The fields of its own, by name: texts, and numbers."""
    columns = {one.field.name: _stored(values[one.column.role], one.field) for one in own}
    texts = {name: column for name, column in columns.items() if isinstance(column, Texts)}
    return texts, {name: column for name, column in columns.items() if not isinstance(column, Texts)}


def _texts(column: Column | str, values: Read, n: int) -> Texts:
    if isinstance(column, str):
        return Texts.constant(column, n)
    texts: Texts = values[column.role]
    return texts


def _plain(ids: Values) -> Texts:
    return ids if isinstance(ids, Texts) else decimals(ids)
