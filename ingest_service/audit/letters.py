"""Dead letters read as rows of their source again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.errors import RowError
from ingest_service.formats.base import Rows, RowValues
from ingest_service.pipeline import dead_letter
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.rows.columns import Values
from ingest_service.rows.texts import Texts

Letter = dict[str, Any]


def chunk_of_letters(letters: Sequence[Letter], rows: Rows) -> tuple[Chunk, list[int], list[tuple[int, RowError]]]:
    """A chunk of those letters that are rows of the source, and their indices; the others with what is wrong.

    `offsets` of the chunk tell its rows apart; they are no offsets of the source.
    """
    indices: list[int] = []
    values: list[list[Any]] = []
    refused: list[tuple[int, RowError]] = []
    raws: list[bytes] = []
    for index, letter in enumerate(letters):
        raw = dead_letter.raw_of(letter)
        row = _passed(rows.row(raw), rows.dataset)
        if isinstance(row, RowError):
            refused.append((index, row))
        else:
            indices += [index] * len(row)
            values += row
            raws += [raw] * len(row)
    by_role = _by_role(values, rows.dataset)
    n = len(indices)
    lines = np.array([letters[index]["line"] for index in indices], np.int64)
    columns = rows.dataset.records(by_role)
    return Chunk(Position(), Position(n, n, n), columns, np.arange(n), lines, Texts.of_bytes(raws)), indices, refused


def _passed(row: RowValues | RowError, dataset: Dataset) -> RowValues | RowError:
    """The row, unless a filter of the data set passes it over: then it stays a letter, and says so."""
    if dataset.chosen is None or isinstance(row, RowError):
        return row
    _, wanted = dataset.chosen(_by_role(row, dataset))
    if wanted.all():
        return row
    return RowError("validate", "filtered", "It is a row now, and a filter of the data set passes it over.")


def _by_role(values: RowValues, dataset: Dataset) -> dict[str, Values]:
    return {
        column.role: column.kind.gathered([row[number] for row in values])
        for number, column in enumerate(dataset.columns)
    }
