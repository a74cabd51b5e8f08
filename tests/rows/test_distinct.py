"""The different texts of a column."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.rows import distinct as module
from ingest_service.rows.distinct import distinct
from ingest_service.rows.texts import Texts, concatenate

TEXTS = st.text(max_size=20) | st.sampled_from(["", "\0", "\0\0", "a", "a\0", "same", "12345678", "123456789"])


@given(words=st.lists(TEXTS, max_size=40), long=st.booleans())
@settings(max_examples=400, derandomize=True, deadline=None)
def test_each_text_is_there_once_and_each_row_has_its_own(words: list[str], long: bool) -> None:
    """Also among very long ones, and whatever stands around them in the buffer."""
    words = [*words, "x" * 300] if long else words
    around = concatenate([Texts.of(words), b"|"]) if words else Texts.of(words)
    inside = Texts(around.buffer, around.starts, np.asarray(around.widths) - 1) if words else around
    for texts in (Texts.of(words), inside):
        different, inverse = distinct(texts)
        found = different.to_list()
        assert sorted(found) == sorted(set(words))
        assert [found[row] for row in inverse.tolist()] == words


@pytest.mark.parametrize("words", [["a", "b", "a", "c" * 20, "b"], ["same", "same"]])
def test_a_collision_of_hashes_is_no_matter(words: list[str]) -> None:
    """They only say where to look."""
    with patch.object(module, "hashed", lambda _, n: np.zeros(n, np.uint64)):
        different, inverse = distinct(Texts.of(words))
    assert [different.to_list()[row] for row in inverse.tolist()] == words
