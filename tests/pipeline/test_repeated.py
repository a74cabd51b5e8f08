"""Keys that stand in two shards: a set of hashes never forgets one."""

import numpy as np
import pytest

from ingest_service.pipeline import repeated


@pytest.mark.parametrize("max_bits", [1 << 10, 1 << 29])
def test_no_hash_is_forgotten(monkeypatch: pytest.MonkeyPatch, max_bits: int) -> None:
    """Also where far more are added than there are bits; with room enough few others are taken for one."""
    monkeypatch.setattr(repeated, "_MAX_BITS", max_bits)
    hashes = np.random.default_rng(3).integers(0, 1 << 63, 200_000).astype(np.uint64) * np.uint64(2)
    ours, others = hashes[:100_000], hashes[100_000:]
    held = repeated._Hashes(len(ours))
    for first in range(0, len(ours), 30_000):
        held.add(ours[first : first + 30_000])
    assert held.may_have(ours).all()
    assert max_bits < len(ours) or held.may_have(others).mean() < 0.15
