"""BSON, column by column."""

from typing import Any

import bson
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.rows.texts import Texts
from ingest_service.sinks.mongodb import bson_rows
from ingest_service.sinks.mongodb.documents import Encoded

ROW = st.tuples(
    st.text(),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5) | st.sampled_from([2**31 - 1, 2**31, -(2**31), -(2**31) - 1]),
    st.floats(allow_nan=False),
    st.datetimes(),
    st.binary(min_size=12, max_size=12),
)


@given(st.lists(ROW, min_size=1, max_size=50))
def test_rows_are_what_the_driver_makes_of_them(rows: list[tuple[Any, ...]]) -> None:
    """Byte for byte: strings of any text, numbers of either size, doubles, times in milliseconds, ObjectIds."""
    texts, integers, doubles, times, ids = zip(*rows, strict=True)
    fields: dict[str, bson_rows.Values] = {
        "_id": np.array(ids, "V12"),
        "text": Texts.of(texts),
        "constant": Texts.constant("rate", len(rows)),
        "integer": np.array(integers, np.int64),
        "double": np.array(doubles, np.float64),
        "time": np.array(times, "datetime64[us]"),
    }
    assert Encoded(bson_rows.documents(fields)).to_list() == [
        bson.encode(
            {
                "_id": bson.ObjectId(object_id),
                "text": text,
                "constant": "rate",
                "integer": integer,
                "double": double,
                "time": time,
            }
        )
        for text, integer, double, time, object_id in rows
    ]
