"""Ids as numbers from 0 on, many at once: a hash table of arrays that compares whole ids, and so mixes no two up."""

from collections.abc import Sequence

import numpy as np

from ingest_service.rows.arrays import Bools, Ints

_FIRST_BITS = 12
_HALF = np.uint64(32)


class Ids:
    """The ids met so far, each with its number: 0 for the first, and so on. `parts` are int64[n] as `Columns` has them.

    At most half of the slots are taken: twice as many numbers of 4 bytes as there are ids, up to four times.
    """

    def __init__(self, parts: Sequence[Ints]) -> None:
        """With some that differ, in this order."""
        self.n = len(parts[0])
        self._room = self.n
        self._parts = [part.copy() for part in parts]
        self._factors = np.random.default_rng().integers(1 << 64, size=len(parts) + 1, dtype=np.uint64) | np.uint64(1)
        self._place_all(self.n)

    @property
    def parts(self) -> list[Ints]:
        """All, by their numbers."""
        return [part[: self.n] for part in self._parts]

    def numbers(self, parts: Sequence[Ints]) -> Ints:
        """The number of each; those that are new get the next ones."""
        places = self._first_places(parts)
        numbers = np.empty(len(places), np.int64)
        new = self._look_up(parts, places, np.arange(len(places)), numbers)
        if len(new) and self._make_room(len(new)):
            places = self._first_places(parts)
            new = self._look_up(parts, places, new, numbers)
        while len(new):
            # Of those that want one free slot the last to write gets it; the others look again: they may be equal.
            self._slots[places[new]] = np.arange(len(new), dtype=np.int32)
            won = self._slots[places[new]] == np.arange(len(new))
            winners = new[won]
            given = np.arange(self.n, self.n + len(winners))
            self._slots[places[winners]] = given
            for mine, theirs in zip(self._parts, parts, strict=True):
                mine[given] = theirs[winners]
            self.n += len(winners)
            numbers[winners] = given
            new = self._look_up(parts, places, new[~won], numbers)
        return numbers

    def known(self, parts: Sequence[Ints]) -> Ints:
        """The number of each, and -1 for those that are new, which stay so."""
        numbers = np.full(len(parts[0]), -1)
        self._look_up(parts, self._first_places(parts), np.arange(len(numbers)), numbers)
        return numbers

    def _look_up(self, parts: Sequence[Ints], places: Ints, rows: Ints, numbers: Ints) -> Ints:
        """Fill in the numbers of rows whose ids are known, and return the others, whose places are free slots."""
        new = []
        while len(rows):
            found = self._slots[places[rows]].astype(np.int64)
            is_free = found < 0
            new.append(rows[is_free])
            rows, found = rows[~is_free], found[~is_free]
            is_other = self._differs(parts, rows, found)
            numbers[rows] = np.where(is_other, -1, found)
            rows = rows[is_other]
            places[rows] = (places[rows] + 1) & (len(self._slots) - 1)
        return np.sort(np.concatenate(new)) if new else rows

    def _differs(self, parts: Sequence[Ints], rows: Ints, numbers: Ints) -> Bools:
        differs = np.zeros(len(rows), np.bool_)
        for mine, theirs in zip(self._parts, parts, strict=True):
            differs |= mine[numbers] != theirs[rows]
        return differs

    def _make_room(self, n: int) -> bool:
        """For so many more; whether all have other slots now."""
        wanted = self.n + n
        if self._room < wanted:
            self._room = max(wanted, 2 * self._room)
            more = np.empty(self._room - self.n, np.int64)
            self._parts = [np.concatenate((part, more)) for part in self.parts]
        if 2 * wanted <= len(self._slots):
            return False
        self._place_all(wanted)
        return True

    def _place_all(self, wanted: int) -> None:
        self._bits = max(_FIRST_BITS, (2 * wanted - 1).bit_length())
        self._slots = np.full(1 << self._bits, -1, np.int32)
        places, rows = self._first_places(self.parts), np.arange(self.n)
        while len(rows):  # none are equal
            free = rows[self._slots[places[rows]] < 0]
            self._slots[places[free]] = free
            rows = rows[self._slots[places[rows]] != rows]
            places[rows] = (places[rows] + 1) & (len(self._slots) - 1)

    def _first_places(self, parts: Sequence[Ints]) -> Ints:
        """By factors of this table alone: nobody can make a file of ids that all want one place."""
        *factors, last = self._factors
        mixed = np.zeros(len(parts[0]), np.uint64)
        for part, factor in zip(parts, factors, strict=True):
            mixed += part.view(np.uint64) * factor
        mixed = (mixed ^ (mixed >> _HALF)) * last
        places: Ints = (mixed >> np.uint64(64 - self._bits)).astype(np.int64)
        return places
