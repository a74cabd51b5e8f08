"""The sections of the benchmark, each a function that returns the lines it adds to the table."""

from collections.abc import Callable
from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.sections import (
    both,
    dynamodb,
    embeddings,
    engines,
    feast,
    features,
    formats,
    growth,
    limits,
    memory,
    mongodb,
    movielens,
    parquet,
    postgres,
    reading,
    redis,
    rejects,
    schemas,
    serve,
    sqlite,
    startup,
    transforms,
    versions,
    workers,
)

SECTIONS: Final[dict[str, Callable[[Bench], list[Figure]]]] = {
    "redis": redis.figures,
    "groups": redis.by_memory,
    "cluster": redis.cluster,
    "dynamodb": dynamodb.figures,
    "sqlite": sqlite.figures,
    "parquet": parquet.figures,
    "postgres": postgres.figures,
    "both": both.figures,
    "mongodb": mongodb.figures,
    "embeddings": embeddings.figures,
    "feast": feast.figures,
    "movielens": movielens.figures,
    "memory": memory.figures,
    "startup": startup.figures,
    "formats": formats.figures,
    "reading": reading.figures,
    "rejects": rejects.figures,
    "limits": limits.figures,
    "growth": growth.figures,
    "serve": serve.figures,
    "small-files": serve.small_files,
    "schemas": schemas.figures,
    "transforms": transforms.figures,
    "features": features.figures,
    "versions": versions.figures,
    "workers": workers.figures,
    "engines": engines.figures,
    "quick": versions.since_release,
}
