"""What rows become in MongoDB: BSON documents.

Each has an `_id` that follows from its record's key, so that a write can be repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pymongo import IndexModel

from ingest_service.errors import declare_codes
from ingest_service.rows.columns import Columns
from ingest_service.rows.texts import Piece, Texts, concatenate
from ingest_service.sinks.fields import event_key, field_texts
from ingest_service.sinks.mongodb import bson_rows

declare_codes(
    {
        "item_too_large": "larger than the sink takes",
        "duplicate_key": "another record has the row's value in a unique index of the sink",
        "refused": "the sink refused the row for a reason of its own",
    }
)

# mongodb.com, "MongoDB Limits and Thresholds".
MAX_DOCUMENT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row becomes no document: for its dead letter."""

    code: str
    reason: str


TOO_LARGE = Refusal("item_too_large", "The document is over MongoDB's 16 MB.")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as BSON, one document a row and one after the other in the buffer; `refused`, by row, are no documents."""

    documents: Texts
    refused: Mapping[int, Refusal] = field(default_factory=dict)

    def to_list(self) -> list[bytes | Refusal]:
        """One for each row, in order."""
        data = self.documents.buffer.tobytes()
        ends = np.cumsum(np.broadcast_to(self.documents.widths, len(self.documents))).tolist()
        pieces: list[bytes | Refusal] = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        for row, refusal in self.refused.items():
            pieces[row] = refusal
        return pieces


class Documents(Protocol):
    """A shape of documents, and the indexes that their readers need."""

    indexes: Sequence[IndexModel]

    def of(self, columns: Columns) -> Encoded: ...


class Interactions:
    """The columns of the other stores, with `_id` = `<user_id>#<timestamp>#<video_id>`, which serves as the index."""

    indexes: Sequence[IndexModel] = ()

    def of(self, columns: Columns) -> Encoded:
        texts = field_texts(columns)
        key = concatenate(id_pieces(columns))
        numbers = {name: columns.numbers[name] for name in columns.schema.numbers}
        documents = bson_rows.documents({"_id": key, **texts, **numbers})
        too_large = np.flatnonzero(np.broadcast_to(documents.widths, len(columns)) > MAX_DOCUMENT_BYTES)
        return Encoded(documents, dict.fromkeys(too_large.tolist(), TOO_LARGE))


def id_pieces(columns: Columns) -> list[Piece]:
    """Each record's `_id`."""
    return [columns.texts[columns.schema.owner], b"#", *event_key(columns)]
