"""What the features of a data set need of the rows before a chunk, along one reading of a source.

Chunks come in their order, and each goes on from the one before. Where one does not, as the first of a resumed run, the
rows before it are read once more: from the last place of which is kept what was known there, or else from the start.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.seen import AllSeen
from ingest_service.errors import SourceChanged
from ingest_service.formats.base import Reader
from ingest_service.formats.kept_past import KeptPast
from ingest_service.rows.chunk import Chunk, Position

KEEP_EVERY_S: Final = 30.0
_SHARE: Final = 20  # at most this part of the time is spent on keeping


class PastOfSource:
    """`Past` of one source. Blocks the caller; one call at a time. `reread`: a reader of the source from its start."""

    def __init__(self, dataset: Dataset, reread: Callable[[], Reader[Any]]) -> None:
        self._dataset = dataset
        self._reread = reread
        self._kept: KeptPast | None = None
        self._seen = AllSeen(dataset.features, dataset.schema)
        self._at: Position | None = None  # all before it is seen, and nothing else
        self._kept_at: Position | None = None  # the last place
        self._keep_next = time.monotonic() + KEEP_EVERY_S
        self._recalling: Iterator[None] | None = None
        self._rows_again = 0

    @property
    def warnings(self) -> Sequence[str]:
        again = f"the {self._rows_again:,} rows before were read again, for features to know of them"
        return [*self._seen.warnings, *([again] if self._rows_again else ())]

    def begin(self, first: Position, kept: KeptPast | None) -> None:
        """The source's first row is at `first`; what is known is kept in `kept`, if at all."""
        self._at, self._kept = first, kept

    def told(self, chunk: Chunk) -> Chunk:
        while self.recall(chunk.start):
            pass
        if chunk.is_unended:
            self.keep()  # here, since these rows may be others in the next run
            self._kept_at = chunk.end
        self._at = None  # unless all of them are seen
        columns = self._seen.told(chunk.columns)
        self._at = chunk.end
        if time.monotonic() >= self._keep_next:
            self.keep()
        return replace(chunk, columns=columns)

    def recall(self, at: Position) -> bool:
        if self._kept is not None and self._kept_at is None:  # where this run begins
            self._kept.remove_beyond(at)
            self._kept_at = at
        if self._at is not None and self._at.offset == at.offset:
            self._recalling = None
            return False
        if self._recalling is None:
            self._recalling = self._read_up_to(at)
        next(self._recalling, None)
        return True

    def keep(self) -> None:
        if self._kept is not None and self._at is not None and self._at != self._kept_at:
            began = time.monotonic()
            self._kept.keep(self._at, self._seen.arrays())
            self._kept_at = self._at
            now = time.monotonic()
            self._keep_next = now + max(KEEP_EVERY_S, _SHARE * (now - began))

    def _read_up_to(self, at: Position) -> Iterator[None]:
        """A block a step."""
        self._seen, self._at = AllSeen(self._dataset.features, self._dataset.schema), None
        reader = self._reader_before(at)
        try:
            while reader.position.offset < at.offset:
                block = reader.next()
                if block is None:
                    raise SourceChanged(
                        f"The source ends before byte {at.offset}, up to which it was ingested; "
                        "use --restart to start it again."
                    )
                chunk = reader.chunk(block)
                self._seen.told(chunk.columns.take(np.flatnonzero(chunk.offsets < at.offset)))
                yield
        finally:
            reader.close()
        self._at = at

    def _reader_before(self, at: Position) -> Reader[Any]:
        """At the last place of which all is known."""
        for position, arrays in self._kept.newest(at) if self._kept else ():
            reader = self._reread()
            try:
                reader.resume(position)
            except SourceChanged:
                reader.close()
                continue
            self._seen.restore(arrays)
            return reader
        self._rows_again = at.row
        return self._reread()
