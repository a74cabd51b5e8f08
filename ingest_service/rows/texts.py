"""Columns of texts as bytes, and their concatenation row by row without a Python object a row.

A column is a buffer and a window into it for each row, so a repeated text (a user's UUID) is kept once. Rows whose
texts have the same widths are concatenated as a matrix and copied to their places: a dozen nanoseconds for a piece.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_service.rows.arrays import Ints
from ingest_service.rows.parse import SLICE_ROWS, Bytes


@dataclass(frozen=True, slots=True)
class Texts:
    """n texts in UTF-8: text i is `buffer[starts[i] : starts[i] + widths[i]]`. One width may stand for all."""

    buffer: Bytes
    starts: Ints
    widths: Ints | int

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        if not texts:
            return cls.of_bytes([])
        buffer = np.frombuffer("\n".join(texts).encode(), np.uint8)
        ends = np.append(np.flatnonzero(buffer == ord("\n")), len(buffer))
        if len(ends) != len(texts):  # a text holds a line end itself
            return cls.of_bytes([text.encode() for text in texts])
        starts = np.append(0, ends[:-1] + 1)
        return cls(buffer, starts, ends - starts)

    @classmethod
    def of_bytes(cls, texts: Sequence[bytes]) -> "Texts":
        widths = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(np.frombuffer(b"".join(texts), np.uint8), np.cumsum(widths) - widths, widths)

    @classmethod
    def constant(cls, text: str, n: int) -> "Texts":
        """One text n times, in no more memory than once."""
        data = text.encode()
        return cls(np.frombuffer(data, np.uint8), np.broadcast_to(np.zeros(1, np.int64), n), len(data))

    @classmethod
    def chained(cls, parts: Sequence["Texts"]) -> "Texts":
        """The rows of each after those of the one before; buffers that are one stay one."""
        buffers: list[Bytes] = []
        bases: dict[int, int] = {}
        for part in parts:
            if id(part.buffer) not in bases:
                bases[id(part.buffer)] = sum(map(len, buffers))
                buffers.append(part.buffer)
        starts = [part.starts + bases[id(part.buffer)] for part in parts]
        widths = [np.broadcast_to(np.asarray(part.widths, np.int64), len(part)) for part in parts]
        buffer = buffers[0] if len(buffers) == 1 else np.concatenate(buffers)
        return cls(buffer, np.concatenate(starts), np.concatenate(widths))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def are_one(self) -> bool:
        """Whether there are some, and all are plainly the same text."""
        if not len(self) or int(self.starts.min()) != int(self.starts.max()):
            return False
        return isinstance(self.widths, int) or int(self.widths.min()) == int(self.widths.max())

    @property
    def constant_bytes(self) -> bytes | None:
        """The text that was said to be the same in all rows."""
        is_constant = len(self) and self.starts.strides == (0,) and isinstance(self.widths, int)
        return self.raw(0) if is_constant else None

    def take(self, rows: Ints | slice) -> "Texts":
        if self.starts.strides == (0,) and len(self) and not isinstance(rows, slice):
            starts = np.broadcast_to(self.starts[:1], len(rows))
        else:
            starts = self.starts[rows]
        return Texts(self.buffer, starts, self.widths if isinstance(self.widths, int) else self.widths[rows])

    def raw(self, row: int) -> bytes:
        """One of them, as bytes."""
        start = int(self.starts[row])
        width = self.widths if isinstance(self.widths, int) else int(self.widths[row])
        return self.buffer[start : start + width].tobytes()

    def prefixes(self) -> NDArray[np.uint64]:
        """The first 8 bytes of each text as a number: these sort as the texts do, as far as they go."""
        if not len(self) or int(np.min(self.widths)) < 8:
            return np.zeros(len(self), np.uint64)
        return _windows(self.buffer, 8)[self.starts].view(">u8").astype(np.uint64)

    def to_list(self) -> list[str]:
        """As Python strings. Neighbours that share a window share the string."""
        runs = np.flatnonzero(np.append(True, self.starts[1:] != self.starts[:-1])) if len(self) else np.empty(0, int)
        if isinstance(self.widths, int) and 2 * len(runs) < len(self):
            distinct = np.array(self.take(runs)._decoded(), np.object_)
            shared: list[str] = np.repeat(distinct, np.diff(runs, append=len(self))).tolist()
            return shared
        return self._decoded()

    def _decoded(self) -> list[str]:
        joined = concatenate([self, b"\n"]).buffer.tobytes() if len(self) else b""
        if joined.count(b"\n") == len(self):  # no text holds one itself
            return joined.decode().split("\n")[:-1]
        ends = np.cumsum(np.broadcast_to(self.widths, len(self)) + 1).tolist()
        return [joined[start : end - 1].decode() for start, end in zip([0, *ends], ends, strict=False)]


Piece = bytes | Texts


def lengths(pieces: Sequence[Piece]) -> Ints | int:
    """The length of each row's concatenation, or one for all."""
    return sum((len(piece) if isinstance(piece, bytes) else piece.widths for piece in pieces), 0)


def concatenate(pieces: Sequence[Piece]) -> Texts:
    """Each row's pieces one after the other, and the rows one after the other in a buffer of their own."""
    n = next(len(piece) for piece in pieces if isinstance(piece, Texts))
    widths = lengths(pieces)
    ends = np.cumsum(np.broadcast_to(np.asarray(widths, np.int64), n))
    out = np.empty(int(ends[-1]) if n else 0, np.uint8)
    starts = ends - widths
    for first in range(0, n, SLICE_ROWS):
        rows = slice(first, first + SLICE_ROWS)
        parts = [piece if isinstance(piece, bytes) else piece.take(rows) for piece in pieces]
        if isinstance(widths, int):
            fill(out[first * widths : (first + SLICE_ROWS) * widths], parts)
        else:
            write(out, starts[rows], parts)
    return Texts(out, starts, widths)


def write(out: Bytes, at: Ints, pieces: Sequence[Piece]) -> None:
    """Write each row's concatenation into `out`, row i from position `at[i]` on. A bytes piece is in every row.

    Takes as much memory again as it writes, so many rows are better written in slices.
    """
    texts = [piece for piece in pieces if isinstance(piece, Texts)]
    for rows in _rows_by_shape(texts, len(at)):
        places = at[rows]
        parts = [piece if isinstance(piece, bytes) else piece.take(rows) for piece in pieces]
        width = sum(len(part) if isinstance(part, bytes) else _width(part) for part in parts) if len(places) else 0
        if width:
            made = np.empty(width * len(places), np.uint8)
            fill(made, parts)
            _windows(out, width)[places] = made.view(_void(width))


def fill(out: Bytes, pieces: Sequence[Piece]) -> None:
    """The same of rows one after the other whose texts are, in each piece, of one width."""
    parts = [_once(piece) for piece in pieces]
    template = b"".join(part if isinstance(part, bytes) else bytes(_width(part)) for part in parts)
    if not template:
        return
    matrix = out.view(_void(len(template)))
    matrix[:] = np.void(template)
    column = 0
    for part in parts:
        if isinstance(part, bytes):
            column += len(part)
        elif width := _width(part):
            matrix.getfield(_void(width), column)[:] = _windows(part.buffer, width)[part.starts]
            column += width


def _once(piece: Piece) -> Piece:
    """The bytes that are in every row, where they are told."""
    constant = None if isinstance(piece, bytes) else piece.constant_bytes
    return piece if constant is None else constant


def _rows_by_shape(texts: Sequence[Texts], n: int) -> Iterator[Ints | slice]:
    """The rows in groups of equal widths."""
    shape = np.zeros(n, np.int64)
    for widths in (text.widths for text in texts if not isinstance(text.widths, int)):
        if int(shape.max(initial=0)) >= 1 << 31:  # would not fit with another width on top
            shape = np.unique(shape, return_inverse=True)[1]
        shape = shape * (int(widths.max(initial=0)) + 1) + widths
    low, high = (int(shape.min()), int(shape.max())) if n else (0, 0)
    if low == high:
        yield slice(None)
        return
    small = shape.astype(np.uint16) if high < 1 << 16 else shape  # numpy sorts 16 bits by radix
    order = np.argsort(small, kind="stable")
    edges = np.flatnonzero(np.diff(shape[order])) + 1
    yield from np.split(order, edges)


def _width(texts: Texts) -> int:
    """The width of all these texts, which is the same."""
    return texts.widths if isinstance(texts.widths, int) else int(texts.widths[0])


def _windows(buffer: Bytes, width: int) -> NDArray[Any]:
    """All windows of a width into the buffer, as one overlapping array: index it by where they start."""
    return np.ndarray(max(len(buffer) - width + 1, 0), _void(width), buffer.data, 0, (1,))


@cache
def _void(width: int) -> np.dtype[np.void]:
    return np.dtype(f"V{width}")


_DIGITS = 4  # made at once
_ZEROS = (np.indices((10,) * _DIGITS, np.uint8).reshape(_DIGITS, -1).T + np.uint8(ord("0"))).copy().view(f"V{_DIGITS}")
_ZEROS = _ZEROS.reshape(-1)  # `0000` to `9999`
_PER_GROUP = np.uint64(10**_DIGITS)
_POWERS = 10 ** np.arange(1, 20, dtype=np.uint64)


def decimals(values: Ints) -> Texts:
    """int64[n] as decimal text."""
    is_signed = int(values.min(initial=0)) < 0
    rest = (np.abs(values) if is_signed else values).view(np.uint64)  # abs(-2**63), itself, reads right unsigned
    widths = _digits(rest)
    room = _room(values)
    table = np.empty((len(values), room // _DIGITS), _void(_DIGITS))
    for group in range(table.shape[1] - 1, 1, -1):
        higher = rest // _PER_GROUP  # with what follows a third of what divmod costs
        table[:, group] = _ZEROS[(rest - higher * _PER_GROUP).view(np.int64)]
        rest = higher
    table[:, 1] = _ZEROS[rest.view(np.int64)]
    buffer: Bytes = table.view(np.uint8).reshape(-1)
    starts = np.arange(1, len(values) + 1) * room - widths
    if is_signed:
        negative = values < 0
        buffer[starts[negative] - 1] = ord("-")
        starts = starts - negative
        widths = widths + negative.astype(np.int64)
    return Texts(buffer, starts, widths)


def _digits(numbers: NDArray[np.uint64]) -> Ints | int:
    """How many digits each number has, or all of them."""
    fewest, most = (len(str(int(edge))) for edge in (numbers.min(), numbers.max())) if len(numbers) else (1, 1)
    if fewest == most:
        return most
    digits = np.full(len(numbers), fewest)
    for power in _POWERS[fewest - 1 : most - 1]:
        digits += numbers >= power
    return digits


def _room(values: Ints) -> int:
    """In how many bytes the text of each has room, in whole groups: the first is for its sign."""
    most = max(int(values.max(initial=0)), -int(values.min(initial=0)))
    return (1 - (-len(str(most)) // _DIGITS)) * _DIGITS


def numbered(prefix: bytes, numbers: Ints, *rest: Piece) -> Texts:
    """A prefix, a number in decimal and pieces of one width each, with unused bytes between the rows.

    Numbers differ in width: here each ends where its row has the rest, and the prefix is put before it.
    """
    n, head, tail = len(numbers), len(prefix) + _room(numbers), lengths(rest)
    assert isinstance(tail, int)
    out = np.empty((n, head + tail), np.uint8)
    buffer = out.reshape(-1)
    ends = np.arange(1, n + 1) * (head + tail)
    widths = np.empty(n, np.int64)
    for first in range(0, n, SLICE_ROWS):
        rows = slice(first, first + SLICE_ROWS)
        digits = decimals(numbers[rows])
        room = len(digits.buffer) // len(digits)
        out[rows, head - room : head] = digits.buffer.reshape(-1, room)
        write(buffer, ends[rows] - tail, [piece if isinstance(piece, bytes) else piece.take(rows) for piece in rest])
        widths[rows] = digits.widths + (len(prefix) + tail)
        write(buffer, ends[rows] - widths[rows], [prefix])
    return Texts(buffer, ends - widths, widths)


def raws(pieces: Sequence[Piece]) -> list[bytes]:
    """Each row's concatenation as Python's bytes, for what is in no hurry."""
    texts = concatenate(pieces)
    data = texts.buffer.tobytes()
    ends = np.cumsum(np.broadcast_to(texts.widths, len(texts))).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
