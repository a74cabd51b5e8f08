"""The one place where readers are opened."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError
from ingest_service.formats.base import Reader, Rows
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.formats.past import PastOfSource
from ingest_service.runtime.plugins import registered
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
    kind = _reader_of(dataset)
    if dataset.bare is None:
        return kind(source, dataset, columns=columns, limit=limit, block_bytes=block_bytes)
    reread = partial(kind, source, dataset.bare, columns=columns, limit=None, block_bytes=block_bytes)
    past = PastOfSource(dataset, reread)
    reader = kind(source, replace(dataset, past=past), columns=columns, limit=limit, block_bytes=block_bytes)
    past.begin(reader.first)
    return reader


def rows_of(dataset: Dataset, recipe: str, columns: Mapping[str, str] | None = None) -> Rows:
    """What reads the rows of a source that had this recipe, one by one and without the source."""
    return _reader_of(dataset).rows_of(dataset, recipe, columns)


def _reader_of(dataset: Dataset) -> type[Reader[Any]]:
    known = registered("formats")
    name = dataset.form.format
    if name not in known:
        raise ConfigurationError(f"There is no format {name!r}; choose from: {', '.join(sorted(known))}.")
    reader: type[Reader[Any]] = known[name].load()
    return reader
