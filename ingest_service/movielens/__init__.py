"""MovieLens, step by step: the archive into a bucket, movies and ratings into MongoDB, popular movies into Redis.

Each step is a coroutine that takes the settings; run again at any time, it goes on where an earlier run stopped.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest_service.movielens.steps.download import download as download
    from ingest_service.movielens.steps.movies import movies as movies
    from ingest_service.movielens.steps.popular import popular as popular
    from ingest_service.movielens.steps.ratings import ratings as ratings

__all__ = ["download", "movies", "popular", "ratings"]


def __getattr__(name: str) -> Any:
    """Import a step where it is first used: every command looks at the settings, which are here too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.steps.{name}"), name)
