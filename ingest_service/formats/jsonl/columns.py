"""Lines of JSON as columns, many at once. What is not plainly right is left to the specification.

msgspec parses a line into slots for the wanted values alone, and passes over the rest of it (but checks that it is
JSON): eight times as fast as json.loads, and the same values, which the fuzzer compares.
"""

import re
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from ingest_service.datasets.base import Column
from ingest_service.datasets.kinds import Kind
from ingest_service.formats.chunks import Plain, TextBlock
from ingest_service.formats.jsonl.specification import MAX_DEPTH, Fraction
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.formats.paths import Paths
from ingest_service.rows import parse
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Values, chained, taken
from ingest_service.rows.texts import Texts

_NO_SLOT = re.compile(r'[\x00-\x1f"\\]')
_BETWEEN = np.uint8(ord("{") ^ ord("["))  # the one bit in which they differ
_LOOKED_AT = 40  # lines at once: few of them nest so much, even together
_ITSELF = (None,)  # a row that is one record
_LITERALS = {None: "", True: "true", False: "false"}
_PLACES = {literal: place for place, literal in enumerate(_LITERALS)}


class _TextNeeded(Exception):
    """A number that is not whole must be looked at as it is written."""


class JsonColumns:
    """Reads the columns of a data set, each at its path."""

    def __init__(self, columns: Sequence[Column], paths: Paths) -> None:
        self._columns = columns
        self._paths = paths
        self._needs_texts = False  # of numbers that are not whole: some column here goes by how they are written

    @property
    def can_be_slots(self) -> bool:
        """Whether msgspec takes the names, and no path leads on from where another ends."""
        outer: set[tuple[str, ...]] = {self._paths.each} if self._paths.each else set()
        inner: set[tuple[str, ...]] = set()
        for path, is_inner in zip(self._paths.of, self._paths.is_inner, strict=True):
            (inner if is_inner else outer).add(path)
        if any(path[:end] in paths for paths in (outer, inner) for path in paths for end in range(len(path))):
            return False
        return not any(_NO_SLOT.search(name) for path in (*outer, *inner) for name in path)

    def plain(self, block: TextBlock) -> Plain:
        """The records of all rows that are surely right, worked on in slices: objects of Python take memory."""
        n = len(block.lines)
        is_right = np.zeros(n, np.bool_)
        candidates = np.flatnonzero(_may_be_right(block))
        rows: list[Ints] = []
        values: list[list[Values]] = [[] for _ in self._columns]
        for first in range(0, max(len(candidates), 1), parse.SLICE_ROWS):
            some = candidates[first : first + parse.SLICE_ROWS]
            lines = _lines(block, some)
            try:
                record_rows, columns, good = self._records(some, lines)
            except _TextNeeded:
                self._needs_texts = True
                record_rows, columns, good = self._records(some, lines)
            is_right[some] = good
            rows.append(record_rows)
            for found, column in zip(values, columns, strict=True):
                found.append(column)
        return Plain(np.concatenate(rows), [chained(one) if len(one) > 1 else one[0] for one in values], is_right)

    def _records(self, rows: Ints, lines: Sequence[bytes]) -> tuple[Ints, list[Values], Bools]:
        """Of some rows: each record's row and the columns of these, and which of the rows are surely right."""
        decoded, are_all = _decoded(self._decode_texts if self._needs_texts else self._decode, lines)
        lists = self._lists(decoded, are_all=are_all)
        sizes = _sizes(lists, len(rows))
        good = sizes >= 0
        is_usual = bool((sizes == 1).all())
        objects = decoded if is_usual else [one for one, size in zip(decoded, sizes.tolist(), strict=True) if size > 0]
        of = np.repeat(np.arange(len(rows)), np.maximum(sizes, 0))
        elements = list(chain.from_iterable(filter(None, lists))) if lists is not None and self._paths.each else objects
        repeats = sizes[sizes > 0]
        columns: list[Values] = []
        valid = np.ones(len(of), np.bool_)
        for number, column in enumerate(self._columns):
            is_inner = self._paths.is_inner[number]
            found = _reached(self._paths.of[number], elements if is_inner else objects)
            values, right = values_of(found, column.kind)
            if self._paths.each and not is_inner:
                index = np.repeat(np.arange(len(objects)), repeats)
                values, right = taken(values, index), right[index]
            columns.append(values)
            valid &= right
        if not valid.all():
            good[of[~valid]] = False
            keep = np.flatnonzero(good[of])
            of, columns = of[keep], [taken(values, keep) for values in columns]
        return rows[of], columns, good

    # --- how a line is decoded --------------------------------------------------------------------

    @cached_property
    def _decode(self) -> Callable[[bytes], Any]:
        import msgspec

        decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._row).decode
        return decode

    @cached_property
    def _decode_texts(self) -> Callable[[bytes], Any]:
        import msgspec

        decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._row, float_hook=Fraction).decode
        return decode

    @cached_property
    def _row(self) -> Any:
        inner = [path for path, is_inner in zip(self._paths.of, self._paths.is_inner, strict=True) if is_inner]
        outer = [path for path, is_inner in zip(self._paths.of, self._paths.is_inner, strict=True) if not is_inner]
        leaves: dict[tuple[str, ...], Any] = dict.fromkeys(outer, Any)
        if self._paths.each is not None:
            leaves[self._paths.each] = list[Any if () in inner else _struct(dict.fromkeys(inner, Any))] | None  # type: ignore[misc]
        return _struct(leaves)

    def _lists(self, rows: Sequence[Any], *, are_all: bool) -> Sequence[Sequence[Any] | None] | None:
        """The records of each row, None where the specification must tell; None at all where each row is just one."""
        if self._paths.each is None:
            return None if are_all else [None if row is None else _ITSELF for row in rows]
        found = _reached(self._paths.each, [row for row in rows if row is not None])
        left = iter(found)
        return [None if row is None else next(left) for row in rows]


def _sizes(lists: Sequence[Sequence[Any] | None] | None, n: int) -> Ints:
    """How many records each row is, -1 where that is not known here."""
    if lists is None:
        return np.ones(n, np.int64)
    return np.array([-1 if one is None else len(one) for one in lists], np.int64)


def _struct(leaves: dict[tuple[str, ...], Any]) -> Any:
    """A class with a slot for each path; what is not there is None."""
    import msgspec

    names = list(dict.fromkeys(path[0] for path in leaves))
    fields = []
    for name in names:
        below = {path[1:]: kind for path, kind in leaves.items() if path[0] == name}
        kind = below[()] if () in below else _struct(below) | None
        fields.append((_slot(name), kind, None))
    return msgspec.defstruct("Row", fields, rename={_slot(name): name for name in names}, gc=False)


def _slot(name: str) -> str:
    return "n" + name.encode().hex()


def _reached(path: Sequence[str], objects: Sequence[Any]) -> Sequence[Any]:
    for depth, name in enumerate(path):
        get = attrgetter(_slot(name))
        has_gaps = depth and None in objects
        objects = [None if one is None else get(one) for one in objects] if has_gaps else list(map(get, objects))
    return objects


def _decoded(decode: Callable[[bytes], Any], lines: Sequence[bytes]) -> tuple[Sequence[Any], bool]:
    """Each line as an object, or None where it cannot be decoded; and whether all could be."""
    import msgspec

    try:
        return list(map(decode, lines)), True
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return [_decoded_or_none(decode, line) for line in lines], False


def _decoded_or_none(decode: Callable[[bytes], Any], line: bytes) -> Any:
    import msgspec

    try:
        return decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


def _may_be_right(block: TextBlock) -> Bools:
    """The rows that are UTF-8, and short enough."""
    lines = block.lines
    good: Bools = lines.ends - lines.starts <= MAX_RECORD_BYTES
    return good & parse.are_utf8(block.data, lines.starts, lines.ends)


def _lines(block: TextBlock, rows: Ints) -> list[bytes]:
    """The rows as they stand in the block; nothing in place of one that may be nested deep."""
    data, starts, ends = block.data, block.lines.starts[rows].tolist(), block.lines.ends[rows].tolist()
    lines = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    buffer = np.frombuffer(data, np.uint8)
    for first in range(0, len(lines), _LOOKED_AT):
        some = slice(first, first + _LOOKED_AT)
        start, end = starts[first], ends[some][-1]
        if np.count_nonzero((buffer[start:end] | _BETWEEN) == ord("{")) > MAX_DEPTH:
            lines[some] = [b"" if one.count(b"{") + one.count(b"[") > MAX_DEPTH else one for one in lines[some]]
    return lines


def values_of(found: Sequence[Any], kind: Kind) -> tuple[Values, Bools]:
    """What JSON holds as a column, and which values are surely right."""
    types = set(map(type, found))
    if types == {int}:
        try:
            return kind.whole(np.array(found, np.int64))
        except OverflowError:
            pass
    if float in types:
        return _reals(found, types, kind)
    if types <= {bool, type(None)}:
        values, valid = kind.texts(Texts.of(list(_LITERALS.values())))
        which = np.fromiter(map(_PLACES.__getitem__, found), np.int64, len(found))
        return taken(values, which), valid[which]
    good = np.ones(len(found), np.bool_)
    if not types <= {str, Fraction}:
        texts = [_text(value) for value in found]
        good = np.array([text is not None for text in texts], np.bool_)
        found = ["" if text is None else text for text in texts]
    values, valid = kind.texts(Texts.of(found))
    return values, valid & good


def _reals(found: Sequence[Any], types: Set[type], kind: Kind) -> tuple[Values, Bools]:
    with suppress(OverflowError):
        if types <= {float, int} and (values := kind.reals(np.array(found, np.float64))) is not None:
            return values, np.ones(len(found), np.bool_)
    raise _TextNeeded


def _text(value: Any) -> str | None:
    """A value as text, or None where the specification must tell."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return _LITERALS[value] if isinstance(value, bool) else str(value)
    return "" if value is None else None
