"""What the features of a data set need of the rows before a chunk, along one reading of a source.

Chunks come in their order, and each goes on from the one before. Where one does not, as the first of a resumed run, the
rows before it are read once more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.seen import Seen
from ingest_service.errors import SourceChanged
from ingest_service.formats.base import Reader
from ingest_service.rows.chunk import Chunk, Position


class PastOfSource:
    """`Past` of one source. Blocks the caller; one call at a time. `reread`: a reader of the source from its start."""

    def __init__(self, dataset: Dataset, reread: Callable[[], Reader[Any]]) -> None:
        self._dataset = dataset
        self._reread = reread
        self._seen = Seen(dataset.features, dataset.schema)
        self._known_to: int | None = None  # the offset of what lies behind all that was seen
        self._rereading: Iterator[None] | None = None

    @property
    def warnings(self) -> Sequence[str]:
        return self._seen.warnings

    def begin(self, first: Position) -> None:
        """The source's first row is there."""
        self._known_to = first.offset

    def told(self, chunk: Chunk) -> Chunk:
        while self.recall(chunk.start):
            pass
        self._known_to = None  # unless all of it is seen
        columns = self._seen.told(chunk.columns)
        self._known_to = chunk.end.offset
        return replace(chunk, columns=columns)

    def recall(self, at: Position) -> bool:
        if self._known_to == at.offset:
            self._rereading = None
            return False
        if self._rereading is None:
            self._rereading = self._read_up_to(at)
        next(self._rereading, None)
        return True

    def _read_up_to(self, at: Position) -> Iterator[None]:
        """A block a step."""
        self._seen, self._known_to = Seen(self._dataset.features, self._dataset.schema), None
        reader = self._reread()
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
        self._known_to = at.offset
