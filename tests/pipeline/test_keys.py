"""The keys that a shard notes: whole ones are read back, whatever a crash left of others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ingest_service.pipeline.keys import KeyFile, Keys, keys_in
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.sinks.testing.rows import chunk_of, interactions


def noted(path: Path, *chunks: Chunk) -> None:
    file = KeyFile(path)
    for chunk in chunks:
        file.append(chunk)
    file.close()


def says(keys: Keys, chunk: Chunk) -> bool:
    return (
        (keys.start, keys.end) == (chunk.start, chunk.end.offset)
        and bool(np.array_equal(keys.offsets, chunk.offsets))
        and bool(np.array_equal(keys.hashes, chunk.columns.identity_hashes()))
    )


@pytest.mark.parametrize("left", [0, 1, 20, 70, -1])
def test_what_a_crash_left_of_a_part_is_cut_off(tmp_path: Path, left: int) -> None:
    """So that what is noted after it can be read: all bytes of the second part's that were written, but for some."""
    path = tmp_path / "keys.bin"
    first = chunk_of(interactions(9))
    second = replace(chunk_of(interactions(5)), start=Position(first.end.offset, 9, 10))
    noted(path, first)
    size = path.stat().st_size
    noted(path, second)
    with path.open("r+b") as file:
        file.truncate(size + left if left >= 0 else path.stat().st_size + left)
    assert [says(keys, first) for keys in keys_in(path)] == [True]
    noted(path, second, first)
    assert [says(keys, chunk) for keys, chunk in zip(keys_in(path), (first, second, first), strict=True)] == [True] * 3
