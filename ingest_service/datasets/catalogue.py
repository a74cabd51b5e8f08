"""What is known by name: the data sets of packages, and the presets."""

from collections.abc import Callable
from typing import Any

from ingest_service.datasets import dataset_named, dataset_names
from ingest_service.datasets.base import Dataset
from ingest_service.datasets.presets import preset_names
from ingest_service.errors import NotAsPublished


def known_datasets() -> list[dict[str, Any]]:
    """Each with its name, title, description, format, columns, published sizes and page. Blocks."""
    return [_described(name) for name in (*sorted(dataset_names()), *preset_names())]


def _described(name: str) -> dict[str, Any]:
    dataset = dataset_named(name)
    about = dataset.about
    return {
        "name": name,
        "title": about.title,
        "description": about.description,
        "format": dataset.form.format,
        "columns": [column.role for column in dataset.columns],
        "rows": dict(about.rows),
        "homepage": about.homepage,
    }


def published_as(dataset: Dataset, rows: int, sha256: Callable[[], str]) -> str:
    """As which published file a source is, which has so many rows. NotAsPublished if as none.

    Its `sha256`, in hexadecimal, is asked for where that of the published file is known.
    """
    known = dataset.about.rows
    for name, published in known.items():
        if published == rows:
            wanted = dataset.about.sha256.get(name)
            if wanted is None:
                return f"{name} by the number of its rows"
            if wanted != sha256():
                reason = "but its SHA-256 is another: a corrected, reordered or differently written file"
                raise NotAsPublished(f"The source has as many rows as {name}, {rows:,}, {reason}.")
            return f"{name} byte for byte"
    if not known:
        raise NotAsPublished(f"How many rows {dataset.name} was published with is not known here.")
    sizes = ", ".join(f"{name} has {published:,}" for name, published in known.items())
    raise NotAsPublished(f"The source has {rows:,} rows, and was published with others: {sizes}.")
