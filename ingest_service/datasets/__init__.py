"""The data sets by name: those of packages (entry-point group `ingest_service.datasets`), presets, schema files."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.presets import preset_names, preset_path
from ingest_service.errors import ConfigurationError
from ingest_service.runtime.plugins import registered


def dataset_names() -> Collection[str]:
    """Of packages."""
    return registered("datasets").keys()


def is_schema_file(name: str) -> bool:
    """Whether a data set's name is the path of one."""
    return name.endswith((".yaml", ".yml", ".json"))


def dataset_described_by(path: Path) -> Dataset:
    """ConfigurationError says what is wrong with the schema file. Blocks."""
    from ingest_service.datasets.schema_file import load_dataset  # most runs do without

    return load_dataset(path)


def dataset_named(name: str) -> Dataset:
    """A data set by its name, or by the path of a schema file. Blocks where it is one."""
    if is_schema_file(name):
        return dataset_described_by(Path(name))
    known = registered("datasets")
    if name not in known and (path := preset_path(name)):
        return dataset_described_by(path)
    if name not in known:
        names = ", ".join(sorted({*known, *preset_names()}))
        raise ConfigurationError(f"There is no data set {name!r}; choose from: {names}; or name a schema file (.yaml).")
    dataset: Dataset = known[name].load()
    return dataset


def dataset_after(
    dataset: Dataset, transform: Sequence[Mapping[str, Any]], feature: Sequence[Mapping[str, Any]]
) -> Dataset:
    """The data set after the steps of a configuration, with its features. ConfigurationError says what is wrong."""
    if not transform and not feature:
        return dataset
    from ingest_service.datasets.schema_file import as_configured

    return as_configured(dataset, transform, feature)
