"""Ids as numbers: against a dictionary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.rows.ids import Ids

# Few of each part, so that ids repeat and share a part with others.
IDS = st.tuples(st.integers(-3, 3) | st.sampled_from([-(2**63), 2**63 - 1, 2**40]), st.integers(0, 4) | st.just(2**62))


@given(st.lists(st.lists(IDS, max_size=40), max_size=6), st.sampled_from([1, 2]))
@settings(deadline=None)
def test_equal_ids_have_one_number_and_others_another(batches: list[list[tuple[int, int]]], width: int) -> None:
    """Over batches, with one part or two; a table made of the ids goes on with the same numbers."""
    known: dict[tuple[int, ...], int] = {}
    table = Ids([np.empty(0, np.int64)] * width)
    for batch in batches:
        parts = [np.array([one[part] for one in batch], np.int64) for part in range(width)]
        numbers = table.numbers(parts).tolist()
        for one, number in zip(batch, numbers, strict=True):
            assert known.setdefault(one[:width], number) == number
        assert sorted(known.values()) == list(range(table.n))
        table = Ids(table.parts)


def test_ids_that_want_one_place_are_told_apart() -> None:
    """More than the first slots, in one batch and in several: most want a place that another has."""
    ids = np.arange(50_000) * (1 << 44)
    table = Ids([np.empty(0, np.int64)])
    first = np.concatenate([table.numbers([ids[:30_000]]), table.numbers([ids[20_000:]])[10_000:]])
    assert sorted(first.tolist()) == list(range(50_000))
    assert (table.numbers([ids[::-1]])[::-1] == first).all()
    assert (table.parts[0][first] == ids).all()


def test_ids_that_are_not_known_stay_so() -> None:
    """Also where they want the place of one that is."""
    table = Ids([np.empty(0, np.int64)])
    numbers = table.numbers([np.arange(0, 20_000, 2)])
    known = table.known([np.arange(20_000)])
    assert (known[::2] == numbers).all()
    assert (known[1::2] == -1).all()
    assert table.n == 10_000
