"""Arrow's columns as ours, many at once, and its rows as objects that the specification of JSON reads.

A time is the text of its instant, in UTC where it has no zone; a number that is none (NaN) is nothing, like null; bytes
are text; the rest is as in JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest_service.datasets.base import Column
from ingest_service.datasets.kinds import Epoch, Integer, Kind, Number, Time, Whole
from ingest_service.errors import RowError
from ingest_service.formats.base import RowValues
from ingest_service.formats.chunks import Plain
from ingest_service.formats.jsonl.specification import values_of
from ingest_service.formats.paths import Paths
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.columns import Values, taken
from ingest_service.rows.interaction import END_S, EPOCH, timestamp_text, within_range
from ingest_service.rows.parse import are_utf8
from ingest_service.rows.texts import Texts

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1, "day": 86_400 * 10**9}


# --- the specification: row by row ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """Rows of a batch; each stood in the source as no text, so it is the JSON of what is read of it."""

    batch: "RecordBatch"
    rows: Ints

    def raw(self, row: int) -> bytes:
        found = object_at(self.batch, int(self.rows[row]))
        return json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def take(self, rows: Ints | slice) -> "ArrowRows":
        return ArrowRows(self.batch, self.rows[rows])


def object_at(batch: "RecordBatch", index: int) -> dict[str, Any]:
    """One row, as JSON would have it."""
    return {name: _as_json(batch.column(name)[index]) for name in batch.schema.names}


def specify(row: dict[str, Any], columns: Sequence[Column], paths: Paths) -> RowValues | RowError:
    """The records of one row, or why it is refused."""
    try:
        return values_of(row, columns, paths)
    except RowError as error:
        return error


def _as_json(scalar: Any) -> Any:
    import pyarrow as pa

    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_dictionary(kind):
        return _as_json(scalar.value)
    if pa.types.is_struct(kind):
        return {field.name: _as_json(scalar[field.name]) for field in kind}
    if pa.types.is_nested(kind):
        return [_as_json(inner) for inner in scalar.values]
    if is_moment(kind):
        return _moment_text(scalar.value, _unit(kind))
    if pa.types.is_floating(kind):
        number = float(scalar.as_py())
        return None if number != number else repr(number)
    if _is_text(kind):
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    return scalar.as_py() if pa.types.is_boolean(kind) or pa.types.is_integer(kind) else str(scalar.as_py())


def _moment_text(value: int, unit: str) -> str:
    """An instant as it is stored; one that cannot be is a text that is no time."""
    try:
        return timestamp_text(EPOCH + timedelta(microseconds=within_range(value * _UNIT_NS[unit] // 1_000, "")))
    except RowError:
        return f"{value} {unit} from 1970 on"


def _unit(kind: Any) -> str:
    import pyarrow as pa

    return "day" if kind == pa.date32() else "ms" if kind == pa.date64() else str(kind.unit)


def is_moment(kind: Any) -> bool:
    """Whether a type of Arrow is an instant or a day."""
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    known = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(), pa.binary_view())
    return kind in known or bool(pa.types.is_fixed_size_binary(kind))


# --- many at once -----------------------------------------------------------------------------------


class ArrowColumns:
    """Reads the columns of a data set, each at its path."""

    def __init__(self, columns: Sequence[Column], paths: Paths) -> None:
        self._columns = columns
        self._paths = paths

    def plain(self, batch: "RecordBatch") -> Plain:
        """The records of all rows that are surely right."""
        import pyarrow.compute as pc

        is_right = np.ones(batch.num_rows, np.bool_)
        rows: Ints = np.arange(batch.num_rows)
        elements: Any = None
        if self._paths.each is not None:
            lists = _at(batch, self._paths.each)
            is_right = ~_numpy(pc.is_null(lists)).astype(np.bool_)
            rows = _numpy(pc.list_parent_indices(lists)).astype(np.int64)
            elements = pc.list_flatten(lists)
        values: list[Values] = []
        for column, path, is_inner in zip(self._columns, self._paths.of, self._paths.is_inner, strict=True):
            one, good = _values(_below(elements, path) if is_inner else _at(batch, path), column.kind)
            if is_inner:
                is_right[rows[~good]] = False
            else:
                is_right &= good
                one = one if self._paths.each is None else taken(one, rows)
            values.append(one)
        if is_right.all():
            return Plain(rows, values, is_right)
        keep = np.flatnonzero(is_right[rows])
        return Plain(rows[keep], [taken(one, keep) for one in values], is_right)


def _at(batch: "RecordBatch", path: Sequence[str]) -> "Array":
    return _below(batch.column(path[0]), path[1:])


def _below(array: Any, path: Sequence[str]) -> "Array":
    for name in path:
        array = array.flatten()[array.type.get_field_index(name)]  # null where what holds it is
    return array


def _values(array: Any, kind: Kind) -> tuple[Values, Bools]:
    """An array of Arrow as a column, and which values are surely right."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = array.cast(pa.float64())
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, pa.float64()), array)
        is_known = isinstance(kind, Number | Whole | Integer | Time | Epoch)
    else:
        is_known = _is_text(array.type) or pa.types.is_boolean(array.type) or pa.types.is_decimal(array.type)
    if pa.types.is_integer(array.type):
        if not array.null_count and array.type != pa.uint64():
            return kind.whole(_numpy(array).astype(np.int64))
        is_known = True
    if is_moment(array.type) and isinstance(kind, Time):
        return _moments(array)
    if not is_known:
        return kind.texts(Texts.constant("", len(array)))[0], np.zeros(len(array), np.bool_)
    texts = _as_texts(array)
    values, good = kind.texts(texts)
    return values, good & are_utf8(texts.buffer.tobytes(), texts.starts, texts.starts + texts.widths)


def _moments(array: Any) -> tuple[Values, Bools]:
    """Times as microseconds. The cast of one that is far away is not believed."""
    import pyarrow as pa

    unit_ns = _UNIT_NS[_unit(array.type)]
    counted = array.cast(pa.int32() if array.type == pa.date32() else pa.int64()).fill_null(-1)
    numbers = _numpy(counted).astype(np.int64)
    good = (numbers >= 0) & (numbers < END_S * 10**9 // unit_ns)
    numbers = np.where(good, numbers, 0)
    return numbers * (unit_ns // 1_000) if unit_ns >= 1_000 else numbers // 1_000, good


def _as_texts(array: Any) -> Texts:
    import pyarrow as pa

    if not _is_text(array.type):
        array = array.cast(pa.string())
    array = array.cast(pa.large_binary()).fill_null(b"")
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    low = int(bounds[0]) if len(bounds) else 0
    size = int(bounds[-1]) - low if len(bounds) else 0
    buffer = np.frombuffer(data, np.uint8, size, low) if size else np.empty(0, np.uint8)
    return Texts(buffer, bounds[:-1] - low, np.diff(bounds))


def _numpy(array: Any) -> Any:
    return array.to_numpy(zero_copy_only=False)
