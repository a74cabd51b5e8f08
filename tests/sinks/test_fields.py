"""Text into JSON, column by column."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ingest_service.rows.texts import Texts
from ingest_service.sinks.fields import json_escaped


@given(st.lists(st.text()))
def test_what_is_between_the_quotes_is_json(texts: list[str]) -> None:
    """Any text, also with quotes, control characters or emoji in it, comes back from a JSON parser unchanged."""
    escaped = json_escaped(Texts.of(texts))
    assert [json.loads(f'"{text}"') for text in escaped.to_list()] == texts


def test_escapes_are_those_of_the_standard_library() -> None:
    """The stored bytes are what `json.dumps` would have written."""
    texts = ['"', "\\", "\n\t\x00\x1f\x7f", "é", "𝄞", "\u2028", "plain", ""]
    assert json_escaped(Texts.of(texts)).to_list() == [json.dumps(text)[1:-1] for text in texts]


def test_plain_text_is_left_as_it_is() -> None:
    """A column that needs no escape is not rewritten."""
    texts = Texts.of(["session_1_2020-03-05"] * 3)
    assert json_escaped(texts) is texts
