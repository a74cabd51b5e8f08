"""Rows as RESP commands (redis.io, "Redis serialization protocol specification"), grouped by user."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns, stable_order
from ingest_service.rows.parse import Bytes
from ingest_service.rows.texts import Piece, Texts, decimals, lengths, write
from ingest_service.sinks.fields import json_escaped, own_number_texts, own_texts

COMMANDS_PER_USER = 3  # ZADD, ZREMRANGEBYRANK, EXPIRE


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows ready to be sent: `columns` has each user's rows together, user i's from row `starts[i]` on.

    `rows` are their indices in the chunk.
    """

    columns: Columns
    rows: Ints
    starts: Ints

    @classmethod
    def of(cls, columns: Columns, rows: Ints) -> "Batch":
        """The rows of a chunk's columns, at least one; users in any order, each one's rows in that of the file."""
        users = columns.key[0][rows]
        rows = rows[stable_order(users)]
        free = {"session_id": columns.texts["session_id"], **own_texts(columns)}
        escaped = {name: json_escaped(texts) for name, texts in free.items()}
        columns = replace(columns, texts={**columns.texts, **escaped}).take(rows)
        users = columns.key[0]
        starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
        return cls(columns, rows, starts)

    @property
    def n_users(self) -> int:
        return len(self.starts)

    @property
    def user_ids(self) -> Texts:
        return self.columns.texts["user_id"].take(self.starts)

    def part(self, users: Sequence[int]) -> "Batch":
        """These users by themselves."""
        chosen = np.zeros(self.n_users, np.bool_)
        chosen[list(users)] = True
        sizes = np.diff(self.starts, append=len(self.rows))
        mask = np.repeat(chosen, sizes)
        starts = np.cumsum(sizes[chosen]) - sizes[chosen]
        return Batch(self.columns.take(np.flatnonzero(mask)), self.rows[mask], starts)

    def only(self, rows: Ints) -> "Batch":
        """The users that these rows of the chunk are of."""
        users = np.searchsorted(self.starts, np.flatnonzero(np.isin(self.rows, rows)), side="right") - 1
        return self.part(np.unique(users).tolist())

    def of_users(self, users: Sequence[int]) -> Ints:
        """The rows of these users, by index in the chunk."""
        return np.sort(self.part(users).rows)

    def pieces(self, rows: int) -> Iterator[tuple[int, int]]:
        """The users in runs of about that many rows: first, and one past the last."""
        marks = np.arange(0, len(self.rows) + rows, rows)
        edges = np.unique(np.append(np.searchsorted(self.starts, marks), self.n_users))
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)

    def rows_in(self, piece: tuple[int, int]) -> int:
        first, last = piece
        end = len(self.rows) if last == self.n_users else int(self.starts[last])
        return end - int(self.starts[first])

    def commands(self, piece: tuple[int, int], limit: int, ttl_s: int) -> Bytes:
        """RESP commands that add the rows of a piece, trim its users' sets and renew their expiry, user by user."""
        first, last = piece
        start = int(self.starts[first])
        n_rows = self.rows_in(piece)
        columns = self.columns.take(slice(start, start + n_rows))
        begins = self.starts[first:last] - start
        ends = np.append(begins[1:], n_rows)
        pairs = _pairs(columns)
        key: list[Piece] = [b"recent:{", columns.texts["user_id"].take(begins), b"}"]
        head = [b"*", decimals(2 + 2 * (ends - begins)), b"\r\n$4\r\nZADD\r\n", *_bulk(key)]
        tail = [
            b"*4\r\n$15\r\nZREMRANGEBYRANK\r\n", *_bulk(key), b"$1\r\n0\r\n", *_bulk([str(-limit - 1).encode()]),
            b"*3\r\n$6\r\nEXPIRE\r\n", *_bulk(key), *_bulk([str(ttl_s).encode()]),
        ]  # fmt: skip
        sizes = np.zeros(n_rows, np.int64) + lengths(pairs)
        head_bytes, tail_bytes = lengths(head), lengths(tail)
        sizes[begins] += head_bytes
        sizes[ends - 1] += tail_bytes
        row_ends = np.cumsum(sizes)
        row_starts = row_ends - sizes
        out = np.empty(int(row_ends[-1]), np.uint8)
        write(out, row_starts[begins], head)
        row_starts[begins] += head_bytes
        write(out, row_starts, pairs)
        write(out, row_ends[ends - 1] - tail_bytes, tail)
        return out


def _pairs(columns: Columns) -> list[Piece]:
    """Score and member of each row, as two bulk strings."""
    return [*_bulk([decimals(columns.numbers["epoch_ms"])]), *_bulk(member(columns))]


def member(columns: Columns) -> list[Piece]:
    """Compact JSON in the contract's order of keys."""
    names = ("video_id", "timestamp", "event_type", "device", "session_id", *own_texts(columns))
    pieces: list[Piece] = []
    for name in names:
        pieces += [f'{{"{name}":"'.encode() if not pieces else f'","{name}":"'.encode(), columns.texts[name]]
    pieces.append(b'"')
    for name, numbers in own_number_texts(columns).items():
        pieces += [f',"{name}":'.encode(), numbers]
    return [*pieces, b"}"]


def _bulk(pieces: Sequence[Piece]) -> list[Piece]:
    """A RESP bulk string. Its length is in bytes."""
    size = lengths(pieces)
    length = str(size).encode() if isinstance(size, int) else decimals(size)
    return [b"$", length, b"\r\n", *pieces, b"\r\n"]
