"""What a data set is: its columns by role, and how a row's values become a record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import TimeUnit, VideoInteraction

# By role: int64 for ids, timestamps in microseconds since 1970 UTC, ratings in half stars; texts as Python objects.
Values: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """One column that the data set needs. `names` are the headers it goes by, in lower case."""

    role: str
    kind: Literal["id", "timestamp", "rating", "text"]
    names: frozenset[str]

    @property
    def dtype(self) -> type:
        return object if self.kind == "text" else np.int64


@dataclass(frozen=True, slots=True)
class Dataset:
    """A shape of file, and the one way its rows become records.

    records: columns of values to records as columns; what they have beyond an interaction is this data set's own.
    interaction: the same for one row, as the specification.
    """

    name: str
    columns: tuple[Column, ...]
    unit: TimeUnit
    records: Callable[[Values], Columns]
    interaction: Callable[[Mapping[str, Any]], VideoInteraction]

    @property
    def shape(self) -> Columns:
        """Its records' columns without a row: which texts and numbers they have."""
        return self.records({column.role: np.empty(0, column.dtype) for column in self.columns})
