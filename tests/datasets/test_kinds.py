"""Each kind's two readings: what is taken from a whole block is what the specification reads, text by text."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets import dataset_named, dataset_names
from ingest_service.datasets.kinds import (
    ID,
    MAX_ID_BYTES,
    TEXT,
    AnyText,
    Category,
    Clock,
    Day,
    Epoch,
    Exact,
    FormattedTime,
    Kind,
    ListOfTexts,
    Missable,
    Number,
    RawId,
    TextId,
    Time,
    UuidId,
    Whole,
)
from ingest_service.datasets.movielens import MOVIES, HalfStars
from ingest_service.errors import RowError
from ingest_service.rows import parse
from ingest_service.rows.columns import Values
from ingest_service.rows.texts import Texts
from tests.formats.ugly import IDS, PADDING, TIMESTAMPS

MISSING = frozenset({"", "NA"})
KINDS: tuple[Kind, ...] = (
    *(ID, TEXT, HalfStars(), Time(), Time("s"), Time("ms"), TextId(), UuidId()),
    *(Number(MISSING, 1.5), Number(), Whole(MISSING), Category(), Category({"pv": "view"}, MISSING, "click")),
    *(AnyText(), AnyText(MISSING), AnyText(MISSING, "none"), AnyText(frozenset({"é", " ", "pv"}), "")),
    *(RawId(), Clock(), Missable(Time(), MISSING), Missable(Time(), frozenset({"", "0", "-1", "1583366400000"}), 7)),
    Missable(FormattedTime("%Y-%m-%d"), frozenset({"2020-02-30", "2020-03-05"}), 0),
    *(Exact(MISSING, "0"), ListOfTexts("|"), ListOfTexts(" ", MISSING, "[]"), Clock("%H:%M:%S"), Day("%Y-%m-%d")),
    *(Epoch(1), Epoch(0), Epoch(1_000), FormattedTime("%Y-%m-%d %H:%M:%S", "Europe/Berlin"), FormattedTime("%d.%m.%y")),
)
NAMES = [f"{type(kind).__name__}-{number}" for number, kind in enumerate(KINDS)]
STARS = st.sampled_from(["0", "0.5", "4", "4.0", "4.50", "4.25", "5.0", "5.5", "6", "45", ".5", "4.", "4x5", "-4.5"])
OWN = st.sampled_from(
    [
        *("", "NA", "pv", "buy", "1.5e3", "1e400", "nan", "1.5833664e12", "1583366400.25", "-1", ".5", "٣", "1_000"),
        *(
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
            "6ba7b8109dad11d180b400c04fd430c8",
        ),
        *("2020-03-29 02:30:00", "2020-10-25 02:30:00", "31.12.99", "30.02.20", "N12345", "Ünïcode", "x" * 300, "\0"),
        *("a#b", "{a}", "a\x7fb", "é" * 300, "905", "2359", "2020-03-05", "0", "1583366400000"),
    ]
)
FIELDS = st.builds(lambda before, text, after: before + text + after, PADDING, IDS | TIMESTAMPS | STARS | OWN, PADDING)


def listed(values: Values) -> list[Any]:
    found: list[Any] = values.to_list() if isinstance(values, Texts) else values.tolist()
    return found


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@given(fields=st.lists(FIELDS, min_size=1, max_size=20))
@settings(max_examples=120, derandomize=True, deadline=None)
def test_what_is_taken_is_what_the_specification_reads(kind: Kind, fields: list[str]) -> None:
    """Neither neighbours, widths nor other fields' rubbish change a value, nor does gathering them one by one."""
    encoded = [field.encode() for field in fields]
    ends = np.cumsum([len(field) + 1 for field in encoded]) - 1 + parse.PAD
    starts = ends - [len(field) for field in encoded]
    buffer = parse.padded(b",".join(encoded))
    if not kind.is_verbatim:
        starts, ends = parse.bare(buffer, starts, ends, has_quotes=False)
    values, valid = kind.many(buffer, starts, ends)
    alone, well = kind.texts(Texts.of(fields))
    for row in np.flatnonzero(well).tolist():
        assert kind.one(fields[row], "column") == listed(alone)[row]
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
        (TextId(), ["U1", "A3SGXH7AUHU8GW", "é"]),
        (UuidId(), ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]),
        (Number(MISSING, 0.0), ["1", "-2.5e3", "", "NA"]),
        (Category({"pv": "view"}, MISSING, "click"), ["pv", "NA", "pv"]),
        (FormattedTime("%Y-%m-%d"), ["2020-03-05", "2020-03-06"]),
        (RawId(), ["A3SGXH7AUHU8GW", "jürgen@example.org"]),
        (Clock(), ["905", "0"]),
        (Missable(Time(), MISSING, 5), ["1583366400000", "", "NA"]),
        (Epoch(1_000), ["1.5833664e12", "1583366400000.5"]),
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
    used = {
        type(column.kind) for dataset in (*map(dataset_named, dataset_names()), MOVIES) for column in dataset.columns
    }
    assert used <= {type(kind) for kind in KINDS}


@pytest.mark.parametrize("text", ["4.25", "0", "5.5", "stars", ""])
def test_ratings_are_half_stars(text: str) -> None:
    """Anything else is refused with a code of its own."""
    with pytest.raises(RowError) as refused:
        HalfStars().one(text, "rating")
    assert refused.value.code == "bad_rating"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (FormattedTime("%Y-%m-%d", "America/New_York"), "2020-07-01", 1_593_576_000_000_000),
        (
            FormattedTime("%Y-%m-%d %H:%M:%S", "Europe/Berlin"),
            "2020-10-25 02:30:00",
            1_603_585_800_000_000,
        ),  # the first
        (FormattedTime("%a %b %d %H:%M:%S %z %Y"), "Wed Mar 22 11:37:04 -0700 2017", 1_490_207_824_000_000),
        (FormattedTime("%m/%d/%Y %I:%M:%S %p"), "11/13/2019 8:36:57 AM", 1_573_634_217_000_000),
        (Epoch(1_000_000), "1593878946.592", 1_593_878_946_592_000),
        (Epoch(1_000), "1.68383712e12", 1_683_837_120_000_000),
        (Epoch(0), "1583366400123456789", 1_583_366_400_123_456),
        (Number(), "1e3", 1000.0),
        (Whole(frozenset({"NA"}), 7), " NA ", 7),
        (Category({"pv": "view"}), "pv", "view"),
        (RawId(), " Jürgen+1@example.org ", "Jürgen+1@example.org"),
        *((Clock(), text, minutes * 60_000_000) for text, minutes in (("905", 545), ("0", 0), (" 0905 ", 545))),
        (Missable(Time("s"), MISSING, 5), " NA ", 5),
        (Missable(Time("s"), MISSING, 5), "1", 1_000_000),
        (UuidId(), " 6BA7B8109DAD11D180B400C04FD430C8 ", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ],
    ids=str,
)
def test_what_the_specification_reads(kind: Kind, text: str, value: object) -> None:
    """Zones, units and forms as the files of known data sets have them."""
    assert kind.one(text, "column") == value


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        *((kind, "", "bad_id") for kind in (TextId(), UuidId())),
        *((Number(), text, "bad_number") for text in ("", "nan", "inf", "1e999", "1_000", "0x1", "٣")),
        (Number(MISSING), "NA", "missing_value"),
        (Whole(), "1.5", "bad_number"),
        (Category({"pv": "view"}), "buy", "bad_value"),
        *((Epoch(1_000), text, "bad_timestamp") for text in ("", "soon", "1e99")),
        (Epoch(1_000), "-1", "timestamp_out_of_range"),
        *((RawId(), text, "bad_id") for text in ("", "a#b", "{a", "a}", "a\x01b", "é" * (MAX_ID_BYTES // 2 + 1))),
        *((Clock(), text, "bad_timestamp") for text in ("2400", "1:5", "-5", "12345", "")),
        (Missable(Time(), MISSING), "NA", "missing_value"),
        (Missable(Time(), MISSING, 5), "soon", "bad_timestamp"),
        (FormattedTime("%Y-%m-%d"), "2020-02-30", "bad_timestamp"),
        (FormattedTime("%Y-%m-%d"), "1969-12-31", "timestamp_out_of_range"),
    ],
    ids=str,
)
def test_what_the_specification_refuses(kind: Kind, text: str, code: str) -> None:
    """Each with the code that its dead letters have."""
    with pytest.raises(RowError) as refused:
        kind.one(text, "column")
    assert refused.value.code == code


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@given(numbers=st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 1 << 42), min_size=1, max_size=9))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_whole_numbers_are_read_as_their_texts(kind: Kind, numbers: list[int]) -> None:
    """What a format has as a number is what a file of text would have."""
    values, valid = kind.whole(np.array(numbers, np.int64))
    for row in np.flatnonzero(valid).tolist():
        assert listed(values)[row] == kind.one(str(numbers[row]), "column")
