"""What a data set is: its columns by role, and how a row's values become a record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingest_service.datasets.forms import Delimited, Form
from ingest_service.datasets.kinds import Kind
from ingest_service.errors import UsageError
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import WHITESPACE, VideoInteraction
from ingest_service.rows.schema import Schema


def bare_name(name: str) -> str:
    """The name of a column in the form in which headers are compared."""
    return name.strip(WHITESPACE).strip('"').strip(WHITESPACE).lower()


@dataclass(frozen=True, slots=True)
class Split:
    """A field of delimited text that is several: its parts by `delimiter`, each a record of its own.

    With `inner`, a part is itself `n` values, by that; `index` is which of them the column is.
    """

    delimiter: str
    inner: str = ""
    n: int = 1
    index: int = 0


@dataclass(frozen=True, slots=True)
class Column:
    """One column that the data set needs. `names` are the headers it goes by, as `bare_name` has them.

    `place` counts from 0. In a path, `name[]` is a list of which each element is a record of its own.
    """

    role: str
    kind: Kind
    names: frozenset[str]
    place: int = -1  # where there is no header
    split: Split | None = None
    path: tuple[str, ...] = ()  # where rows are objects, from the outside in; else the role is its name


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a published data set. `rows`: by file, or by release."""

    title: str = ""
    description: str = ""
    homepage: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A shape of file, and the one way its rows become records.

    records: columns of values, by role, to records as columns.
    interaction: the same for one row, as the specification; None where a record is none.
    """

    name: str
    columns: tuple[Column, ...]
    schema: Schema
    records: Callable[[Mapping[str, Any]], Columns]
    interaction: Callable[[Mapping[str, Any]], VideoInteraction] | None
    form: Form = field(default_factory=Delimited)
    about: About = field(default_factory=About)
    has_many_a_row: bool = False  # whether a row may be several records, or none

    @property
    def shape(self) -> Columns:
        """Its records' columns without a row."""
        return self.records({column.role: column.kind.gathered([]) for column in self.columns})

    def advice(self, code: str) -> str:
        """What the user of a file with values that are refused so might do: a sentence, or nothing."""
        advices = (column.kind.advice for column in self.columns)
        return next((advice[code] for advice in advices if code in advice), "")

    def require_roles(self, names: Mapping[str, str]) -> None:
        """UsageError for a role that the data set does not have."""
        roles = [column.role for column in self.columns]
        for role in names:
            if role not in roles:
                raise UsageError(f"The data set {self.name} has no column {role!r}; it has: {', '.join(roles)}.")
