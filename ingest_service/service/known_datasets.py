"""The data sets that the service knows, by name: requests name them, and never a file."""

from ingest_service.config import Settings
from ingest_service.datasets import dataset_names, is_schema_file
from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError


def known_datasets(settings: Settings) -> list[str]:
    """The names that a request may say."""
    return sorted({*dataset_names(), *settings.datasets})


def dataset_asked_for(settings: Settings, name: str) -> Dataset:
    """By a request. ConfigurationError if there is none, or it is the path of a schema file. Blocks."""
    if is_schema_file(name) and name != settings.dataset:
        raise ConfigurationError("Schema files are named in the configuration, under [datasets]; ask for one by name.")
    return settings.dataset_named(name)
