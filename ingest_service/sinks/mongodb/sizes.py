"""What documents take in MongoDB: themselves, and the keys of the index of `_id`, as `collStats` counts them.

What of it lies on the disk is less, since WiredTiger compresses both; how much less depends on its settings.
"""

from typing import ClassVar

import numpy as np

from ingest_service.rows.chunk import Chunk
from ingest_service.rows.texts import lengths
from ingest_service.sinks.mongodb.documents import Documents, id_pieces
from ingest_service.sinks.sizes import Found, Sizes, Tally

_KEY_BYTES = 7  # of an entry beside the text: its kind, two ends, and the number of the record


class MongoDBTally(Tally):
    rows_per_s: ClassVar[int] = 128_000  # into a server that keeps documents in memory
    within: ClassVar[float] = 0.1

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._n = self._document_bytes = self._index_bytes = 0

    def add(self, chunk: Chunk) -> None:
        columns = chunk.columns
        encoded = self._documents.of(columns)
        self._n += len(columns) - len(encoded.refused)
        good = np.ones(len(columns), np.bool_)
        good[list(encoded.refused)] = False
        self._document_bytes += int(np.broadcast_to(encoded.documents.widths, len(columns))[good].sum())
        self._index_bytes += int(
            (_KEY_BYTES + np.zeros(len(columns), np.int64) + lengths(id_pieces(columns)))[good].sum()
        )

    def sizes(self, found: Found) -> Sizes:
        document, entry = (total / max(self._n, 1) for total in (self._document_bytes, self._index_bytes))
        return {
            "documents": found.kept,
            "document_bytes": round(found.kept * document),
            "index_bytes": round(found.kept * entry),
        }
