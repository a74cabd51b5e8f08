"""What features know, kept in files: whole and of these features, or as if it were not there."""

from pathlib import Path

import numpy as np
import pytest

from ingest_service.formats.kept_past import KeptPast
from ingest_service.rows.chunk import Position

ARRAYS = {"part0": np.arange(5), "own.hot": np.array([0.1, 2.5]), "none": np.empty(0, np.int64)}


@pytest.fixture
def kept(tmp_path: Path) -> KeptPast:
    return KeptPast(tmp_path, "these")


def offsets(kept: KeptPast, at: int) -> list[int]:
    return [position.offset for position, _ in kept.newest(Position(at))]


def test_the_last_that_is_not_beyond_comes_first(kept: KeptPast) -> None:
    """And of many the newest stay: one may be ahead of what is checkpointed."""
    for offset in (5, 100, 20, 300):
        kept.keep(Position(offset, offset // 5, 2, "hash"), ARRAYS)
    assert offsets(kept, 1000) == [300, 100, 20]
    assert offsets(kept, 299) == [100, 20]
    (kept.folder / "features-400.77.tmp").write_bytes(b"half")
    kept.remove_beyond(Position(100))
    assert offsets(kept, 1000) == [100, 20]
    assert {path.name for path in kept.folder.iterdir()} == {"features-100", "features-20"}
    position, arrays = next(kept.newest(Position(100)))
    assert position == Position(100, 20, 2, "hash")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert (arrays[name] == array).all()
        assert arrays[name].flags.writeable


def test_what_is_of_other_features_is_none(kept: KeptPast) -> None:
    kept.keep(Position(5), ARRAYS)
    assert list(KeptPast(kept.folder, "others").newest(Position(9))) == []


def test_a_damaged_file_is_none(kept: KeptPast) -> None:
    """Cut off anywhere, longer, or with any byte another; the one before it is then the last."""
    kept.keep(Position(5), ARRAYS)
    kept.keep(Position(7), ARRAYS)
    path = kept.folder / "features-7"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert offsets(kept, 9) == [5]
        path.write_bytes(whole[:length] + bytes([whole[length] ^ 1]) + whole[length + 1 :])
        assert offsets(kept, 9) == [5]
    path.write_bytes(whole + b"x")
    assert offsets(kept, 9) == [5]
    path.write_bytes(whole)
    assert offsets(kept, 9) == [7, 5]


def test_a_full_disk_or_no_folder_is_no_error(kept: KeptPast) -> None:
    gone = KeptPast(kept.folder / "none", "these")
    gone.keep(Position(5), ARRAYS)
    assert offsets(gone, 9) == []
    assert list(kept.folder.iterdir()) == []
