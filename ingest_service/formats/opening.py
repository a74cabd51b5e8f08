"""The one place where readers are opened."""

from collections.abc import Mapping
from typing import Any

from ingest_service.datasets.base import Dataset
from ingest_service.formats.base import Reader, Rows
from ingest_service.formats.delimited.layout import bind, bind_by_place
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.sources.base import Source


def open_reader(
    source: Source,
    dataset: Dataset,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Reader[Any]:
    """The reader of a source, before its first row; `limit` bounds the rows, `columns` names the user's own by role.

    Blocks the caller. ConfigurationError if the source has no such rows, SourceNotFound if there is none.
    """
    return DelimitedReader(source, dataset, columns=columns, limit=limit, block_bytes=block_bytes)


def rows_of(dataset: Dataset, recipe: str, columns: Mapping[str, str] | None = None) -> Rows:
    """What reads the rows of a source that had this recipe, one by one and without the source."""
    return bind(dataset, recipe.encode(), columns) if dataset.form.header else bind_by_place(dataset, columns)
