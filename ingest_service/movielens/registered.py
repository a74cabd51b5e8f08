"""What is known of MovieLens to the parts that are about any steps. Nothing here is imported before it is used."""

from collections.abc import Sequence
from pathlib import Path

from ingest_service.config import Settings
from ingest_service.datasets.base import Dataset
from ingest_service.movielens.settings import MovieLensSettings
from ingest_service.pipeline.steps import Steps
from ingest_service.sinks.base import AnySink


def _owns(path: Path, settings: Settings) -> bool:
    if settings.mongodb_uri is None:
        return False
    from ingest_service.movielens.steps.ratings import are_ratings

    return are_ratings(path, MovieLensSettings.of(settings))


def _target(settings: Settings) -> tuple[Sequence[AnySink], Dataset]:
    from ingest_service.datasets.movielens import MOVIELENS
    from ingest_service.movielens.places import read_movie_ids
    from ingest_service.movielens.steps.ratings import ratings_sink

    return [ratings_sink(settings, read_movie_ids(MovieLensSettings.of(settings)))], MOVIELENS


STEPS = Steps(("download", "movies", "ratings", "popular", "all"), MovieLensSettings, _owns, _target)
