"""Features that need the past: against a plain loop over the rows, and against polars over whole files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets import dataset_after, dataset_named, seen
from ingest_service.datasets.feature_model import FeaturesOfSettings
from ingest_service.datasets.seen import AllSeen
from ingest_service.errors import ConfigurationError
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.formats.opening import open_reader
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import END_S, INTERACTION
from ingest_service.rows.schema import Field, FieldKind
from ingest_service.sources.local import FileSource
from tests.datasets.test_schema_file import ITEM, OWNER, RATING, TIME, chunks_of, described

WRITTEN: list[dict[str, Any]] = [
    {"feature": "position"},
    {"feature": "user_count"},
    {"feature": "gap"},
    {"feature": "session", "gap": "30m"},
    {"feature": "session", "gap": "2s", "derive": "burst"},
    {"feature": "item_count"},
    {"feature": "popularity", "half_life": "1h"},
    {"feature": "popularity", "half_life": "7d", "derive": "week"},
]
FEATURES = FeaturesOfSettings.model_validate({"feature": WRITTEN}).feature
KEYED = INTERACTION.extended("keyed", Field("tag", FieldKind.TEXT), key=("tag",))  # of which a text is part of the key
US = 1_000_000
END_US = END_S * US - 1  # the last that is a time


@dataclass
class Past:
    """What a plain loop knows of a user or an item."""

    n: int = 0
    latest: int = 0
    session: int = 0
    burst: int = 0
    hour: float = 0.0
    week: float = 0.0


def looped(rows: Sequence[tuple[int, int, int]]) -> list[dict[str, float]]:
    """The features of rows of a user, an item and a time in microseconds, one after the other."""
    users: dict[int, Past] = {}
    items: dict[int, Past] = {}
    found = []
    for user, item, time in rows:
        by, on = users.setdefault(user, Past()), items.setdefault(item, Past())
        elapsed = max(0, time - by.latest)
        values: dict[str, float] = {"position": by.n + 1, "user_count": by.n, "item_count": on.n}
        values["gap"] = float(elapsed) / US if by.n else -1.0
        by.session += by.n == 0 or elapsed > 1800 * US
        by.burst += by.n == 0 or elapsed > 2 * US
        aged = max(0, time - on.latest) if on.n else 0
        on.hour *= 2.0 ** (-aged / (3600 * US))
        on.week *= 2.0 ** (-aged / (7 * 86400 * US))
        values |= {"session": by.session, "burst": by.burst, "popularity": on.hour, "week": on.week}
        found.append(values)
        for past in (by, on):
            past.latest = max(past.latest, time) if past.n else time
            past.n += 1
        on.hour, on.week = on.hour + 1, on.week + 1
    return found


def columns_of(rows: Sequence[tuple[int, int, int]], schema: Any = INTERACTION, *, texts: bool = False) -> Columns:
    """With ids of one part, or of two of which one is the same for all, and as much of the key as the schema has."""
    user, item, time = (np.array([row[place] for row in rows], np.int64) for place in range(3))
    same = np.zeros(len(rows), np.int64)
    more = (same + np.arange(len(rows)), same) if "tag" in schema.key else ()
    owner, parts = ((same, user), (item, same)) if texts else ((user,), (item,))
    return Columns(schema, owner, (*parts, *more), time, {}, {})


def told(chunks: Sequence[Columns]) -> dict[str, np.ndarray[Any, Any]]:
    state = AllSeen(FEATURES, chunks[0].schema)
    found = [state.told(chunk).numbers for chunk in chunks]
    return {name: np.concatenate([numbers[name] for numbers in found]) for name in found[0]}


# Times of a few seconds, hours and years; equal ones, and some that go back.
TIMES = (
    st.integers(0, 9_000_000)
    | st.integers(0, 200).map(lambda n: n * 600 * US)
    | st.integers(0, END_US)
    | st.just(END_US)
)
ROWS = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 3), TIMES), min_size=1, max_size=60)


@given(ROWS, st.lists(st.integers(0, 60), max_size=4), st.booleans(), st.booleans(), st.sampled_from([0, 1, 64]))
@settings(deadline=None, max_examples=300)
def test_features_are_those_of_a_loop_over_the_rows(
    rows: list[tuple[int, int, int]], cuts: list[int], texts: bool, in_order: bool, few: int
) -> None:
    """Wherever chunks begin, and whichever way popularity is found, to the bit."""
    rows = sorted(rows, key=lambda row: row[2]) if in_order else rows
    columns = columns_of(rows, texts=texts)
    whole = told([columns])
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "_FEW", few)
        patch.setattr(seen, "_SLICE_ROWS", 1 + few)
        cut = told([columns.take(slice(start, end)) for start, end in pairwise(bounds)])
    for number, expected in enumerate(looped(rows)):
        for name, value in expected.items():
            assert cut[name][number] == whole[name][number]
            if name in ("popularity", "week"):
                assert math.isclose(whole[name][number], value, rel_tol=1e-5, abs_tol=1e-300)
            else:
                assert whole[name][number] == value, name


@given(ROWS)
@settings(deadline=None)
def test_what_else_is_in_the_key_makes_no_other_item(rows: list[tuple[int, int, int]]) -> None:
    keyed, plain = told([columns_of(rows, KEYED, texts=True)]), told([columns_of(rows)])
    assert all((keyed[name] == plain[name]).all() for name in plain)


@given(ROWS, st.integers(0, 60))
@settings(deadline=None)
def test_a_state_that_was_kept_goes_on_as_if_it_had_not_been(rows: list[tuple[int, int, int]], cut: int) -> None:
    columns, expected = columns_of(rows), told([columns_of(rows)])
    before, after = AllSeen(FEATURES, INTERACTION), AllSeen(FEATURES, INTERACTION)
    before.told(columns.take(slice(0, cut)))
    after.restore({name: array.copy() for name, array in before.arrays().items()})
    found = after.told(columns.take(slice(cut, None)))
    assert all((found.numbers[name] == expected[name][cut:]).all() for name in expected)
    before.told(columns.take(slice(cut, None)))
    assert after.warnings == before.warnings


def test_records_that_are_earlier_than_one_before_them_are_counted() -> None:
    """Of each user, and of each item; equal times are in order."""
    rows = [(1, 1, 50), (1, 2, 40), (2, 1, 45), (1, 3, 50), (2, 9, 60), (1, 8, 49)]
    state = AllSeen(FEATURES, INTERACTION)
    state.told(columns_of(rows[:4]))
    state.told(columns_of(rows[4:]))
    users, items = state.warnings
    assert users.startswith("2 records are earlier than one of the same user")
    assert items.startswith("1 records are earlier than one of the same item")
    assert AllSeen(FEATURES, INTERACTION).warnings == []


def test_more_ids_than_are_allowed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MAX_IDS", 3)
    state = AllSeen(FEATURES, INTERACTION)
    state.told(columns_of([(n, 1, 0) for n in range(3)]))
    with pytest.raises(ConfigurationError, match="more than 3 users"):
        state.told(columns_of([(9, 1, 0)]))


# --- files ----------------------------------------------------------------------------------------


def by_polars(frame: pl.DataFrame) -> pl.DataFrame:
    """What windows over all rows say of `user`, `item` and `time` in seconds, whose order is that of the rows."""
    user, item, time = pl.col("user"), pl.col("item"), pl.col("time")
    frame = frame.with_row_index("row").with_columns(
        before=time.cum_max().shift(1).over(user), item_latest=time.cum_max().over(item)
    )
    elapsed = (time - pl.col("before")).clip(0)
    frame = frame.with_columns(
        position=user.cum_count().over(user),
        user_count=user.cum_count().over(user) - 1,
        item_count=item.cum_count().over(item) - 1,
        gap=elapsed.cast(pl.Float64).fill_null(-1.0),
        **{
            name: (elapsed.fill_null(gap + 1) > gap).cast(pl.Int64).cum_sum().over(user)
            for name, gap in (("session", 1800), ("burst", 2))
        },
    )
    # Of an item that stood still at its latest time: each earlier row counts by how long before that it was its latest.
    pairs = frame.select("row", "item", "item_latest").join(
        frame.select("item", other="row", since="item_latest"), on="item"
    )
    age = pl.col("item_latest") - pl.col("since")
    hot = (
        pairs.filter(pl.col("other") < pl.col("row"))
        .group_by("row")
        .agg(popularity=(0.5 ** (age / 3600)).sum(), week=(0.5 ** (age / (7 * 86400))).sum())
    )
    return frame.join(hot, on="row", how="left").sort("row").fill_null(0.0)


def test_real_ratings_have_what_polars_finds_over_the_whole_file(ml_latest_small: Path, tmp_path: Path) -> None:
    """As they are, in order of user and movie, and so of no time; and sorted by time, ties included."""
    dataset = dataset_after(dataset_named("movielens"), (), WRITTEN)
    ratings = pl.read_csv(ml_latest_small / "ratings.csv")
    for frame in (ratings, ratings.sort("timestamp", maintain_order=True)):
        frame.write_csv(tmp_path / "ratings.csv")
        reader = open_reader(FileSource(tmp_path / "ratings.csv"), dataset, block_bytes=2 * MAX_RECORD_BYTES)
        chunks = list(chunks_of(reader))
        reader.close()
        assert len(chunks) > 1
        expected = by_polars(frame.select(user="userId", item="movieId", time="timestamp"))
        for one in FEATURES:
            found = np.concatenate([chunk.columns.numbers[one.name] for chunk in chunks])
            wanted = expected[one.name].to_numpy()
            if one.feature == "popularity":
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-300)
            else:
                assert (found == wanted).all(), one


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "more", "reason"),
    [
        ([{"feature": "gap"}], {"x-time": "2020-01-01T00:00:00Z"}, "needs the time of each record"),
        ([{"feature": "position"}, {"feature": "position"}], {}, "there is a field 'position' already"),
        ([{"feature": "position", "derive": "user_id"}], {}, "a field of every record"),
        ([{"feature": "position", "derive": "Rating"}], {}, "there is a field 'Rating' already"),
        ([{"feature": "session"}], {}, "x-features.0.session.gap: Field required"),
        ([{"feature": "session", "gap": "half an hour"}], {}, "x-features.0.session.gap"),
        ([{"feature": "popularity", "half_life": "0d"}], {}, "x-features.0.popularity.half_life"),
        ([{"feature": "gap", "half_life": "1d"}], {}, "x-features.0.gap.half_life is not supported"),
        ([{"feature": "rank"}], {}, "x-features.0"),
        ([{"feature": "position"}], {"x-transform": [{"filter": "position < 5"}]}, "no field 'position'"),
    ],
)
def test_a_wrong_feature_is_refused_with_the_file(
    tmp_path: Path, features: list[dict[str, Any]], more: dict[str, Any], reason: str
) -> None:
    fields = [OWNER, ITEM, RATING, *(() if "x-time" in more else (TIME,))]
    with pytest.raises(ConfigurationError, match=reason) as refused:
        described(tmp_path, *fields, **{"x-features": features}, **more)
    assert str(refused.value).endswith(".")


def test_what_is_known_of_items_has_no_features(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="features are told of interactions"):
        described(tmp_path, ITEM, RATING, **{"x-about": "items", "x-features": [{"feature": "item_count"}]})
