"""Records as columns, a dozen bytes a value: what parsing makes and sinks encode, without a Python object a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Bools, Ints, hashed
from ingest_service.rows.interaction import INTERACTION
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import Texts

if TYPE_CHECKING:
    import polars as pl

Values: TypeAlias = NDArray[Any] | Texts  # one column: numbers, or texts


@dataclass(frozen=True, slots=True)
class Columns:
    """n records of a schema.

    Rows are one record just when all of `identity` is equal, in every chunk of a source: int64[n] each, as many for
    the owner and for the rest of the key as it takes (a text has two, see `datasets.identity`), and `times`, in
    microseconds since 1970 UTC. `texts` and `numbers` are the schema's fields by name.
    """

    schema: Schema
    owner: tuple[Ints, ...]
    parts: tuple[Ints, ...]
    times: Ints
    texts: Mapping[str, Texts]
    numbers: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def identity(self) -> tuple[Ints, ...]:
        return (*self.owner, *self.parts, self.times)

    def identity_hashes(self) -> NDArray[np.uint64]:
        """A 64-bit hash of each record's key. Records with one key have one hash."""
        return hashed((part.view(np.uint64) for part in self.identity), len(self))

    def owner_hashes(self) -> NDArray[np.uint64]:
        """The same of whose it is."""
        return hashed((part.view(np.uint64) for part in self.owner), len(self))

    @property
    def item(self) -> tuple[Ints, ...]:
        """What of an interaction's `parts` is its item: what else is in the key are texts, of two numbers each."""
        return self.parts[: len(self.parts) - 2 * (len(self.schema.key) - len(INTERACTION.key))]

    @property
    def epoch_ms(self) -> Ints:
        return self.times // 1_000

    def take(self, rows: Ints | slice) -> "Columns":
        return Columns(
            self.schema,
            tuple(part[rows] for part in self.owner),
            tuple(part[rows] for part in self.parts),
            self.times[rows],
            {name: texts.take(rows) for name, texts in self.texts.items()},
            {name: numbers[rows] for name, numbers in self.numbers.items()},
        )

    def identity_alone(self) -> "Columns":
        """Without what the records say: enough to tell them apart."""
        return replace(self, texts={}, numbers={})

    def by_owner(self) -> tuple[Ints, Ints]:
        """The rows with each owner's together, in their order; and where among these each owner's begin."""
        order = stable_order(self.owner[-1])
        for part in self.owner[-2::-1]:
            order = order[stable_order(part[order])]
        is_first = np.zeros(len(self), np.bool_)
        is_first[:1] = True
        for part in self.owner:
            ordered = part[order]
            is_first[1:] |= ordered[1:] != ordered[:-1]
        return order, np.flatnonzero(is_first)

    def may_be_owned_as(self, others: "Columns") -> Bools:
        """Which of these records have an owner of those, and perhaps a few more."""
        return np.isin(self.owner[0], others.owner[0])

    def frame(self) -> "pl.DataFrame":
        """The fields as a frame, in the schema's order: handy, and several times as slow as the columns."""
        import polars as pl

        texts = [pl.Series(name, self.texts[name].to_list(), dtype=pl.String) for name in self.schema.texts]
        return pl.DataFrame(texts + [pl.Series(name, self.numbers[name]) for name in self.schema.numbers])


def chained(parts: Sequence[Values]) -> Values:
    """Columns of one kind as one, the rows of each after those of the one before."""
    texts = [part for part in parts if isinstance(part, Texts)]
    if texts:
        return Texts.chained(texts)
    return np.concatenate([part for part in parts if not isinstance(part, Texts)])


def taken(values: Values, rows: Ints | slice) -> Values:
    """These rows of a column."""
    return values.take(rows) if isinstance(values, Texts) else values[rows]


def stable_order(values: NDArray[Any]) -> Ints:
    """np.argsort(values, kind="stable") of integers, five times as fast where each fits into a word with its index."""
    n = len(values)
    low, high = (int(values.min()), int(values.max())) if n else (0, 0)
    bits = n.bit_length()
    if low < 0 or high >> (62 - bits):
        return np.argsort(values, kind="stable")
    tagged = (values.astype(np.int64) << bits) | np.arange(n)
    tagged.sort()
    order: Ints = tagged & ((1 << bits) - 1)
    return order
