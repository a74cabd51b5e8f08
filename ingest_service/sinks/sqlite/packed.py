"""Records that wait to be stored, in a fraction of their memory, and many chunks of them in one order.

A chunk has a few rows of most users, so storing it touches a page of the table for each of them, for a few rows each.
Several chunks together touch these pages once. So each is packed in the order of the table's key, in blocks that are
unpacked one at a time: `merged` has only one of each chunk at hand.
"""

import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.columns import Columns, chained
from ingest_service.rows.parse import Bytes
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import Texts, concatenate

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEAST_ROWS = 1 << 10  # of a block
_BLOCKS = 32  # of a chunk: what is unpacked follows from its length, which follows from `--memory`
_LEVEL = 1
_TIMES_USED = 4  # a text that rows have as often, all in all, is packed once, and the rows have its place
_SMALL_BYTES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """The records of a chunk, in the order of their owners as far as 8 bytes tell these apart; then of the file."""

    schema: Schema
    n: int
    n_bytes: int
    _shared: dict[str, Bytes]  # the buffers of texts that are packed as places
    _blocks: list[bytes]

    @classmethod
    def of(cls, columns: Columns) -> "Packed":
        columns = columns.take(np.argsort(_order(columns), kind="stable"))
        shared = {name: _interned(texts.buffer) for name, texts in columns.texts.items() if _is_repeated(texts)}
        blocks = []
        size = max(LEAST_ROWS, -(-len(columns) // _BLOCKS))
        for first in range(0, len(columns), size):
            block = columns.take(slice(first, first + size))
            texts = {
                name: _stripped(part) if name in shared else concatenate([part]) for name, part in block.texts.items()
            }
            blocks.append(zstd.compress(pickle.dumps((texts, block.numbers), 5), level=_LEVEL))
        n_bytes = sum(map(len, blocks)) + sum(map(len, shared.values()))
        return cls(columns.schema, len(columns), n_bytes, shared, blocks)

    def unpacked(self) -> Iterator[Columns]:
        """A block at a time, without what tells the records apart."""
        for block in self._blocks:
            texts, numbers = pickle.loads(zstd.decompress(block))
            for name, buffer in self._shared.items():
                part = replace(texts[name], buffer=buffer, starts=texts[name].starts.astype(np.int64))
                texts[name] = part if _is_one(part) else concatenate([part])
            n = len(texts[self.schema.owner])
            yield Columns(self.schema, (), (), np.zeros(n, np.int64), texts, numbers)


def merged(runs: Sequence[Packed]) -> Iterator[Columns]:
    """The records of all these in the order of their owners, a piece at a time; of one owner as the runs are."""
    heads = [_Head(run.unpacked()) for run in runs]
    while heads := [head for head in heads if head.loaded()]:
        # What comes before the end of the block that ends first is at hand, of every run; at that very end, later runs
        # have to wait for the rest of this one.
        until = min(range(len(heads)), key=lambda number: heads[number].keys[-1])
        end = heads[until].keys[-1]
        parts = [head.before(end, and_it=number <= until) for number, head in enumerate(heads)]
        order = np.argsort(np.concatenate([keys for keys, _ in parts]), kind="stable")
        yield _chained([columns for _, columns in parts]).take(order)


class _Head:
    """Where one run is: the rest of its block, and the blocks after it."""

    def __init__(self, blocks: Iterator[Columns]) -> None:
        self._blocks = blocks
        self._columns: Columns | None = None
        self.keys: NDArray[np.uint64] = np.empty(0, np.uint64)

    def loaded(self) -> bool:
        """Whether there is more: then some of it is at hand."""
        if not len(self.keys):
            self._columns = next(self._blocks, None)
            if self._columns is not None:
                self.keys = _order(self._columns)
        return self._columns is not None

    def before(self, end: np.uint64, *, and_it: bool) -> tuple[NDArray[np.uint64], Columns]:
        """Take out what comes before this key, or also what has it."""
        assert self._columns is not None, "it is loaded"
        n = int(np.searchsorted(self.keys, end, "right" if and_it else "left"))
        found = self.keys[:n], _cut(self._columns, slice(n))
        self.keys, self._columns = self.keys[n:], self._columns.take(slice(n, None))
        return found


def _order(columns: Columns) -> NDArray[np.uint64]:
    """The first 8 bytes of each owner, which sort as the owners do as far as they go; a short one ends in zeros."""
    owners = columns.texts[columns.schema.owner]
    is_short = len(owners) and int(np.min(owners.widths)) < 8
    return concatenate([owners, bytes(8)]).prefixes() if is_short else owners.prefixes()


def _chained(parts: Sequence[Columns]) -> Columns:
    first = parts[0]
    texts: dict[str, Any] = {name: chained([part.texts[name] for part in parts]) for name in first.texts}
    numbers: dict[str, Any] = {name: chained([part.numbers[name] for part in parts]) for name in first.numbers}
    return replace(first, times=np.concatenate([part.times for part in parts]), texts=texts, numbers=numbers)


def _cut(columns: Columns, rows: slice) -> Columns:
    """These rows with no more bytes than theirs: whoever chains parts copies their buffers."""
    columns = columns.take(rows)
    return replace(columns, texts={name: _narrowed(texts) for name, texts in columns.texts.items()})


def _narrowed(texts: Texts) -> Texts:
    if _is_one(texts) or not len(texts):
        return texts
    first = int(texts.starts.min())
    end = int((texts.starts + texts.widths).max())
    return replace(texts, buffer=texts.buffer[first:end], starts=texts.starts - first)


def _is_one(texts: Texts) -> bool:
    """Whether all are one text."""
    return isinstance(texts.widths, int) and len(texts.buffer) == texts.widths


def _is_repeated(texts: Texts) -> bool:
    n_bytes = int(np.sum(np.broadcast_to(np.asarray(texts.widths, np.int64), len(texts))))
    return _is_one(texts) or len(texts.buffer) * _TIMES_USED <= n_bytes


def _stripped(texts: Texts) -> Texts:
    return Texts(np.empty(0, np.uint8), texts.starts.astype(np.int32), texts.widths)


def _interned(buffer: Bytes) -> Bytes:
    """One text that all rows of all chunks have is one buffer, so that it is seen to be one."""
    return _small(buffer.tobytes()) if len(buffer) <= _SMALL_BYTES else buffer


@lru_cache(maxsize=64)
def _small(text: bytes) -> Bytes:
    return np.frombuffer(text, np.uint8)
