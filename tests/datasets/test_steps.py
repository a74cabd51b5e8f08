"""Steps of a data set: each against a plain reckoning row by row."""

import operator
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets.expressions import condition_of
from ingest_service.datasets.local_times import begin_of, dates_of, part_of
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.rows.texts import Texts
from tests.datasets.test_schema_file import ITEM, OWNER, RATING, TIME, described, records

KEY = "canary-of-a-key-0123456789-abcdefghij"
NOTE = {"name": "note", "type": "string", "x-keep": True}
SCHEMA = Schema(
    "own", (Field("a", FieldKind.TEXT), Field("i", FieldKind.INT), Field("x", FieldKind.FLOAT)), "a", ("a",)
)
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2)
REAL = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 0.0, 1.0])
ROWS = st.lists(st.tuples(TEXTS, WHOLE, REAL), max_size=12)


def columns_of(rows: list[tuple[str, int, float]]) -> Columns:
    texts = Texts.of([row[0] for row in rows])
    numbers = {"i": np.array([row[1] for row in rows], np.int64), "x": np.array([row[2] for row in rows], np.float64)}
    zeros = np.zeros(len(rows), np.int64)
    return Columns(SCHEMA, (zeros,), (), zeros, {"a": texts}, numbers)


# --- what a step makes of a record ------------------------------------------------------------------


@given(ROWS, st.sampled_from(sorted(OPERATORS)), TEXTS, WHOLE, REAL)
@settings(deadline=None)
def test_conditions_are_true_of_the_rows_of_which_a_loop_says_so(
    rows: list[tuple[str, int, float]], sign: str, text: str, whole: int, real: float
) -> None:
    compare = OPERATORS[sign]
    for place, name, value in ((0, "a", text), (1, "i", whole), (2, "x", real)):
        condition = condition_of(f"{name} {sign} {value!r}", SCHEMA)
        assert condition(columns_of(rows)).tolist() == [compare(row[place], value) for row in rows]
        turned = condition_of(f"{value!r} {sign} {name}", SCHEMA)
        assert turned(columns_of(rows)).tolist() == [compare(value, row[place]) for row in rows]
    joined = condition_of(f"not (a {sign} {text!r} or i == {whole}) and (x < {real!r} or a in ('', {text!r}))", SCHEMA)
    expected = [not (compare(a, text) or i == whole) and (x < real or a in ("", text)) for a, i, x in rows]
    assert joined(columns_of(rows)).tolist() == expected


@given(
    st.lists(st.integers(-(10**15), 4 * 10**15), max_size=10),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]),
)
@settings(deadline=None)
def test_parts_of_the_time_are_those_of_the_clock_in_the_zone(times: list[int], zone: str) -> None:
    seconds = [time // 1_000_000 for time in times]
    moments = [datetime.fromtimestamp(second, ZoneInfo(zone)) for second in seconds]
    expected = {
        "hour": [moment.hour for moment in moments],
        "weekday": [moment.weekday() for moment in moments],
        "day": [moment.day for moment in moments],
        "month": [moment.month for moment in moments],
    }
    for part, wanted in expected.items():
        assert part_of(np.array(times, np.int64), part, zone).tolist() == wanted


ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Kathmandu", "Africa/Cairo"]
)
NEAR_CHANGES = st.integers(0, 4 * 10**9) | st.sampled_from([1_541_300_400, 1_540_688_400, 1_604_206_800]).flatmap(
    lambda second: st.integers(second - 90_000, second + 90_000)
)


@given(st.lists(NEAR_CHANGES.map(lambda second: second * 1_000_000 + 7), max_size=10), ZONES)
@settings(deadline=None, max_examples=300)
def test_dates_and_beginnings_are_those_of_the_clock_in_the_zone(times: list[int], zone: str) -> None:
    """A day begins at its first midnight, or where there is none when the clock goes on."""
    moments = [datetime.fromtimestamp(time // 1_000_000, ZoneInfo(zone)) for time in times]
    given_times = np.array(times, np.int64)
    assert dates_of(given_times, zone).to_list() == [moment.strftime("%Y-%m-%d") for moment in moments]
    days = [moment.replace(hour=0, minute=0, second=0, fold=0).timestamp() for moment in moments]
    assert begin_of(given_times, "day", zone).tolist() == [max(int(day) * 1_000_000, 0) for day in days]
    for unit, begun in (
        ("minute", [moment.replace(second=0) for moment in moments]),
        ("hour", [moment.replace(minute=0, second=0) for moment in moments]),
    ):
        expected = [max(int(moment.timestamp()) * 1_000_000, 0) for moment in begun]
        assert begin_of(given_times, unit, zone).tolist() == expected


def test_a_date_is_a_field_and_kept_times_are_truncated(tmp_path: Path) -> None:
    steps = [
        {"derive": "date", "part": "date", "zone": "Asia/Tokyo"},
        {"truncate": "bought", "to": "day", "zone": "Europe/Berlin"},
    ]
    bought = {"name": "bought", "type": "datetime", "x-keep": True}
    dataset = described(tmp_path, OWNER, ITEM, TIME, bought, **{"x-transform": steps})
    data = b"user,item,at,bought\na,b,1583366400000,2020-03-05T00:30:00.25Z\na,c,1583420400000,2020-07-05T22:30:00Z\n"
    one, other = records(dataset, data)
    assert (one["date"], one["bought"]) == ("2020-03-05", "2020-03-04T23:00:00.000000Z")
    assert (other["date"], other["bought"]) == ("2020-03-06", "2020-07-05T22:00:00.000000Z")
    assert not records(dataset, b"user,item,at,bought\n")


def test_fields_are_bucketed_dropped_renamed_and_truncated(tmp_path: Path) -> None:
    steps = [
        {"derive": "level", "bucket": "rating", "edges": [2, 4]},
        {"drop": "rating"},
        {"truncate": "note", "to": 2},
        {"rename": "note", "to": "remark"},
    ]
    dataset = described(tmp_path, OWNER, ITEM, TIME, RATING, NOTE, **{"x-transform": steps})
    data = "user,item,at,rating,note\n" + "".join(f"a,{i},{i},{i},äöü\n" for i in (1, 2, 3, 4, 5))
    found = records(dataset, data.encode())
    assert [one["level"] for one in found] == [0, 1, 1, 2, 2]
    assert {one["remark"] for one in found} == {"äö"}
    assert not {"rating", "note"} & found[0].keys()
    assert list(found[0]) == [*dataset.schema.texts, *dataset.schema.numbers]


def test_a_hash_is_keyed_blake2b_of_texts_and_whole_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the definition of the keyed hash, here with another tool; the field that was a number is a text."""
    monkeypatch.setenv("HASH_KEY", KEY)
    steps = [{"hash": name, "key": "HASH_KEY"} for name in ("note", "n")]
    number = {"name": "n", "type": "integer", "x-keep": True}
    dataset = described(tmp_path, OWNER, ITEM, TIME, RATING, number, NOTE | {"x-default": ""}, **{"x-transform": steps})
    rows = [("äö", -5), ("", 0), ("äö", 2**63 - 1), ("x" * 300, 7)]
    data = "user,item,at,rating,n,note\n" + "".join(f"a,{i},{i},1,{n},{note}\n" for i, (note, n) in enumerate(rows, 1))
    found = records(dataset, data.encode())
    made = blake2b(KEY.encode(), person=b"ingest key").digest()
    for one, row in zip(found, rows, strict=True):
        expected = [blake2b(str(value).encode(), key=made, digest_size=16).hexdigest() for value in row]
        assert [one["note"], one["n"]] == expected
    assert dataset.schema.key == ("timestamp", "video_id")
    assert list(found[0]) == [*dataset.schema.texts, *dataset.schema.numbers]


# --- what is refused before a row is read -----------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("__import__('os').system('true')", "is no function"),
        ("rating.real > 1", "is no field"),
        ("open('x') == 1", "is no function"),
        ("rating > note", "no two numbers"),
        ("rating > 'a'", "is a number"),
        ("note == 1", "in quotes"),
        ("rating > 1 if rating else rating", "not a comparison"),
        ("rating + 1", "is a number, and a condition is a comparison"),
        ("[x for x in note] == 1", "is no field"),
        ("rating is 1", "one of =="),
        ("rating >", "is no expression"),
        ("views > 1", "there is no field 'views'"),
        ("rating > True", "is no field, text, number"),
        ("(" * 1000 + "rating > 1" + ")" * 900, "is no expression"),
        ("rating > 1 and " * 200 + "rating > 1", "at most"),
    ],
)
def test_a_condition_that_is_none_is_refused_with_the_file(tmp_path: Path, condition: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        described(tmp_path, OWNER, ITEM, TIME, RATING, NOTE, **{"x-transform": [{"filter": condition}]})


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"drop": "user_id"}, "belongs to every record"),
        ({"rename": "event_type", "to": "kind"}, "belongs to every record"),
        ({"truncate": "rating", "to": 3}, "is no text"),
        ({"truncate": "note", "to": "day"}, "is no time"),
        ({"truncate": "timestamp", "to": "day"}, "belongs to every record"),
        ({"truncate": "note", "to": "week"}, "minute"),
        ({"drop": "views"}, "there is no field 'views'"),
        ({"rename": "note", "to": "Rating"}, "already"),
        ({"derive": "body", "part": "hour"}, "of every record"),
        ({"derive": "h", "part": "hour", "zone": "Mars"}, "no such time zone"),
        ({"derive": "l", "bucket": "note", "edges": [1]}, "is no number"),
        ({"derive": "l", "bucket": "rating", "edges": [2, 2]}, "ascend"),
        ({"derive": "l", "bucket": "rating", "edges": [1], "more": 1}, "not supported"),
        ({"hash": "user_id", "key": "HASH_KEY"}, "belongs to every record"),
        ({"hash": "rating", "key": "HASH_KEY"}, "neither a text nor a whole number"),
        ({"hash": "note", "key": "no name"}, "pattern"),
        ({"hash": "note"}, "required"),
        ({"shell": "true"}, "x-transform"),
    ],
)
def test_a_step_that_cannot_be_taken_is_refused_with_the_file(
    tmp_path: Path, step: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        described(tmp_path, OWNER, ITEM, TIME, RATING, NOTE, **{"x-transform": [step]})


def test_a_condition_of_a_whole_number_is_no_fraction() -> None:
    with pytest.raises(RowError, match=r"."):
        condition_of("i > 1.5", SCHEMA)
