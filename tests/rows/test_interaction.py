"""The row-by-row specification: ids, timestamps and the record that users know."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ingest_service.datasets.microlens import microlens_interaction
from ingest_service.errors import RowError
from ingest_service.rows.interaction import (
    INT64_MAX,
    INT64_MIN,
    VideoInteraction,
    parse_id,
    parse_timestamp,
    timestamp_text,
)

QUICK = settings(max_examples=500, derandomize=True, deadline=None)


def code_of(text: str, unit: str = "auto") -> str:
    with pytest.raises(RowError) as refused:
        parse_timestamp(text, "timestamp", unit)  # type: ignore[arg-type]
    assert text not in refused.value.reason or not text
    return refused.value.code


@QUICK
@given(
    value=st.integers(INT64_MIN, INT64_MAX), zeros=st.integers(0, 50), plus=st.booleans(), blanks=st.text(" \t\r\n\v\f")
)
def test_ids_are_64_bit_integers(value: int, zeros: int, plus: bool, blanks: str) -> None:
    """A sign, leading zeros and ASCII blanks around it change nothing."""
    sign = "-" if value < 0 else "+" * plus
    assert parse_id(f"{blanks}{sign}{'0' * zeros}{abs(value)}{blanks}", "user") == value


@pytest.mark.parametrize(("text", "value"), [("7.0", 7), ("-7.000", -7), (" +7.0 ", 7), (f"{INT64_MAX}.0", INT64_MAX)])
def test_a_whole_float_is_its_integer(text: str, value: int) -> None:
    """As pandas writes ids of a column that had gaps."""
    assert parse_id(text, "user") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "+",
        "-",
        "+-1",
        "1.5",
        "1.",
        ".0",
        "1.0.0",
        "1.0e3",
        "1e3",
        "0x1",
        "1_0",
        "1 2",
        "\u0663",
        "\uff11",
        "\u00a01",
        "\u20281",
        str(INT64_MAX + 1),
        str(INT64_MIN - 1),
        "9" * 100_000,
        "\ufeff1",
        "None",
        "nan",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_anything_else_is_no_id(text: str) -> None:
    """What int() would take or round is refused, in time linear in its length, and never quoted back."""
    with pytest.raises(RowError) as refused:
        parse_id(text, "user")
    assert (refused.value.stage, refused.value.code) == ("validate", "bad_id")
    assert str(refused.value) == "user is not an integer within 64 bits."


@QUICK
@given(
    at=st.datetimes(datetime(1971, 1, 1), datetime(2261, 12, 30)),
    offset=st.none() | st.integers(-1439, 1439),
    mark=st.sampled_from("T "),
    timespec=st.sampled_from(["seconds", "milliseconds", "microseconds"]),
)
def test_iso_timestamps_are_read_as_the_stdlib_reads_them(
    at: datetime, offset: int | None, mark: str, timespec: str
) -> None:
    """Where datetime.fromisoformat applies, it gives the same instant; no zone means UTC."""
    text = at.isoformat(mark, timespec)
    if offset is not None:
        text += f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    expected = datetime.fromisoformat(text)
    expected = expected.replace(tzinfo=UTC) if expected.tzinfo is None else expected.astimezone(UTC)
    found = parse_timestamp(f" {text}\t", "timestamp")
    assert found == expected
    assert found.utcoffset() == timedelta(0)


@QUICK
@given(
    text=st.from_regex(
        r"\A(19[67]|20[02]|226)[0-9]-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{3})?"
        r"(Z|[+-][0-2][0-9]:[0-6][0-9])?\Z",
    )
)
def test_dates_that_do_not_exist_are_those_of_the_stdlib(text: str) -> None:
    """What fromisoformat refuses is refused, and what it takes is taken if it lies in the years 1970 to 2261."""
    # The stdlib of 3.11 checks neither the minutes of a zone above 59, nor is 24:00 of interest here.
    if text[-6] in "+-" and text[-2:] > "59":
        assert code_of(text) == "bad_timestamp"
        return
    try:
        expected = datetime.fromisoformat(text)
    except ValueError:
        assert code_of(text) == "bad_timestamp"
        return
    expected = expected.replace(tzinfo=UTC) if expected.tzinfo is None else expected
    if datetime(1970, 1, 1, tzinfo=UTC) <= expected < datetime(2262, 1, 1, tzinfo=UTC):
        assert parse_timestamp(text, "timestamp") == expected
    else:
        assert code_of(text) == "timestamp_out_of_range"


@pytest.mark.parametrize(
    ("text", "unit", "stored"),
    [
        ("0", "auto", "1970-01-01T00:00:00.000000Z"),
        ("99999999999", "auto", "timestamp_out_of_range"),
        ("100000000000", "auto", "1973-03-03T09:46:40.000000Z"),
        ("1583378604123", "auto", "2020-03-05T03:23:24.123000Z"),
        ("1583378604", "auto", "2020-03-05T03:23:24.000000Z"),
        ("000000000001", "auto", "1970-01-01T00:00:00.001000Z"),
        ("1583378604", "ms", "1970-01-19T07:49:38.604000Z"),
        ("1583378604123", "s", "timestamp_out_of_range"),
        ("9214646399", "auto", "2261-12-31T23:59:59.000000Z"),
        ("9214646400", "auto", "timestamp_out_of_range"),
        ("9214646399999", "auto", "2261-12-31T23:59:59.999000Z"),
        ("9214646400000", "auto", "timestamp_out_of_range"),
        ("2261-12-31T23:59:59.999999Z", "auto", "2261-12-31T23:59:59.999999Z"),
        ("2262-01-01T00:59:59+01:00", "auto", "2261-12-31T23:59:59.000000Z"),
        ("1969-12-31T23:00:00-01:00", "auto", "1970-01-01T00:00:00.000000Z"),
        ("1970-01-01T00:00:00+00:01", "auto", "timestamp_out_of_range"),
        ("0001-01-01T00:00:00+23:59", "auto", "timestamp_out_of_range"),
        ("9999-12-31T23:59:59-23:59", "auto", "timestamp_out_of_range"),
        ("2020-02-29 12:00:00.1", "auto", "2020-02-29T12:00:00.100000Z"),
        ("2020-01-01T00:00:00-00:00", "auto", "2020-01-01T00:00:00.000000Z"),
        ("1.5", "auto", "1970-01-01T00:00:01.500000Z"),
        ("1583366400000.0", "auto", "2020-03-05T00:00:00.000000Z"),
        ("1583366400123.45678", "auto", "2020-03-05T00:00:00.123456Z"),
        ("1583366400.25", "auto", "2020-03-05T00:00:00.250000Z"),
        ("1583366400.1234569", "auto", "2020-03-05T00:00:00.123456Z"),
        ("1583366400.25", "ms", "1970-01-19T07:49:26.400250Z"),
        ("1583366400123456", "auto", "2020-03-05T00:00:00.123456Z"),
        ("1583366400123456789", "auto", "2020-03-05T00:00:00.123456Z"),
        ("123456789123456789", "auto", "1973-11-29T21:33:09.123456Z"),
        ("9214646400000000", "auto", "timestamp_out_of_range"),
        ("9214646399999999999", "auto", "2261-12-31T23:59:59.999999Z"),
        ("9214646400000000000", "auto", "timestamp_out_of_range"),
        ("100000000000000", "auto", "1973-03-03T09:46:40.000000Z"),
        *((text, "auto", "bad_timestamp") for text in ("", "-1", "+1", "1.", ".5", "1.5.0", "1.583e9", "1e9")),
        *((text, "auto", "bad_timestamp") for text in ("2020-01-01", "20200101T000000", "1,5", "nan")),
        *((f"2020-01-01T00:00:00{end}", "auto", "bad_timestamp") for end in (".", ".1234567", ",1", "z", "+1", " Z")),
        *(
            (f"2020-01-01T00:00:00{end}", "auto", "bad_timestamp")
            for end in ("+0100", "+24:00", "+00:60", "+\u06601:00")
        ),
        *(
            (text, "auto", "bad_timestamp")
            for text in ("2020-01-01T24:00:00", "2020-01-01T00:00:60", "0000-01-01T00:00:00")
        ),
        *(
            (text, "auto", "bad_timestamp")
            for text in ("1" * 20, "\u0661", "2020-01-01\n00:00:00", "\uff12\uff1020-01-01T00:00:00")
        ),
    ],
)
def test_known_timestamps(text: str, unit: str, stored: str) -> None:
    """The unit follows from the digits, unless the data set says which; fractions count; the years have borders."""
    if stored.endswith("Z"):
        assert timestamp_text(parse_timestamp(text, "timestamp", unit)) == stored  # type: ignore[arg-type]
    else:
        assert code_of(text, unit) == stored


@QUICK
@given(
    a=st.datetimes(datetime(1970, 1, 1), datetime(2261, 12, 31)),
    b=st.datetimes(datetime(1970, 1, 1), datetime(2261, 12, 31)),
)
def test_stored_timestamps_sort_as_the_instants_do(a: datetime, b: datetime) -> None:
    """The stored form has 27 characters, sorts as text, and reads back as itself."""
    a, b = a.replace(tzinfo=UTC), b.replace(tzinfo=UTC)
    assert len(timestamp_text(a)) == 27
    assert (timestamp_text(a) < timestamp_text(b)) == (a < b)
    assert parse_timestamp(timestamp_text(a), "timestamp") == a


def test_a_microlens_row_becomes_the_record_of_the_contract() -> None:
    """Stored ids depend on this: namespace, prefixes, event, device and session are fixed."""
    at = datetime(2020, 3, 5, 23, 59, 59, 999999, tzinfo=UTC)
    found = microlens_interaction(7, -12, at)
    namespace = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    assert found.user_id == uuid5(namespace, "user_7")
    assert found.video_id == uuid5(namespace, "video_-12")
    assert found.model_dump(mode="json", exclude={"user_id", "video_id"}) == {
        "event_type": "click",
        "timestamp": "2020-03-05T23:59:59.999999Z",
        "device": "mobile",
        "session_id": "session_7_2020-03-05",
    }


def test_an_interaction_is_frozen_and_has_a_zone() -> None:
    """A record cannot be changed, and a timestamp without a zone is no timestamp."""
    found = microlens_interaction(1, 2, datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(ValidationError):
        found.session_id = "x"
    with pytest.raises(ValidationError):
        VideoInteraction.model_validate({**found.model_dump(), "timestamp": "2020-01-01T00:00:00"})
