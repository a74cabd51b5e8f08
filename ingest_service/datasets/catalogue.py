"""What is known by name: the data sets of packages, and the presets."""

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


def published_as(dataset: Dataset, rows: int) -> str:
    """The name of the published file that has so many rows. NotAsPublished if none has, or no size is known."""
    known = dataset.about.rows
    for name, published in known.items():
        if published == rows:
            return name
    if not known:
        raise NotAsPublished(f"How many rows {dataset.name} was published with is not known here.")
    sizes = ", ".join(f"{name} has {published:,}" for name, published in known.items())
    raise NotAsPublished(f"The source has {rows:,} rows, and was published with others: {sizes}.")
