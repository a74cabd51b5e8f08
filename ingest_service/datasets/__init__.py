"""The data sets by name."""

from pathlib import Path

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.datasets.movielens import LINKS, MOVIELENS, TAGS
from ingest_service.datasets.schema_file import SUFFIXES, load_dataset
from ingest_service.errors import ConfigurationError

DATASETS = {dataset.name: dataset for dataset in (MICROLENS, MOVIELENS, TAGS, LINKS)}


def dataset_named(name: str) -> Dataset:
    """A data set by its name, or by the path of a schema file. Blocks where it is one."""
    if name.endswith(SUFFIXES):
        return load_dataset(Path(name))
    try:
        return DATASETS[name]
    except KeyError:
        known = ", ".join(DATASETS)
        raise ConfigurationError(
            f"There is no data set {name!r}; choose from: {known}; or name a schema file (.yaml)."
        ) from None
