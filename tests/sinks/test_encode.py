"""Text into JSON, column by column."""

import json

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.sinks.encode import json_strings


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_what_is_between_the_quotes_is_json(first: list[str], second: list[str]) -> None:
    """Any text, also with quotes, control characters or emoji in it, comes back from a JSON parser unchanged."""
    n = min(len(first), len(second))
    frame = pl.DataFrame({"a": first[:n], "b": second[:n], "c": second[:n]}, schema=dict.fromkeys("abc", pl.String))
    escaped = json_strings(frame, "a", "b")
    for name in ("a", "b"):
        assert [json.loads(f'"{text}"') for text in escaped[name].to_list()] == frame[name].to_list()
    assert escaped["c"].equals(frame["c"])


def test_escapes_are_those_of_the_standard_library() -> None:
    """The stored bytes are what `json.dumps` would have written."""
    texts = ['"', "\\", "\n\t\x00\x1f\x7f", "é", "𝄞", "\u2028", "plain", ""]
    frame = json_strings(pl.DataFrame({"text": texts}), "text")
    assert frame["text"].to_list() == [json.dumps(text)[1:-1] for text in texts]


def test_plain_text_is_left_as_it_is() -> None:
    """A column that needs no escape is not rewritten."""
    frame = pl.DataFrame({"text": ["session_1_2020-03-05"] * 3})
    assert json_strings(frame, "text") is frame
