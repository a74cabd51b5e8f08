"""How long a block may be, so that a run stays within its memory."""

from typing import Final

MAX_RECORD_BYTES: Final = 1 << 20
MEMORY_MB: Final = 350
MIN_MEMORY_MB: Final = 182  # of which a block holds the longest record twice over
# Measured peaks, whatever the file and the sinks: the program itself, and for each MiB of block what is made of it
# in the two chunks and the two blocks that are there at a time (benchmarks, section memory).
_PROGRAM_MB, _MB_PER_BLOCK_MB = 126, 28
_MB_PER_SINK = 8  # more for each MiB of block, for each sink beyond two that encodes the same chunk
_WAITING_PER_BLOCK = 8  # SQLite's own two chunks are small, so it has that to spare
_MIN_BLOCK_BYTES = 2 * MAX_RECORD_BYTES


def block_bytes_within(memory_mb: int, n_sinks: int = 1) -> int:
    """The length of the blocks with which a run into so many sinks stays within a peak of `memory_mb`."""
    per_block_mb = _MB_PER_BLOCK_MB + _MB_PER_SINK * max(0, n_sinks - 2)
    return max(_MIN_BLOCK_BYTES, ((memory_mb - _PROGRAM_MB) << 20) // per_block_mb)


def block_bytes_without(block_bytes: int, mb: int) -> int:
    """The length of the blocks where so much of the memory is taken by something else."""
    return max(_MIN_BLOCK_BYTES, block_bytes - (mb << 20) // _MB_PER_BLOCK_MB)


def waiting_bytes_within(block_bytes: int, n_sinks: int = 1) -> int:
    """How much each sink may hold of rows that wait: one that does so keeps only a fraction of a chunk in flight."""
    return _WAITING_PER_BLOCK * block_bytes // n_sinks


BLOCK_BYTES: Final = block_bytes_within(MEMORY_MB)
