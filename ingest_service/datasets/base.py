"""What a data set is: its columns by role, and how a row's values become a record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import numpy as np

from ingest_service.datasets.feature_model import Feature
from ingest_service.datasets.forms import Delimited, Form
from ingest_service.datasets.kinds import Kind
from ingest_service.datasets.seen import AllSeen
from ingest_service.errors import RowError, UsageError
from ingest_service.rows.arrays import Bools
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.rows.columns import Columns, Values
from ingest_service.rows.interaction import WHITESPACE, VideoInteraction
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import Texts

EACH = "[]"  # ends a name in a path that is a list of which each element is a record


def bare_name(name: str) -> str:
    """The name of a column in the form in which headers are compared."""
    return name.strip(WHITESPACE).strip('"').strip(WHITESPACE).lower()


def is_uuid(text: str) -> bool:
    """In its usual form: 32 digits alone may be an id of another kind."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def nothing(kind: Kind) -> Values:
    """A column with one value that says nothing."""
    empty = kind.gathered([])
    return Texts.of([""]) if isinstance(empty, Texts) else np.zeros(1, empty.dtype)


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
    """What is known of a published data set, by file or by release; `sha256`, in hexadecimal, where it is known."""

    title: str = ""
    description: str = ""
    homepage: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


class Past(Protocol):
    """What features need of the rows before, along one reading of a source."""

    @property
    def warnings(self) -> Sequence[str]:
        """What is to be said of the rows so far."""

    def told(self, chunk: Chunk) -> Chunk:
        """The chunk with the features of its records, which are then past, too."""

    def recall(self, at: Position) -> bool:
        """A step towards knowing all before `at`, where the next chunk begins; false where it is known."""

    def keep(self) -> None:
        """Where that is wanted, keep what is known now for another run."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A shape of file, and the one way its rows become records.

    columns: the first has the owners of records; the second, where they are interactions, the items.
    records: columns of values, by role, to records as columns.
    interaction: the same for one row, as the specification; None where a record is none.
    chosen: where it has steps, its records and which of them its filters keep; `steps` names the steps and features.
    features: what records have beside `records`, by those before them; `bare` is the data set without these. `past`:
    of one that is being read, what finds them.
    """

    name: str
    columns: tuple[Column, ...]
    schema: Schema
    records: Callable[[Mapping[str, Any]], Columns]
    interaction: Callable[[Mapping[str, Any]], VideoInteraction] | None
    form: Form = field(default_factory=Delimited)
    about: About = field(default_factory=About, hash=False)
    has_many_a_row: bool = False  # whether a row may be several records, or none
    chosen: Callable[[Mapping[str, Any]], tuple[Columns, Bools]] | None = None
    steps: str = ""
    has_times: bool = True  # of each record, and not one for all
    features: tuple[Feature, ...] = ()
    bare: "Dataset | None" = None
    past: Past | None = None

    @property
    def shape(self) -> Columns:
        """Its records' columns without a row."""
        columns = self.records({column.role: column.kind.gathered([]) for column in self.columns})
        return AllSeen(self.features, self.schema).told(columns) if self.features else columns

    def stored_id(self, raw: str) -> str:
        """The id under which stores have an owner, by his id in the files or by itself: a UUID. UsageError if neither.

        It is that of a record which has nothing else.
        """
        if self.schema.is_about_items and self.schema.owner in self.schema.free_texts:
            return raw
        if {"user_id", "video_id"} & self.schema.free_texts:
            reason = "stores ids as they stand (x-stored: raw), and records are shown by UUIDs only"
            raise UsageError(f"The data set {self.name} {reason}.")
        if is_uuid(raw):
            return raw.lower()
        owner = self.columns[0]
        try:
            value = owner.kind.one(raw, owner.role)
        except RowError as error:
            raise UsageError(f"No {owner.role} of the data set {self.name} has such an id: {error.reason}") from None
        values = {column.role: nothing(column.kind) for column in self.columns}
        record = self.records({**values, owner.role: owner.kind.gathered([value])})
        return record.texts[self.schema.owner].to_list()[0]

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
