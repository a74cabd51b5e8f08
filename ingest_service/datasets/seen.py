"""What was seen of users and items so far, and the features that follow from it, a chunk of records at a time.

A record's value depends on all before it, in the order of the source, and on nothing else: neither on where chunks
begin, nor on the machine. So whoever goes on from the state of a place gets what one uninterrupted pass gets, bit for
bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingest_service.datasets.feature_model import ITEM_FEATURES, Count, Feature, Gap, Popularity, Session, micros_in
from ingest_service.errors import ConfigurationError
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Columns, stable_order
from ingest_service.rows.ids import Ids
from ingest_service.rows.schema import Schema

Arrays = dict[str, NDArray[Any]]
MAX_IDS: Final = 1 << 25
_SLICE_ROWS = 1 << 16  # told at once: what is made meanwhile stays in the processor's caches
_US = 1e6
_MIDDLE_US = 1 << 52  # all times from 1970 to 2261 are less than 2**53 away from it
_SMALL = 1 << 40  # ids below it are sorted fast


class AllSeen:
    """All that features need of the records before."""

    def __init__(self, features: Sequence[Feature], schema: Schema) -> None:
        """`schema` is that of the records with the features."""
        self._schema = schema
        self._users = _Ones("users", [one for one in features if one.feature not in ITEM_FEATURES])
        self._items = _Ones("items", [one for one in features if one.feature in ITEM_FEATURES])

    def told(self, columns: Columns) -> Columns:
        """The records with their features, which are then seen, too."""
        parts: list[Arrays] = []
        for first in range(0, max(1, len(columns)), _SLICE_ROWS):
            rows = slice(first, first + _SLICE_ROWS)
            times = columns.times[rows]
            found = self._users.told([part[rows] for part in columns.owner], times)
            parts.append(found | self._items.told([part[rows] for part in columns.item], times))
        numbers = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return replace(columns, schema=self._schema, numbers={**columns.numbers, **numbers})

    @property
    def warnings(self) -> list[str]:
        return [one.warning for one in (self._users, self._items) if one.n_back]

    def arrays(self) -> Arrays:
        """All of it, to be kept."""
        return {
            f"{one.what}.{name}": array for one in (self._users, self._items) for name, array in one.arrays().items()
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Be as it was when these were kept."""
        for one in (self._users, self._items):
            begin = f"{one.what}."
            one.restore({name.removeprefix(begin): array for name, array in arrays.items() if name.startswith(begin)})


@dataclass(frozen=True, slots=True)
class _Runs:
    """Rows with those of each id together, in their order: a run. of: the id's number; starts: where each begins."""

    order: Ints
    of: Ints
    starts: Ints
    lengths: Ints

    @classmethod
    def by(cls, parts: Sequence[Ints], ids: Ids) -> "_Runs":
        """Rows are sorted by their ids where these are numbers of some bytes, and else by the numbers of these."""
        is_small = len(parts) == 1 and len(parts[0]) and parts[0].min() >= 0 and parts[0].max() < _SMALL
        keys = parts[0] if is_small else ids.numbers(parts)
        order = stable_order(keys)
        ordered = keys[order]
        is_first = np.ones(len(ordered), np.bool_)
        is_first[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(is_first)
        of = ids.numbers([part[order[starts]] for part in parts])
        return cls(order, of, starts, np.diff(starts, append=len(ordered)))

    @property
    def ends(self) -> Ints:
        """The last of each."""
        return self.starts + self.lengths - 1

    def each(self, of_runs: NDArray[Any]) -> NDArray[Any]:
        """What is so of a run, for each of its rows."""
        return np.repeat(of_runs, self.lengths)

    def as_rows(self, ordered: NDArray[Any]) -> NDArray[Any]:
        """Back in the order of the rows."""
        found = np.empty_like(ordered)
        found[self.order] = ordered
        return found


@dataclass(frozen=True, slots=True)
class _Times:
    """times: of the rows of runs. before: the latest before each, its own where there is none; is_new: of each run."""

    times: Ints
    before: Ints
    is_new: Bools

    @property
    def elapsed(self) -> Ints:
        """Since the latest before: none for a row that is earlier."""
        elapsed: Ints = np.maximum(self.times - self.before, 0)
        return elapsed


class _Ones:
    """Users or items: of each how many records, the latest time, and what single features keep."""

    def __init__(self, what: str, features: Sequence[Feature]) -> None:
        self.what = what
        self.n_back = 0  # records that are earlier than one of the same before them
        self._features = features
        self._ids: Ids | None = None
        self._counts = np.empty(0, np.int64)
        self._latest = np.empty(0, np.int64)
        self._own: Arrays = {}
        for one in features:
            if isinstance(one, Session | Popularity):
                self._own[one.name] = np.empty(0, np.int64 if isinstance(one, Session) else np.float64)

    @property
    def warning(self) -> str:
        return (
            f"{self.n_back:,} records are earlier than one of the same {self.what[:-1]} before them in the source; "
            "what features say of these is on docs/FEATURES.md"
        )

    def told(self, parts: Sequence[Ints], times: Ints) -> Arrays:
        if not self._features:
            return {}
        if self._ids is None:
            self._ids = Ids([part[:0] for part in parts])
        runs = _Runs.by(parts, self._ids)
        if self._ids.n > MAX_IDS:
            reason = f"The source has more than {MAX_IDS:,} {self.what}, which is more than features are computed for"
            raise ConfigurationError(f"{reason}; load it without those of {self.what}, or in parts.")
        self._make_room(self._ids.n)
        before: Ints = self._counts[runs.of]
        at = self._timed(runs, times[runs.order], before == 0)
        counts = runs.as_rows(np.arange(len(times)) + runs.each(before - runs.starts))
        found = {one.name: self._value(one, runs, counts, at) for one in self._features}
        self._counts[runs.of] = before + runs.lengths
        self._latest[runs.of] = np.maximum(at.times[runs.ends], at.before[runs.ends])
        return found

    def _value(self, one: Feature, runs: _Runs, counts: Ints, at: _Times) -> NDArray[Any]:
        """Of each row; `counts` are those of the records before it."""
        if isinstance(one, Count):
            return counts + 1 if one.feature == "position" else counts
        if isinstance(one, Gap):
            gaps = at.elapsed / _US
            gaps[runs.starts[at.is_new]] = -1.0
            return runs.as_rows(gaps)
        own = self._own[one.name]
        found = _sessions(one, runs, at, own) if isinstance(one, Session) else _popularity(one, runs, at, own)
        return runs.as_rows(found)

    def _timed(self, runs: _Runs, times: Ints, is_new: Bools) -> _Times:
        before = np.empty_like(times)
        before[1:] = times[:-1]
        before[runs.starts] = np.where(is_new, times[runs.starts], self._latest[runs.of])
        if (times < before).any():
            before = _latest_before(runs, times, before[runs.starts])
            self.n_back += int((times < before).sum())
        return _Times(times, before, is_new)

    def _make_room(self, n: int) -> None:
        if len(self._counts) < n:
            room = max(n, 2 * len(self._counts))
            self._counts, self._latest = _longer(self._counts, room), _longer(self._latest, room)
            self._own = {name: _longer(array, room) for name, array in self._own.items()}

    def arrays(self) -> Arrays:
        if self._ids is None:
            return {}
        n = self._ids.n
        parts = {f"part{number}": part for number, part in enumerate(self._ids.parts)}
        own = {f"own.{name}": array[:n] for name, array in self._own.items()}
        n_back = np.array([self.n_back])
        return {**parts, "counts": self._counts[:n], "latest": self._latest[:n], **own, "n_back": n_back}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if arrays:
            self._ids = Ids([arrays[name] for name in sorted(arrays) if name.startswith("part")])
            self._counts, self._latest = arrays["counts"], arrays["latest"]
            self._own = {name: arrays[f"own.{name}"] for name in self._own}
            self.n_back = int(arrays["n_back"][0])


def _longer(array: NDArray[Any], n: int) -> NDArray[Any]:
    return np.concatenate((array, np.zeros(n - len(array), array.dtype)))


def _latest_before(runs: _Runs, times: Ints, before: Ints) -> Ints:
    """The latest time before each row of a run, where times do not ascend; `before` is that before each run."""
    # Complex numbers are compared by their real part first: here the run. Times are as exact in the other one.
    ordered = np.empty(len(times), np.complex128)
    ordered.real = runs.each(np.arange(len(runs.of)))
    ordered.imag = times - _MIDDLE_US
    ordered.imag[runs.starts] = np.maximum(times[runs.starts], before) - _MIDDLE_US
    found = np.empty_like(times)
    found[1:] = np.maximum.accumulate(ordered).imag[:-1].astype(np.int64) + _MIDDLE_US
    found[runs.starts] = before
    return found


def _sessions(one: Session, runs: _Runs, at: _Times, own: NDArray[Any]) -> Ints:
    begins = at.elapsed > micros_in(one.gap)
    begins[runs.starts] |= at.is_new
    begun = np.cumsum(begins)
    before: Ints = begun[runs.starts] - begins[runs.starts]
    sessions: Ints = begun - runs.each(before - own[runs.of])
    own[runs.of] = sessions[runs.ends]
    return sessions


# --- popularity -----------------------------------------------------------------------------------

_TICK_BITS = 20  # time goes in 2**-20 of a half-life, so that what decays is the same whatever lies between
_HALF_BITS = _TICK_BITS // 2
_MAX_HALVINGS = 1100  # more leave nothing of a float
_FEW = 200  # runs that are left: a loop over their rows is then faster than over the runs


def _roots() -> tuple[NDArray[Any], NDArray[Any]]:
    """2 ** -(n / 2**10), and 2 ** -(n / 2**20). By square roots, which every machine rounds alike."""
    roots, root = [], 0.5
    for _ in range(_TICK_BITS):
        root = math.sqrt(root)
        roots.append(root)
    tables = []
    for some in (roots[:_HALF_BITS], roots[_HALF_BITS:]):
        table = np.ones(1)
        for root in some:
            table = np.stack((table, table * root), axis=1).reshape(-1)
        tables.append(table)
    return tables[0], tables[1]


_COARSE, _FINE = _roots()
_HALVINGS = np.ldexp(1.0, -np.arange(_MAX_HALVINGS + 1))


def decay(ticks: Ints) -> NDArray[np.float64]:
    """What is left after so many."""
    halvings = np.minimum(ticks >> _TICK_BITS, _MAX_HALVINGS)
    mask = (1 << _HALF_BITS) - 1
    left: NDArray[np.float64] = _COARSE[(ticks >> _HALF_BITS) & mask] * _FINE[ticks & mask] * _HALVINGS[halvings]
    return left


def ticks_of(times: Ints, half_life_us: int) -> Ints:
    """As whole numbers, from 1970 on."""
    return np.floor(times / half_life_us * (1 << _TICK_BITS)).astype(np.int64)


def _popularity(one: Popularity, runs: _Runs, at: _Times, own: NDArray[Any]) -> NDArray[np.float64]:
    """Each row finds what was before the one before it, and that one, less what has decayed since.

    In the order of the rows, by one sum and one product each: a value has the same bits wherever a chunk begins.
    """
    half_life = micros_in(one.half_life)
    decays = decay(np.maximum(ticks_of(at.times, half_life) - ticks_of(at.before, half_life), 0))
    found = np.empty(len(decays))
    by_length = np.argsort(-runs.lengths, kind="stable")
    starts, lengths, ids = runs.starts[by_length], runs.lengths[by_length], runs.of[by_length]
    values = np.where(at.is_new[by_length], -1.0, own[ids])  # -1: nothing before the first, and not it either
    done, left = 0, len(starts)
    while (left := int(np.searchsorted(-lengths[:left], -done))) > _FEW:
        values[:left] = (values[:left] + 1.0) * decays[starts[:left] + done]
        found[starts[:left] + done] = values[:left]
        done += 1
    for run in range(left):
        rest = slice(int(starts[run]) + done, int(starts[run] + lengths[run]))
        value = float(values[run])
        found[rest] = [value := (value + 1.0) * kept for kept in decays[rest].tolist()]
        values[run] = value
    own[ids] = values
    return found
