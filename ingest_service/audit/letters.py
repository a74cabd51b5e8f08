"""Dead letters read as rows of their source again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ingest_service.errors import RowError
from ingest_service.formats.base import Rows
from ingest_service.pipeline import dead_letter
from ingest_service.rows.chunk import Chunk, Position

Letter = dict[str, Any]


def chunk_of_letters(letters: Sequence[Letter], rows: Rows) -> tuple[Chunk, list[int], list[tuple[int, RowError]]]:
    """A chunk of those letters that are rows of the source, and their indices; the others with what is wrong.

    `starts` of the chunk tell its rows apart; they are no offsets of the source.
    """
    indices: list[int] = []
    values: list[list[Any]] = []
    refused: list[tuple[int, RowError]] = []
    raws: list[bytes] = []
    for index, letter in enumerate(letters):
        raw = dead_letter.raw_of(letter)
        row = rows.row(raw)
        if isinstance(row, RowError):
            refused.append((index, row))
        else:
            indices.append(index)
            values.append(row)
            raws.append(raw)
    by_role = {
        column.role: column.kind.gathered([row[number] for row in values])
        for number, column in enumerate(rows.dataset.columns)
    }
    ends = np.cumsum([len(raw) + 1 for raw in raws], dtype=np.int64)
    starts = ends - np.array([len(raw) + 1 for raw in raws], np.int64)
    lines = np.array([letters[index]["line"] for index in indices], np.int64)
    data = b"".join(raw + b"\n" for raw in raws)
    end = Position(len(data), len(indices), len(indices))
    return Chunk(Position(), end, data, 0, rows.dataset.records(by_role), starts, ends - 1, lines), indices, refused
