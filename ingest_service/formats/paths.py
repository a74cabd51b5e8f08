"""Where the columns of a data set stand in rows that are objects: by names from the outside in.

`reviewer.id` is a name within an object; of `events[].aid` each element of the list is a record of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ingest_service.datasets.base import EACH, Dataset
from ingest_service.errors import UsageError


@dataclass(frozen=True, slots=True)
class Paths:
    """of: each column's, in the order of the data set's. each: the path of the list whose elements are the records.

    A path into that list goes on from an element: `of` has it without the list's own.
    """

    of: tuple[tuple[str, ...], ...]
    is_inner: tuple[bool, ...]
    each: tuple[str, ...] | None
    recipe: str


def paths_of(dataset: Dataset, names: Mapping[str, str] | None = None) -> Paths:
    """`names` are the user's own paths by role. UsageError for two lists."""
    own = {role: tuple(path.split(".")) for role, path in (names or {}).items()}
    whole = [own.get(column.role) or column.path or (column.role,) for column in dataset.columns]
    each: tuple[str, ...] | None = None
    of: list[tuple[str, ...]] = []
    for path in whole:
        marked = [index for index, name in enumerate(path) if name.endswith(EACH)]
        if not marked:
            of.append(path)
            continue
        outer = (*path[: marked[0]], path[marked[0]].removesuffix(EACH))
        if len(marked) > 1 or each not in (None, outer):
            raise UsageError("A row can have one list whose elements are records; the paths name two.")
        each = outer
        of.append(path[marked[0] + 1 :])
    is_inner = tuple(any(name.endswith(EACH) for name in path) for path in whole)
    return Paths(tuple(of), is_inner, each, ", ".join(".".join(path) for path in whole))
