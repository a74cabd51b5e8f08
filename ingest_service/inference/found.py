"""What was found of a source before it is said what its columns are for."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampled:
    """A column's values as texts, those of rows that were looked at; one that is not there is an empty text.

    `name` is "" where nothing names it. `path`, from the outside in, is that of rows that are objects.
    """

    name: str
    texts: list[str]
    path: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[str, ...]:
        """The path of the list whose elements have the column; () if the row has it."""
        marked = next((place for place, name in enumerate(self.path) if name.endswith("[]")), -1)
        return self.path[: marked + 1]


@dataclass(frozen=True, slots=True)
class Table:
    """`dialect` is that of a schema file; `rows` were looked at. `what` says the form in words."""

    format: str
    what: str
    columns: list[Sampled]
    rows: int
    dialect: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"
    doubts: list[str] = field(default_factory=list)
