"""Columns of texts: what numpy does with windows and widths is what Python does with strings."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets.times import texts_and_dates
from ingest_service.rows.columns import Columns
from ingest_service.rows.interaction import END_S, EPOCH, INT64_MAX, INT64_MIN, timestamp_text
from ingest_service.rows.parse import SLICE_ROWS
from ingest_service.rows.schema import Field, FieldKind, Schema
from ingest_service.rows.texts import Piece, Texts, concatenate, decimals, lengths, numbered, write

WORDS = st.text(max_size=12) | st.sampled_from(["", "a", "é", "session_1_2020-03-05", "x" * 300])
INTEGERS = st.integers(INT64_MIN, INT64_MAX) | st.integers(-20, 20) | st.sampled_from([10**k for k in range(19)])


@st.composite
def pieces(draw: st.DrawFn) -> tuple[int, list[Piece], list[list[str]]]:
    """The number of rows, pieces, and the texts of each."""
    n = draw(st.integers(0, 20))
    found: list[Piece] = []
    texts: list[list[str]] = []
    kinds = draw(st.lists(st.sampled_from(["constant", "free", "fixed", "bytes", "shared"]), min_size=1, max_size=6))
    for kind in [*kinds, "free"]:
        if kind == "free":
            column = draw(st.lists(WORDS, min_size=n, max_size=n))
            found.append(Texts.of(column))
        elif kind == "shared":
            words = draw(st.lists(WORDS, min_size=1, max_size=4))
            picked = draw(st.lists(st.integers(0, len(words) - 1), min_size=n, max_size=n))
            column = [words[i] for i in picked]
            found.append(Texts.of(words).take(np.array(picked, np.int64)))
        elif kind == "fixed":
            column = [f"{i:05}" for i in range(n)]
            found.append(Texts(np.frombuffer("".join(column).encode(), np.uint8), np.arange(n) * 5, 5))
        else:
            word = draw(WORDS)
            column = [word] * n
            found.append(word.encode() if kind == "bytes" else Texts.constant(word, n))
        texts.append(column)
    return n, found, texts


@given(pieces())
@settings(max_examples=400, derandomize=True, deadline=None)
def test_rows_are_concatenated_as_strings_are(drawn: tuple[int, list[Piece], list[list[str]]]) -> None:
    """Whatever the widths, and however windows are shared; `lengths` says how long each is."""
    n, found, texts = drawn
    expected = ["".join(column[i] for column in texts) for i in range(n)]
    assert concatenate(found).to_list() == expected
    sizes = np.zeros(n, np.int64) + lengths(found)
    assert sizes.tolist() == [len(text.encode()) for text in expected]


@given(pieces(), st.randoms())
@settings(max_examples=200, derandomize=True, deadline=None)
def test_rows_go_where_they_are_told(drawn: tuple[int, list[Piece], list[list[str]]], random: object) -> None:
    """In any order, with gaps, and without touching a byte beside them."""
    n, found, texts = drawn
    expected = ["".join(column[i] for column in texts).encode() for i in range(n)]
    order = list(range(n))
    random.shuffle(order)  # type: ignore[attr-defined]
    at, place = np.zeros(n, np.int64), 2
    for row in order:
        at[row] = place
        place += len(expected[row]) + 3
    out = np.full(place, ord("."), np.uint8)
    write(out, at, found)
    model = bytearray(b"." * place)
    for row, text in enumerate(expected):
        model[at[row] : at[row] + len(text)] = text
    assert out.tobytes() == bytes(model)


@given(st.lists(INTEGERS, max_size=30))
@settings(max_examples=400, derandomize=True, deadline=None)
def test_decimals_are_those_of_str(numbers: Sequence[int]) -> None:
    """Of any int64, the smallest included."""
    assert decimals(np.array(numbers, np.int64)).to_list() == [str(number) for number in numbers]


@given(st.lists(WORDS, max_size=20), st.data())
@settings(deadline=None)
def test_rows_are_taken_by_index_and_by_slice(words: list[str], data: st.DataObject) -> None:
    """As of a list."""
    texts = Texts.of(words)
    first, last = (data.draw(st.integers(0, len(words))) for _ in range(2))
    assert texts.take(slice(first, last)).to_list() == words[first:last]
    picked = data.draw(st.lists(st.integers(0, len(words) - 1))) if words else []
    assert texts.take(np.array(picked, np.int64)).to_list() == [words[i] for i in picked]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=8)))
def test_prefixes_sort_as_the_texts(words: list[str]) -> None:
    """As far as eight bytes go; shorter texts are not told apart."""
    order = np.argsort(Texts.of(words).prefixes(), kind="stable")
    assert [words[i][:8] for i in order] == sorted(word[:8] for word in words)
    assert set(Texts.of([*words, "short"]).prefixes().tolist()) == {0}


@given(st.lists(WORDS, max_size=20))
@settings(deadline=None)
def test_frames_hold_the_same(words: list[str]) -> None:
    """Also texts with line ends in them, and none at all."""
    numbers = np.arange(len(words))
    schema = Schema("words", (Field("word", FieldKind.TEXT), Field("number", FieldKind.INT)), "word", ("word",))
    frame = Columns(schema, (numbers,), (), numbers, {"word": Texts.of(words)}, {"number": numbers}).frame()
    assert frame.to_dict(as_series=False) == {"word": words, "number": numbers.tolist()}


LATER = SLICE_ROWS + 5  # more rows than are made at once


def test_rows_of_one_width_are_concatenated_in_slices() -> None:
    """Those whose texts are all as long, as a stored time is."""
    numbers = np.arange(LATER) % 90 + 10
    found = concatenate(
        [b"<", decimals(numbers), Texts.constant("é", LATER), b"", decimals(numbers[::-1].copy()), b">"]
    )
    expected = [f"<{left}é{right}>" for left, right in zip(numbers.tolist(), numbers[::-1].tolist(), strict=True)]
    assert (found.widths, found.to_list()) == (8, expected)


def test_numbers_of_all_widths_stand_between_texts() -> None:
    """The longest number is in another slice than the first, and negative."""
    numbers = np.arange(LATER)
    numbers[-3:] = (INT64_MAX, INT64_MIN, -7)
    dates = Texts.of(["2020", "1999"]).take(np.arange(LATER) % 2)
    found = numbered(b"session_", numbers, b"_", Texts(dates.buffer, dates.starts, 4))
    years = ("2020", "1999")
    assert found.to_list() == [f"session_{number}_{years[row % 2]}" for row, number in enumerate(numbers.tolist())]


def test_times_are_written_in_slices() -> None:
    """Whole seconds, and in a later slice some that are none."""
    micros = np.arange(LATER) * 86_399_000_000 % (END_S * 1_000_000)
    micros[-2:] = (1_583_366_400_000_001, 7_123_456)
    times, dates = texts_and_dates(micros)
    expected = [timestamp_text(EPOCH + timedelta(microseconds=each)) for each in micros.tolist()]
    assert times.to_list() == expected
    assert dates.to_list() == [text[:10] for text in expected]
