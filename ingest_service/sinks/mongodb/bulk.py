"""Bulk writes: what of a batch is to be sent next, and what became of it by the server's answer.

New rows are the usual case, so documents are inserted first; those whose `_id` is there already (an earlier try whose
reply was lost, or an earlier row of the same key) are then replaced. Commands are sent whole rather than by PyMongo's
`insert_many`, which spends more on each document than its encoding costs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

from ingest_service.errors import Retry
from ingest_service.sinks.mongodb.documents import MAX_DOCUMENT_BYTES, Refusal

# github.com/mongodb/specifications, "Retryable Writes" and "Server Discovery and Monitoring", and what asks for less:
# MaxTimeMSExpired, WriteConflict, ExceededTimeLimit, and Cosmos DB's and DocumentDB's TooManyRequests.
PASSING = frozenset({6, 7, 50, 64, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 16500, 91331})
THROTTLES = frozenset({16500})
_DUPLICATE_KEY = 11000

_EMPTY = bson.encode({})
_REQUEST_BYTES = MAX_DOCUMENT_BYTES  # PyMongo lets a command be as large as a document, and a little more


class Batch:
    """Documents on their way, as BSON by row: `new` are to be inserted, `known` have an `_id` that is there already."""

    def __init__(self, documents: Mapping[int, bytes]) -> None:
        self.documents = documents
        self.new = set(documents)
        self.known: set[int] = set()
        self.refused: dict[int, Refusal] = {}

    @property
    def left(self) -> int:
        return len(self.new) + len(self.known)

    def next(self, collection: str) -> tuple[list[int], dict[str, Any]]:
        """Rows, and the command that inserts them if they are taken for new, or else replaces them."""
        rows, documents = self._within_one_request(self.new or self.known)
        if self.new:
            return rows, {"insert": collection, "documents": [_Run(documents)], "ordered": False}
        return rows, {"update": collection, "updates": [_Run(map(_replacement, documents))], "ordered": False}

    def _within_one_request(self, rows: Iterable[int]) -> tuple[list[int], list[bytes]]:
        """The first of these rows, at least one, and their documents."""
        taken: list[int] = []
        free_bytes = _REQUEST_BYTES
        for row in rows:
            free_bytes -= len(self.documents[row])
            if taken and free_bytes < 0:
                break
            taken.append(row)
        return taken, [self.documents[row] for row in taken]

    def answered(self, rows: Sequence[int], reply: Mapping[str, Any]) -> Retry | None:
        """What became of `rows`, sent in this order. The reason to try some again, if there is one."""
        if "writeConcernError" in reply:
            return Retry("MongoDB does not confirm the write")  # written maybe, but not where it must be: all again
        passing: set[int] = set()
        known: set[int] = set()
        codes = set()
        for error in reply.get("writeErrors", ()):
            row, code = rows[error["index"]], error.get("code")
            if code == _DUPLICATE_KEY and _is_own_key(error):
                known.add(row)  # a replacement that lost a race for the key comes here too, and is made again
            elif code == _DUPLICATE_KEY:
                self.refused[row] = Refusal("duplicate_key", "Another document has this value in a unique index.")
            elif code in PASSING:
                passing.add(row)
                codes.add(code)
            else:
                self.refused[row] = Refusal("refused", f"MongoDB refuses the document (code {code}).")
        was_new = self.new.intersection(rows)
        self.new = self.new.difference(rows) | (passing & was_new)
        self.known = self.known.difference(rows) | known | (passing - was_new)
        if passing:
            return Retry("MongoDB is busy", throttled=bool(codes & THROTTLES))
        return None


def _is_own_key(error: Mapping[str, Any]) -> bool:
    if "keyPattern" in error:
        return bool(error["keyPattern"] == {"_id": 1})
    return "index: _id_ " in error.get("errmsg", "")  # servers before 4.4


def _replacement(document: bytes) -> bytes:
    content = RawBSONDocument(document)
    return bson.encode({"q": {"_id": content["_id"]}, "u": content, "upsert": True})


class _Run(RawBSONDocument):
    """Documents one after the other, as the protocol has them ("OP_MSG", document sequence).

    PyMongo takes it for a single one and copies its bytes as they are, instead of encoding an object a row. What else
    looks at it, as PyMongo's own log does, sees an empty document.
    """

    def __init__(self, documents: Iterable[bytes]) -> None:
        super().__init__(_EMPTY)
        self._joined = b"".join(documents)

    @property
    def raw(self) -> bytes:
        return self._joined
