"""What rows become in DynamoDB: items as ready-made JSON, in requests of 25.

Limits (docs.aws.amazon.com, BatchWriteItem and "Service quotas"): 25 items and 16 MB a request, 400 KB an item, no
two writes to one key in a request, hash key 1 to 2,048 bytes, range key 1 to 1,024, numbers from 1e-130 to below 1e126.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Schema
from ingest_service.rows.texts import Piece, Texts, concatenate, decimals, lengths
from ingest_service.sinks.fields import EVENT_KEY, event_key, json_safe, number_texts, stored_texts

ITEMS_PER_REQUEST = 25
MAX_ITEM_BYTES = 400 * 1024
MAX_HASH_BYTES, MAX_RANGE_BYTES = 2048, 1024
LEAST_NUMBER, NUMBERS_END = 1e-130, 1e126
EXPIRES_AT = "expires_at"
UNIT_BYTES = 1024  # what one write capacity unit pays for
_NUMBER_BYTES = 21  # the most that DynamoDB counts for a number


def spread(rows: Ints) -> Ints:
    """The rows in an order in which the 25 of a request come from all over the chunk, and so do neighbouring requests.

    A file sorted by user would otherwise send a busy user's items to one partition at once, which takes 1,000 units a
    second. No key is there twice, so their order does not matter.
    """
    n_requests = -(-len(rows) // ITEMS_PER_REQUEST)
    order = np.arange(n_requests * ITEMS_PER_REQUEST).reshape(ITEMS_PER_REQUEST, n_requests).T.ravel()
    return rows[order[order < len(rows)]]


def kinds(schema: Schema, ttl_s: int | None) -> dict[str, str]:
    """The attributes that such records have, and DynamoDB's letter for the type of each."""
    numbers = [*schema.numbers, *([] if ttl_s is None else [EXPIRES_AT])]
    return dict.fromkeys(stored_texts(schema), "S") | dict.fromkeys(numbers, "N")


def expiry_s(columns: Columns, ttl_s: int) -> Ints:
    """When each row is to be deleted, in seconds since the epoch."""
    return columns.epoch_ms // 1_000 + ttl_s


def encode(columns: Columns, ttl_s: int | None) -> tuple[bytes, Ints]:
    """Each row as a put request in DynamoDB's JSON, with a comma before it; and where each ends."""
    return _joined([b',{"PutRequest":', *_item(columns, ttl_s), b"}"])


def lines(columns: Columns, ttl_s: int | None) -> tuple[bytes, Ints]:
    """Each row as a line that DynamoDB imports, `{"Item":{…}}`; and where each ends."""
    return _joined([*_item(columns, ttl_s), b"\n"])


def line_bytes(columns: Columns, ttl_s: int | None) -> Ints:
    """How long each of these lines is."""
    return np.zeros(len(columns), np.int64) + lengths([*_item(columns, ttl_s), b"\n"])


def key_texts(columns: Columns) -> Texts:
    """Owner and key of each item as one text; a quotation mark, which JSON escapes, stands between them."""
    columns = json_safe(columns)
    return concatenate([columns.texts[columns.schema.owner], b'"', *event_key(columns)])


def _item(columns: Columns, ttl_s: int | None) -> list[Piece]:
    columns = json_safe(columns)
    pieces: list[Piece] = []
    for name in stored_texts(columns.schema):
        pieces += [f'"}},"{name}":{{"S":"'.encode() if pieces else f'{{"Item":{{"{name}":{{"S":"'.encode()]
        pieces += _values(columns, name)
    if ttl_s is not None:
        expires = decimals(expiry_s(columns, ttl_s))
        pieces += [f'"}},"{EXPIRES_AT}":{{"N":"'.encode(), expires]
    for name, numbers in number_texts(columns).items():
        pieces += [f'"}},"{name}":{{"N":"'.encode(), numbers]
    return [*pieces, b'"}}}']


def _joined(pieces: list[Piece]) -> tuple[bytes, Ints]:
    items = concatenate(pieces)
    return items.buffer.tobytes(), items.starts + items.widths


def _values(columns: Columns, name: str) -> list[Piece]:
    return event_key(columns) if name == EVENT_KEY else [columns.texts[name]]


def text_bytes(columns: Columns) -> Ints:
    """The bytes of each item's texts, with their names."""
    pieces = [piece for name in stored_texts(columns.schema) for piece in (name.encode(), *_values(columns, name))]
    return np.zeros(len(columns), np.int64) + lengths(pieces)


def item_bytes(columns: Columns) -> Ints:
    """What DynamoDB counts for each item, at most: the bytes of its names and values."""
    numbers = [piece for name, texts in number_texts(columns).items() for piece in (name.encode(), texts)]
    return text_bytes(columns) + lengths(numbers) + len(EXPIRES_AT) + _NUMBER_BYTES


def good_keys(columns: Columns) -> Bools:
    hash_bytes, range_bytes = lengths([columns.texts[columns.schema.owner]]), lengths(event_key(columns))
    good = np.ones(len(columns), np.bool_)
    for size, most in ((hash_bytes, MAX_HASH_BYTES), (range_bytes, MAX_RANGE_BYTES)):
        good &= (np.asarray(size) >= 1) & (np.asarray(size) <= most)
    return good


def good_numbers(columns: Columns) -> Bools:
    good = np.ones(len(columns), np.bool_)
    for numbers in columns.numbers.values():
        size = np.abs(numbers.astype(np.float64))
        good &= (size < NUMBERS_END) & ((size >= LEAST_NUMBER) | (size == 0))
    return good


@dataclass(slots=True)
class Request:
    """Up to 25 rows for one BatchWriteItem: their indices in the chunk, capacity units, and put requests in JSON.

    `text` has a comma before each of these, and `sizes` how many bytes each takes with it.
    """

    rows: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    text: bytes = b""

    @classmethod
    def several(cls, rows: Ints, units: Ints, text: bytes, ends: Ints, size: int) -> list["Request"]:
        """Encoded rows in requests of `size` rows each."""
        row_list, unit_list, sizes = rows.tolist(), units.tolist(), np.diff(ends, prepend=0).tolist()
        bounds = [*np.append(0, ends)[:-1:size].tolist(), len(text)]
        return [
            cls(row_list[i : i + size], unit_list[i : i + size], sizes[i : i + size], text[start:end])
            for i, start, end in zip(range(0, len(row_list), size), bounds, bounds[1:], strict=False)
        ]

    def body(self, table: str) -> bytes:
        return b'{"RequestItems":{"%b":[%b]}}' % (table.encode(), self.text[1:])

    def join(self, other: "Request") -> None:
        self.rows.extend(other.rows)
        self.units.extend(other.units)
        self.sizes.extend(other.sizes)
        self.text += other.text

    def cut(self, n: int) -> "Request":
        """Take out the last `n` rows, or all."""
        first = max(0, len(self.rows) - n)
        cut = self._take(range(first, len(self.rows)))
        self.text = self.text[: len(self.text) - len(cut.text)]
        del self.rows[first:], self.units[first:], self.sizes[first:]
        return cut

    def only(self, keys: set[tuple[str, str]]) -> "Request":
        return self._take([i for i, item in enumerate(self._items()) if key_of(json.loads(item[1:])) in keys])

    def halves(self) -> Sequence["Request"]:
        middle = len(self.rows) // 2
        return self._take(range(middle)), self._take(range(middle, len(self.rows)))

    def _items(self) -> list[bytes]:
        ends = list(accumulate(self.sizes))
        return [self.text[end - size : end] for end, size in zip(ends, self.sizes, strict=True)]

    def _take(self, indices: Sequence[int]) -> "Request":
        items = self._items()
        return Request(
            [self.rows[i] for i in indices],
            [self.units[i] for i in indices],
            [self.sizes[i] for i in indices],
            b"".join([items[i] for i in indices]),
        )


def key_of(write: dict[str, Any]) -> tuple[str, str]:
    item = write["PutRequest"]["Item"]
    return item["user_id"]["S"], item["event_key"]["S"]
