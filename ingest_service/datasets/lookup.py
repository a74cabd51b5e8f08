"""What a small file says of items, as a field of each record: titles, likes, prices.

It is read when the data set is named, and what it has is part of what the steps are called: a run with another file is
refused like one with other steps.
"""

import csv
from dataclasses import dataclass
from hashlib import blake2b
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from ingest_service.datasets.base import Column, Dataset, nothing
from ingest_service.datasets.expressions import wrong
from ingest_service.datasets.kinds import Integer, Number, Text, TextId, Whole
from ingest_service.datasets.step_model import LookupStep
from ingest_service.errors import RowError
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns, Values, taken
from ingest_service.rows.ids import Ids
from ingest_service.rows.schema import FieldKind

MAX_BYTES: Final = 64 << 20
_KINDS = {
    "text": (FieldKind.TEXT, Text()),
    "integer": (FieldKind.INT, Whole(frozenset())),
    "number": (FieldKind.FLOAT, Number(frozenset())),
}


@dataclass(frozen=True, slots=True)
class Lookup:
    """ids: those of the file, whose numbers are `rows` of `values`; the last of these is for all other items."""

    kind: FieldKind
    ids: Ids
    rows: Ints
    values: Values
    digest: str

    def found(self, columns: Columns) -> Values:
        """The value for each record's item."""
        numbers = self.ids.known(columns.item)
        return taken(self.values, self.rows[numbers])  # -1, of an item that is not there, is the last


def lookup_of(step: LookupStep, dataset: Dataset) -> Lookup:
    """For records of the data set. RowError says what is wrong with the step, or with the file."""
    item = dataset.columns[1]
    if dataset.schema.is_about_items or not isinstance(item.kind, Integer | TextId):
        raise wrong(f"{step.derive} is looked up by the item of a user's record, which the data set has none of")
    text, digest = _read(step.lookup)
    kind, values_kind = _KINDS[step.kind]
    items, values = [], []
    for line, row in enumerate(_rows(text, step), 2):
        try:
            items.append(item.kind.one(row[step.item], step.item))
            values.append(values_kind.one(row[step.take], step.take))
        except RowError as error:
            raise wrong(f"in line {line} of {step.lookup} {error.reason.removesuffix('.')}") from None
    values.append(_otherwise(step, values_kind))
    parts = _records(dataset, item, items).item
    ids = Ids([part[:0] for part in parts])
    numbers = ids.numbers(parts)
    if ids.n < len(items):
        raise wrong(f"{step.lookup} has an item twice, of which one line would be lost")
    rows = np.append(np.empty(ids.n, np.int64), ids.n)
    rows[numbers] = np.arange(ids.n)
    return Lookup(kind, ids, rows, values_kind.gathered(values), digest)


def _read(path: str) -> tuple[str, str]:
    """The text of a file, and a hash of it."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise wrong(f"{path} is longer than {MAX_BYTES >> 20} MiB, and is held in memory as a whole")
        return data.decode("utf-8-sig"), blake2b(data, digest_size=8).hexdigest()
    except OSError as error:
        raise wrong(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise wrong(f"{path} is not UTF-8") from None


def _rows(text: str, step: LookupStep) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(StringIO(text), strict=True, restval="")
        for name in (step.item, step.take):
            if name not in (reader.fieldnames or ()):
                raise wrong(f"{step.lookup} has no column {name!r}")
        return list(reader)
    except csv.Error:
        raise wrong(f"{step.lookup} is no CSV with commas") from None


def _otherwise(step: LookupStep, kind: Any) -> Any:
    try:
        return kind.one(str(step.otherwise), "otherwise")
    except RowError as error:
        raise wrong(f"for {step.derive} {error.reason.removesuffix('.')}") from None


def _records(dataset: Dataset, item: Column, items: list[Any]) -> Columns:
    """Records of these items that have nothing else."""
    zeros = np.zeros(len(items), np.int64)
    values = {column.role: taken(nothing(column.kind), zeros) for column in dataset.columns}
    return dataset.records({**values, item.role: item.kind.gathered(items)})
