"""The data sets by name: those that packages have registered by the entry-point group `ingest_service.datasets`."""

from collections.abc import Collection

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError
from ingest_service.runtime.plugins import registered


def dataset_names() -> Collection[str]:
    return registered("datasets").keys()


def dataset_named(name: str) -> Dataset:
    known = registered("datasets")
    if name not in known:
        raise ConfigurationError(f"There is no data set {name!r}; choose from: {', '.join(sorted(known))}.")
    dataset: Dataset = known[name].load()
    return dataset
