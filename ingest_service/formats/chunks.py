"""A block turned into a chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.errors import RowError
from ingest_service.formats.base import Block, RowValues
from ingest_service.formats.lines import Lines
from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.chunk import Chunk, DeadRow, Raws
from ingest_service.rows.columns import Values, chained, taken
from ingest_service.rows.texts import Texts


@dataclass(frozen=True, slots=True)
class TextBlock(Block):
    """`data`, in UTF-8, may go on beyond the last of the rows. `offsets`: int64[n], where each row stood in the source.

    refused: why the only row of the block is none, where the reader itself refuses it.
    """

    data: bytes
    lines: Lines
    offsets: Ints
    refused: RowError | None = None

    def raw(self, index: int) -> bytes:
        return self.data[self.lines.starts[index] : self.lines.ends[index]]

    @property
    def places(self) -> "Places":
        starts, widths = self.lines.starts, self.lines.ends - self.lines.starts
        raws = Texts(np.frombuffer(self.data, np.uint8), starts, widths)
        return Places(self.offsets, self.start.line + self.lines.lines + 1, raws)


@dataclass(frozen=True, slots=True)
class Places:
    """Of n rows the offset, the number of the line, and how they stood in the source."""

    offsets: Ints
    lines: Ints
    raws: Raws


@dataclass(frozen=True, slots=True)
class Plain:
    """The records of those rows of a block that are surely right.

    rows: int64[m], each record's row, ascending; values: a column each; is_right: bool[n], of each row.
    """

    rows: Ints
    values: list[Values]
    is_right: Bools


def chunk_of(
    block: Block,
    places: Places,
    dataset: Dataset,
    plain: Plain | None,
    specify: Callable[[int], RowValues | RowError],
) -> Chunk:
    """The records of rows that are plainly right, and of those others that are right by the specification."""
    parts = [(plain.rows, plain.values)] if plain is not None else []
    is_right = plain.is_right.copy() if plain is not None else np.zeros(len(places.offsets), np.bool_)
    rejects: list[DeadRow] = []
    others: list[tuple[int, list[Any]]] = []
    for index in np.flatnonzero(~is_right).tolist():
        result = specify(index)
        if isinstance(result, RowError):
            raw = places.raws.raw(index)
            line = int(places.lines[index])
            rejects.append(DeadRow(int(places.offsets[index]), line, raw, result.stage, result.code, result.reason))
        else:
            is_right[index] = True
            others += [(index, values) for values in result]
    if others or not parts:
        kinds = [column.kind for column in dataset.columns]
        gathered = [kind.gathered([values[i] for _, values in others]) for i, kind in enumerate(kinds)]
        parts.append((np.array([index for index, _ in others], np.int64), gathered))
    rows, values = _in_order(parts)
    # Most blocks are right as a whole: their places are taken as they are, without a copy.
    where = slice(None) if is_right.all() and not dataset.has_many_a_row else rows
    by_role = {column.role: one for column, one in zip(dataset.columns, values, strict=True)}
    columns, wanted = dataset.chosen(by_role) if dataset.chosen else (dataset.records(by_role), None)
    chunk = Chunk(
        block.start,
        block.end,
        columns,
        places.offsets[where],
        places.lines[where],
        places.raws.take(where),
        rejects,
        is_unended=block.is_unended,
        row_offsets=places.offsets[is_right] if dataset.has_many_a_row else None,
    )
    chunk = chunk if wanted is None or wanted.all() else chunk.filtered_to(wanted)
    return chunk if dataset.past is None else dataset.past.told(chunk)


def _in_order(parts: Sequence[tuple[Ints, list[Values]]]) -> tuple[Ints, list[Values]]:
    """Which rows there are, and their values by column, out of parts that have some rows each."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part for part, _ in parts])
    order = np.argsort(rows, kind="stable")
    columns = zip(*(values for _, values in parts), strict=True)
    return rows[order], [taken(chained(column), order) for column in columns]
