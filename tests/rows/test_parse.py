"""Columns of fields against the specification, field by field: what is taken is right, and what is usual is taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.errors import RowError
from ingest_service.rows import parse
from ingest_service.rows.arrays import Ints
from ingest_service.rows.interaction import TimeUnit, micros_of, parse_id, parse_timestamp
from tests.formats.ugly import IDS, PADDING, TIMESTAMPS

THOROUGH = settings(max_examples=500, derandomize=True, deadline=None)
FIELDS = st.builds(lambda before, text, after: (before + text + after).encode(), PADDING, IDS | TIMESTAMPS, PADDING)


def columns(fields: list[bytes]) -> tuple[parse.Bytes, Ints, Ints]:
    """The fields one after the other, with commas between, and their bare bounds."""
    ends = np.cumsum([len(field) + 1 for field in fields]) - 1 + parse.PAD
    starts = ends - [len(field) for field in fields]
    buffer = parse.padded(b",".join(fields))
    return buffer, *parse.bare(buffer, starts, ends, has_quotes=False)


@THOROUGH
@given(fields=st.lists(FIELDS, min_size=1, max_size=20))
def test_an_integer_that_is_taken_is_the_one_that_the_specification_gives(fields: list[bytes]) -> None:
    """Neither neighbours, widths nor other fields' rubbish change a value."""
    values, valid = parse.integers(*columns(fields))
    for field, value, good in zip(fields, values.tolist(), valid.tolist(), strict=True):
        if good:
            assert parse_id(field.decode(), "user") == value
        text = field.decode()
        if text.isascii() and text.isdigit() and len(text) <= 18:
            assert good


@THOROUGH
@given(fields=st.lists(FIELDS, min_size=1, max_size=20), unit=st.sampled_from(["auto", "s", "ms"]))
def test_a_timestamp_that_is_taken_is_the_one_that_the_specification_gives(fields: list[bytes], unit: TimeUnit) -> None:
    """And one that the specification takes is taken, unless it stands in blanks or has an unusual fraction."""
    values, valid = parse.timestamps(*columns(fields), unit)
    for field, value, good in zip(fields, values.tolist(), valid.tolist(), strict=True):
        text = field.decode()
        try:
            expected = micros_of(parse_timestamp(text, "timestamp", unit))
        except RowError:
            assert not good
            continue
        if good:
            assert value == expected
        else:
            is_usual = text == text.strip() and ("." not in text or text.endswith(".0"))
            assert not is_usual or (len(text) == 19 and unit != "auto"), text


@pytest.mark.parametrize(
    "text", ["2020-02-29T23:59:59.9999999", "2020-02-29T23:59:59+00:00x", "2020-02-29T23:59:5\u0663"]
)
def test_almost_timestamps_are_left_to_the_specification(text: str) -> None:
    """One byte too many or another script's digit is not taken."""
    _, valid = parse.timestamps(*columns([text.encode(), b"2020-02-29T23:59:59"]), "auto")
    assert valid.tolist() == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        *("1583366400", "1583366400.0", "1583366400.25", "1583366400.123456", "1583366400.123456789"),
        *("1583366400000", "1583366400000.0", "1583366400123456", "1583366400123456.0", "1583366400123456789"),
        *("2020-03-05T00:00:00", "2020-03-05 00:00:00.25+02:00"),
    ],
)
def test_usual_times_are_taken_without_the_specification(text: str) -> None:
    """Alone, and beside one of every other shape: a whole file of them must not go row by row."""
    others = [b"1583366400", b"1583366400000.0", b"2020-03-05T00:00:00", b"", b"x", b"1.5"]
    for fields in ([text.encode()] * 3, [text.encode(), *others]):
        values, valid = parse.timestamps(*columns(fields), "auto")
        assert valid[0]
        assert values[0] == micros_of(parse_timestamp(text, "timestamp"))
