"""Each kind's two readings: what is taken from a whole block is what the specification reads, text by text."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets import DATASETS
from ingest_service.datasets.kinds import ID, TEXT, Kind, Time
from ingest_service.datasets.movielens import MOVIES, HalfStars
from ingest_service.errors import RowError
from ingest_service.rows import parse
from ingest_service.rows.columns import Values
from ingest_service.rows.texts import Texts
from tests.formats.test_blocks import IDS, PADDING, TIMESTAMPS

KINDS: tuple[Kind, ...] = (ID, TEXT, HalfStars(), Time(), Time("s"), Time("ms"))
STARS = st.sampled_from(["0", "0.5", "4", "4.0", "4.50", "4.25", "5.0", "5.5", "6", "45", ".5", "4.", "4x5", "-4.5"])
FIELDS = st.builds(lambda before, text, after: before + text + after, PADDING, IDS | TIMESTAMPS | STARS, PADDING)


def listed(values: Values) -> list[Any]:
    found: list[Any] = values.to_list() if isinstance(values, Texts) else values.tolist()
    return found


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(fields=st.lists(FIELDS, min_size=1, max_size=20))
@settings(max_examples=500, derandomize=True, deadline=None)
def test_what_is_taken_is_what_the_specification_reads(kind: Kind, fields: list[str]) -> None:
    """Neither neighbours, widths nor other fields' rubbish change a value, nor does gathering them one by one."""
    encoded = [field.encode() for field in fields]
    ends = np.cumsum([len(field) + 1 for field in encoded]) - 1 + parse.PAD
    starts = ends - [len(field) for field in encoded]
    buffer = parse.padded(b",".join(encoded))
    if not kind.is_verbatim:
        starts, ends = parse.bare(buffer, starts, ends, has_quotes=False)
    values, valid = kind.many(buffer, starts, ends)
    taken = {row: listed(values)[row] for row in np.flatnonzero(valid).tolist()}
    for row, value in taken.items():
        assert kind.one(fields[row], "column") == value
    assert listed(kind.gathered([kind.one(fields[row], "column") for row in taken])) == list(taken.values())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ID, ["0", "7", "123456789012345678", "7.0"]),
        (HalfStars(), ["0.5", "4", "4.0", "5.0"]),
        (Time(), ["1583366400000", "2020-03-05T00:00:00Z"]),
        (TEXT, ["", "a", "  b "]),
    ],
    ids=str,
)
def test_usual_values_are_taken_from_the_block(kind: Kind, fields: list[str]) -> None:
    """Row by row they would cost a hundred times as much."""
    buffer = parse.padded(",".join(fields).encode())
    ends = np.cumsum([len(field) + 1 for field in fields]) - 1 + parse.PAD
    _, valid = kind.many(buffer, ends - [len(field) for field in fields], ends)
    assert valid.all()


def test_every_kind_in_use_is_tried_here() -> None:
    """A data set's own kind as well."""
    used = {type(column.kind) for dataset in (*DATASETS.values(), MOVIES) for column in dataset.columns}
    assert used <= {type(kind) for kind in KINDS}


@pytest.mark.parametrize("text", ["4.25", "0", "5.5", "stars", ""])
def test_ratings_are_half_stars(text: str) -> None:
    """Anything else is refused with a code of its own."""
    with pytest.raises(RowError) as refused:
        HalfStars().one(text, "rating")
    assert refused.value.code == "bad_rating"
