"""MovieLens, step by step: the archive into a bucket, movies and ratings into MongoDB, popular movies into Redis.

Each step is a coroutine that takes the settings; run again at any time, it goes on where an earlier run stopped.
"""

from ingest_service.movielens.download import download
from ingest_service.movielens.movies import movies
from ingest_service.movielens.popular import popular
from ingest_service.movielens.ratings import ratings

__all__ = ["download", "movies", "popular", "ratings"]
