"""The one place where readers are opened."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError
from ingest_service.formats.base import Reader, Rows
from ingest_service.formats.kept_past import KeptPast
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
    past: Path | None = None,
) -> Reader[Any]:
    """The reader of a source, before its first row; `limit` bounds the rows, `columns` names the user's own by role.

    past: the folder in which is kept what features need of the rows before, so that another run need not find it again.
    Blocks the caller. ConfigurationError if the source has no such rows, SourceNotFound if there is none.
    """
    kind = _reader_of(dataset)
    if dataset.bare is None:
        return kind(source, dataset, columns=columns, limit=limit, block_bytes=block_bytes)
    reread = partial(kind, source, dataset.bare, columns=columns, limit=None, block_bytes=block_bytes)
    found = PastOfSource(dataset, reread)
    reader = kind(source, replace(dataset, past=found), columns=columns, limit=limit, block_bytes=block_bytes)
    of = json.dumps([dataset.steps, reader.rows.recipe, dict(columns or {})])
    found.begin(reader.first, KeptPast(past, of) if past else None)
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
