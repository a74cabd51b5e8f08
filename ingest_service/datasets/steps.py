"""Steps that a data set takes with each of its records: fields made of others, left out, renamed, and rows passed over.

Each looks at one record and nothing else, so a row has the same fate in a load, a resumed one, `verify` and `replay`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.expressions import Sort, condition_of, expression_of, field_of, wrong
from ingest_service.datasets.hashing import check_of, hashed_texts, key_of
from ingest_service.datasets.local_times import begin_of, dates_of, part_of
from ingest_service.datasets.lookup import lookup_of
from ingest_service.datasets.step_model import (
    BucketStep,
    DropStep,
    ExpressionStep,
    FilterStep,
    HashStep,
    LookupStep,
    PartStep,
    RenameStep,
    Step,
    TruncateStep,
    TruncateTimeStep,
)
from ingest_service.datasets.times import micros_of_texts, texts_and_dates
from ingest_service.errors import RowError
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Columns, Values
from ingest_service.rows.distinct import distinct, each_once
from ingest_service.rows.interaction import INTERACTION
from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.rows.texts import Texts, decimals

_KINDS = {
    Sort.WHOLE: FieldKind.INT,
    Sort.REAL: FieldKind.FLOAT,
    Sort.TEXT: FieldKind.TEXT,
    Sort.TRUTH: FieldKind.TRUTH,
}
_WRITTEN: Mapping[Sort, tuple[type, ...]] = {
    Sort.WHOLE: (int,),
    Sort.REAL: (int, float),
    Sort.TEXT: (str,),
    Sort.TRUTH: (bool,),
}
_DTYPES = {FieldKind.INT: np.int64, FieldKind.FLOAT: np.float64}
_HASHED = (FieldKind.TEXT, FieldKind.WORD, FieldKind.UUID, FieldKind.INT)
_Change: TypeAlias = Callable[[Columns], Columns]


@dataclass(frozen=True, slots=True)
class _Bound:
    """A step for records of one schema: what it makes of them, or which of them it keeps."""

    schema: Schema
    change: _Change | None = None
    keeps: Callable[[Columns], Bools] | None = None
    check: str = ""  # what tells its key, or its file, from others


def with_steps(dataset: Dataset, steps: Sequence[Step]) -> Dataset:
    """The data set whose records are those of `dataset`, after steps of its own, after these.

    RowError says what is wrong with one.
    """
    if not steps:
        return dataset
    bound: list[_Bound] = []
    schema = dataset.schema
    for number, step in enumerate(steps, 1):
        if isinstance(step, FilterStep) and dataset.has_many_a_row:
            raise wrong("a filter is for data sets of which each row is one record")
        try:
            bound.append(_bind(step, dataset, schema))
        except RowError as error:
            raise wrong(f"in step {number} {error.reason}") from None
        schema = bound[-1].schema

    def chosen(values: Mapping[str, Any]) -> tuple[Columns, Bools]:
        columns, wanted = dataset.chosen(values) if dataset.chosen else (dataset.records(values), None)
        wanted = np.ones(len(columns), np.bool_) if wanted is None else wanted
        for one in bound:
            if one.keeps is not None:
                wanted = wanted & one.keeps(columns)
            if one.change is not None:
                columns = one.change(columns)
        return columns, wanted

    told = zip(steps, bound, strict=True)
    all_told = [dataset.steps] if dataset.steps else []
    all_told += [step.model_dump_json(by_alias=True) + one.check for step, one in told]
    named = "; ".join(all_told)
    return replace(dataset, schema=schema, records=lambda values: chosen(values)[0], chosen=chosen, steps=named)


def _bind(step: Step, dataset: Dataset, schema: Schema) -> _Bound:
    """`schema` is that of the data set's records after the steps before this one."""
    if isinstance(step, FilterStep):
        return _Bound(schema, keeps=condition_of(step.filter, schema))
    if isinstance(step, ExpressionStep):
        return _by_expression(step, schema)
    if isinstance(step, PartStep):
        return _part(step, schema)
    if isinstance(step, BucketStep):
        return _bucket(step, schema)
    if isinstance(step, TruncateStep):
        return _truncate(step, schema)
    if isinstance(step, TruncateTimeStep):
        return _truncate_time(step, schema)
    if isinstance(step, HashStep):
        return _hash(step, schema)
    if isinstance(step, LookupStep):
        return _look_up(step, dataset, schema)
    return _drop(step, schema) if isinstance(step, DropStep) else _rename(step, schema)


def _derived(name: str, schema: Schema, values_of: Callable[[Columns], Values], kind: FieldKind) -> _Bound:
    _require_new(name, schema)
    after = schema.extended(schema.name, Field(name, kind), follows_from_key=schema.follows_from_key)

    def more(columns: Columns) -> Columns:
        values = values_of(columns)
        if isinstance(values, Texts):
            return replace(columns, schema=after, texts={**columns.texts, name: values})
        return replace(columns, schema=after, numbers={**columns.numbers, name: values})

    return _Bound(after, more)


def _by_expression(step: ExpressionStep, schema: Schema) -> _Bound:
    expression = expression_of(step.expression, schema)
    kind, otherwise = _KINDS[expression.sort], step.otherwise
    if otherwise is None and not expression.is_sure:
        reason = (
            "has no result where a number is divided by zero or grows too large; say what is stored then: otherwise"
        )
        raise wrong(f"{step.derive} {reason}")
    if otherwise is not None and type(otherwise) not in _WRITTEN[expression.sort]:
        raise wrong(f"{step.derive} is {expression.sort}, and otherwise is another kind of value")

    def values(columns: Columns) -> Values:
        found, has = expression.found(columns)
        if isinstance(found, Texts):
            return found if has is None else _texts_or(found, has, str(otherwise))
        if has is not None:
            found = np.where(has, found, otherwise)
        if expression.sort is Sort.TRUTH:
            return _truths(np.broadcast_to(found, len(columns)))
        return np.broadcast_to(found, len(columns)).astype(_DTYPES[kind])

    return _derived(step.derive, schema, values, kind)


def _texts_or(texts: Texts, has: Bools, otherwise: str) -> Texts:
    n = len(texts)
    return Texts.chained([texts, Texts.constant(otherwise, 1)]).take(np.where(has, np.arange(n), n))


def _truths(values: Bools) -> Texts:
    return Texts.of(["false", "true"]).take(values.astype(np.int64))


def _part(step: PartStep, schema: Schema) -> _Bound:
    if schema.is_about_items:
        raise wrong(f"{step.derive} cannot be a part of the time: what is known of items has none")
    if step.part == "date":
        return _derived(step.derive, schema, lambda columns: dates_of(columns.times, step.zone), FieldKind.WORD)
    part = step.part
    return _derived(step.derive, schema, lambda columns: part_of(columns.times, part, step.zone), FieldKind.INT)


def _bucket(step: BucketStep, schema: Schema) -> _Bound:
    if not field_of(step.bucket, schema).is_number:
        raise wrong(f"{step.bucket} is no number, and so in no bucket")
    edges = np.array(step.edges)

    def bucket(columns: Columns) -> Ints:
        return np.searchsorted(edges, columns.numbers[step.bucket], side="right").astype(np.int64)

    return _derived(step.derive, schema, bucket, FieldKind.INT)


def _look_up(step: LookupStep, dataset: Dataset, schema: Schema) -> _Bound:
    table = lookup_of(step, dataset)
    return replace(_derived(step.derive, schema, table.found, table.kind), check=f" in the file {table.digest}")


def _truncate(step: TruncateStep, schema: Schema) -> _Bound:
    name = step.truncate
    if _own_field(name, schema).kind is not FieldKind.TEXT:
        raise wrong(f"{name} is no text, and cannot be truncated to a number of characters")

    def truncated(columns: Columns) -> Columns:
        short = each_once(columns.texts[name], lambda text: text[: step.to])
        return replace(columns, texts={**columns.texts, name: short})

    return _Bound(schema, truncated)


def _truncate_time(step: TruncateTimeStep, schema: Schema) -> _Bound:
    name = step.truncate
    if _own_field(name, schema).kind is not FieldKind.TIME:
        raise wrong(f"{name} is no time, and cannot be truncated to a {step.to}")

    def truncated(columns: Columns) -> Columns:
        different, inverse = distinct(columns.texts[name])
        short, _ = texts_and_dates(begin_of(micros_of_texts(different), step.to, step.zone))
        return replace(columns, texts={**columns.texts, name: short.take(inverse)})

    return _Bound(schema, truncated)


def _hash(step: HashStep, schema: Schema) -> _Bound:
    name = step.hash
    kind = _own_field(name, schema).kind
    if kind not in _HASHED:
        raise wrong(f"{name} is neither a text nor a whole number, and is not hashed")
    key = key_of(step.key)
    after = schema.with_kind(FieldKind.WORD, name).extended(schema.name, follows_from_key=schema.follows_from_key)

    def hashed(columns: Columns) -> Columns:
        plain = decimals(columns.numbers[name]) if kind is FieldKind.INT else columns.texts[name]
        numbers = {other: numbers for other, numbers in columns.numbers.items() if other != name}
        return replace(columns, schema=after, texts={**columns.texts, name: hashed_texts(plain, key)}, numbers=numbers)

    return _Bound(after, hashed, check=f" with the key {check_of(key)}")


def _drop(step: DropStep, schema: Schema) -> _Bound:
    _own_field(step.drop, schema)
    after = replace(schema, fields=tuple(field for field in schema.fields if field.name != step.drop))

    def without(columns: Columns) -> Columns:
        texts = {name: texts for name, texts in columns.texts.items() if name != step.drop}
        numbers = {name: numbers for name, numbers in columns.numbers.items() if name != step.drop}
        return replace(columns, schema=after, texts=texts, numbers=numbers)

    return _Bound(after, without)


def _rename(step: RenameStep, schema: Schema) -> _Bound:
    _own_field(step.rename, schema)
    _require_new(step.to, schema)

    def new(name: str) -> str:
        return step.to if name == step.rename else name

    after = replace(schema, fields=tuple(Field(new(field.name), field.kind) for field in schema.fields))

    def renamed(columns: Columns) -> Columns:
        texts = {new(name): texts for name, texts in columns.texts.items()}
        numbers = {new(name): numbers for name, numbers in columns.numbers.items()}
        return replace(columns, schema=after, texts=texts, numbers=numbers)

    return _Bound(after, renamed)


def _own_field(name: str, schema: Schema) -> Field:
    field = field_of(name, schema)
    if name in INTERACTION.texts or name in schema.key or name == schema.owner:
        raise wrong(f"{name} belongs to every record or to its key, and stays as it is")
    return field


def _require_new(name: str, schema: Schema) -> None:
    if name.lower() in {field.name.lower() for field in schema.fields}:  # SQLite does not tell capitals apart
        raise wrong(f"there is a field {name!r} already")
