"""A block of delimited text turned into a chunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingest_service.errors import RowError
from ingest_service.formats.base import Block
from ingest_service.formats.delimited.layout import Layout, specify
from ingest_service.formats.delimited.records import Records, scan_record
from ingest_service.rows.arrays import Ints
from ingest_service.rows.chunk import Chunk, DeadRow
from ingest_service.rows.columns import Values, chained, taken


@dataclass(frozen=True, slots=True)
class DelimitedBlock(Block):
    """`data` begins at `start.offset`, and may go on beyond the last of the records."""

    data: bytes
    records: Records


def chunk_of(block: DelimitedBlock, layout: Layout) -> Chunk:
    """Typed columns for the rows that are plainly right; the specification decides on each of the others."""
    records = block.records
    is_other = np.ones(len(records), np.bool_)
    parts: list[tuple[Ints, list[Values]]] = []
    if len(records.plain):
        plain, valid = layout.columns(block.data, records)
        rows = records.plain if valid.all() else records.plain[valid]
        parts.append((rows, plain if valid.all() else [taken(values, np.flatnonzero(valid)) for values in plain]))
        is_other[rows] = False
    rejects: list[DeadRow] = []
    others: dict[int, list[Any]] = {}
    for index in np.flatnonzero(is_other).tolist():
        result = specify(fields_of(block, index, layout), layout)
        if isinstance(result, RowError):
            rejects.append(_dead_row(block, index, result))
        else:
            others[index] = result
    if others or not parts:
        kinds = [column.kind for column in layout.dataset.columns]
        columns = [kind.gathered([row[i] for row in others.values()]) for i, kind in enumerate(kinds)]
        parts.append((np.array(list(others), np.int64), columns))
    accepted, values = _in_order(parts)
    by_role = {column.role: one for column, one in zip(layout.dataset.columns, values, strict=True)}
    return Chunk(
        block.start,
        block.end,
        block.data,
        block.start.offset,
        layout.dataset.records(by_role),
        records.starts[accepted],
        records.ends[accepted],
        block.start.line + records.lines[accepted] + 1,
        rejects,
        is_unended=block.is_unended,
    )


def _in_order(parts: Sequence[tuple[Ints, list[Values]]]) -> tuple[Ints, list[Values]]:
    """Which rows there are, and their values by column, out of parts that have some rows each."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part for part, _ in parts])
    order = np.argsort(rows)
    columns = zip(*(values for _, values in parts), strict=True)
    return rows[order], [taken(chained(column), order) for column in columns]


def _dead_row(block: DelimitedBlock, index: int, error: RowError) -> DeadRow:
    start, end = int(block.records.starts[index]), int(block.records.ends[index])
    line = block.start.line + int(block.records.lines[index]) + 1
    return DeadRow(block.start.offset + start, line, block.data[start:end], error.stage, error.code, error.reason)


def fields_of(block: DelimitedBlock, index: int, layout: Layout) -> list[str] | RowError:
    """The fields of one record as text, by the specification; or why it is refused."""
    records = block.records
    if index in records.scanned:
        return records.scanned[index]
    raw = block.data[records.starts[index] : records.ends[index]]
    # With its line end again: without, a CR that ends the last field would be taken for one.
    record = scan_record(raw + b"\r\n", 0, layout.dialect, eof=True)
    assert record is not None and record.fields is not None, "a plain record is whole and not blank"
    return record.fields
