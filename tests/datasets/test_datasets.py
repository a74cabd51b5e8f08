"""The data sets: columns of values become the records that the row-by-row model gives."""

from datetime import timedelta
from uuid import uuid5

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets import dataset_named, dataset_names
from ingest_service.datasets import uuids as uuids_module
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.datasets.uuids import UuidDictionary
from ingest_service.errors import ConfigurationError
from ingest_service.rows.interaction import END_S, EPOCH, INT64_MAX, INT64_MIN, NAMESPACE, timestamp_text

IDS = st.integers(INT64_MIN, INT64_MAX) | st.integers(0, 50) | st.sampled_from([INT64_MIN, INT64_MAX, -1, 0])
MICROS = st.integers(0, END_S * 1_000_000 - 1) | st.sampled_from([0, 999, 1000, END_S * 1_000_000 - 1])


@given(rows=st.lists(st.tuples(IDS, IDS, MICROS), max_size=30))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_columns_say_what_the_model_says(rows: list[tuple[int, int, int]]) -> None:
    """Ids, event, times, device and session of every row are those of VideoInteraction, in order."""
    user, item, micros = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    columns = MICROLENS.records({"user": user, "item": item, "timestamp": micros})
    assert set(columns.texts) == set(columns.schema.texts)
    assert len(columns) == len(rows)
    assert columns.identity == (user, item, micros)
    frame = columns.frame()
    assert frame.height == len(rows)
    assert MICROLENS.interaction is not None
    for found, (u, i, t) in zip(frame.iter_rows(named=True), rows, strict=True):
        expected = MICROLENS.interaction({"user": u, "item": i, "timestamp": t})
        assert expected.timestamp == EPOCH + timedelta(microseconds=t)
        assert found == {
            "user_id": str(expected.user_id),
            "video_id": str(expected.video_id),
            "event_type": expected.event_type.value,
            "timestamp": timestamp_text(expected.timestamp),
            "device": expected.device.value,
            "session_id": expected.session_id,
        }


@given(ids=st.lists(IDS, max_size=50))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_uuids_are_those_of_the_stdlib(ids: list[int]) -> None:
    """Each id's text is uuid5 of the contract's namespace and prefix."""
    found = UuidDictionary("user_").uuids(np.array(ids, np.int64))
    assert found.to_list() == [str(uuid5(NAMESPACE, f"user_{value}")) for value in ids]


def test_the_cache_of_uuids_does_not_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its size it starts again, and the answers stay right."""
    monkeypatch.setattr(uuids_module, "_MAX_KNOWN", 100)
    dictionary = UuidDictionary("video_")
    for start in range(0, 1000, 50):
        found = dictionary.uuids(np.arange(start, start + 50, dtype=np.int64))
        assert found.to_list()[7] == str(uuid5(NAMESPACE, f"video_{start + 7}"))
        assert len(dictionary._texts) <= 150 * 36


def test_data_sets_are_found_by_name() -> None:
    """An unknown name lists the known ones."""
    assert all(dataset_named(name).name == name for name in dataset_names())
    assert dataset_named("microlens") is MICROLENS
    with pytest.raises(ConfigurationError, match="microlens"):
        dataset_named("netflix")
