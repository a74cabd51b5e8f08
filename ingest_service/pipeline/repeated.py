"""Rows of a divided source whose key is in two shards: the last one of each is written again, and so wins.

What each shard noted of its keys (`keys.py`) is read twice. First into a set of bits, by which most keys are seen to
be in one shard only; what is left is compared exactly, set aside on disk where it is much.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ingest_service.errors import LocalIOError
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.keys import bring_keys, keys_of
from ingest_service.pipeline.plan import Plan
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.runtime.tasks import finish_in_thread
from ingest_service.sinks.base import AnySink

SHARE = "workers must share --state-dir, or have a --state-mirror: bring it here, and run the same command again."
_BITS_A_ROW, _MAX_BITS = 16, 1 << 29  # 64 MiB; with more rows than that is good for, more are compared on disk


async def write_repeated(job: Job, plan: Plan, sinks: Sequence[AnySink]) -> None:
    """LocalIOError where what a shard has noted is not here."""
    offsets = await finish_in_thread(_repeated, job, plan)
    if not len(offsets):
        return
    chunks = _chunks_with(job, plan, offsets)
    while (chunk := await finish_in_thread(next, chunks, None)) is not None:
        for sink in sinks:
            await sink.store(chunk)


class _Hashes:
    """A set of hashes that never forgets one, and takes few others for its own. uint64[n] each time."""

    def __init__(self, n_rows: int) -> None:
        n_bits = min(_MAX_BITS, 1 << max(16, (_BITS_A_ROW * n_rows).bit_length()))
        self._mask = np.uint64(n_bits - 1)
        self._bytes = np.zeros(n_bits // 8, np.uint8)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        places, bits = self._places(hashes)
        np.bitwise_or.at(self._bytes, places, bits)

    def may_have(self, hashes: NDArray[np.uint64]) -> Bools:
        places, bits = self._places(hashes)
        found: Bools = self._bytes[places] & bits != 0
        return found

    def _places(self, hashes: NDArray[np.uint64]) -> tuple[Ints, NDArray[np.uint8]]:
        slots = hashes & self._mask
        return (slots >> np.uint64(3)).astype(np.int64), np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8)


def _repeated(job: Job, plan: Plan) -> Ints:
    """Where the last row of each key stands that is in more than one shard, ascending. Blocks."""
    import polars as pl

    from ingest_service.rows.spill import Spill

    n_rows = _n_rows(job, plan)
    suspects, n_suspects = _suspects(job, plan, n_rows)
    if not n_suspects:
        return np.empty(0, np.int64)
    found = []
    with Spill(2 * n_suspects, by=pl.col("key")) as spill:
        for shard in plan:
            for keys in keys_of(job.part(shard)):
                is_one = suspects.may_have(keys.hashes)
                columns = {"key": keys.hashes[is_one], "offset": keys.offsets[is_one]}
                spill.add(pl.DataFrame(columns).with_columns(pl.lit(shard.number).alias("shard")))
        for frame in spill:
            of_key = frame.group_by("key").agg(pl.col("shard").n_unique(), pl.col("offset").max())
            found.append(of_key.filter(pl.col("shard") > 1)["offset"].to_numpy())
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _n_rows(job: Job, plan: Plan) -> int:
    """How many keys were noted, some maybe twice; those of all rows are there."""
    n_rows = 0
    for shard in plan:
        mine = job.part(shard)
        bring_keys(mine)
        ends: dict[int, int] = {}
        for keys in keys_of(mine):
            ends[keys.start.offset] = keys.end
            n_rows += len(keys.offsets)
        at = shard.start.offset
        while at in ends and at != (end := ends[at]):
            at = end
        if shard.end is not None and at < shard.end.offset:
            raise LocalIOError(f"What was noted of shard {shard.number + 1} is not in {mine.state_dir}; {SHARE}")
    return n_rows


def _suspects(job: Job, plan: Plan, n_rows: int) -> tuple[_Hashes, int]:
    """Hashes of the keys that may be in a shard and in one before it, and in how many rows of later shards."""
    before, suspects, n_suspects = _Hashes(n_rows), _Hashes(n_rows), 0
    for shard in plan:
        mine = job.part(shard)
        for keys in keys_of(mine):
            some = keys.hashes[before.may_have(keys.hashes)]
            suspects.add(some)
            n_suspects += len(some)
        for keys in keys_of(mine):
            before.add(keys.hashes)
    return suspects, n_suspects


def _chunks_with(job: Job, plan: Plan, offsets: Ints) -> Iterator[Chunk]:
    """The rows at these offsets, a chunk at a time, in the order of the source. Blocks."""
    reader = None
    try:
        for start, end in _spans_with(job, plan, offsets):
            if reader is None or reader.position.offset < start.offset:
                if reader is not None:
                    reader.close()
                reader = job.open_reader()
                reader.resume(start)
            while reader.position.offset < end and (block := reader.next()) is not None:
                first, last = np.searchsorted(offsets, (block.start.offset, block.end.offset))
                if first < last:
                    chunk = reader.chunk(reader.only(block, offsets[first:last]))
                    yield chunk.only(np.isin(chunk.offsets, offsets[first:last]))
    finally:
        if reader is not None:
            reader.close()


def _spans_with(job: Job, plan: Plan, offsets: Ints) -> Iterator[tuple[Position, int]]:
    """What was noted at once and has such rows: where each begins, and the offset of its end, in order."""
    for shard in plan:
        spans = {keys.start.offset: (keys.start, keys.end) for keys in keys_of(job.part(shard))}
        for _, (start, end) in sorted(spans.items()):
            first, last = np.searchsorted(offsets, (start.offset, end))
            if first < last:
                yield start, end
