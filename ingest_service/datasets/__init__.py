"""The data sets by name."""

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.microlens import MICROLENS
from ingest_service.datasets.movielens import LINKS, MOVIELENS, TAGS
from ingest_service.errors import ConfigurationError

DATASETS = {dataset.name: dataset for dataset in (MICROLENS, MOVIELENS, TAGS, LINKS)}


def dataset_named(name: str) -> Dataset:
    try:
        return DATASETS[name]
    except KeyError:
        raise ConfigurationError(f"There is no data set {name!r}; choose from: {', '.join(DATASETS)}.") from None
