"""The limit for Redis: writes the very commands that ingest_service sends, for `redis-cli --pipe` to feed.

python -m benchmarks.peers.redis_pipe pairs.csv --to commands.resp
"""

import argparse
from pathlib import Path

import numpy as np

from ingest_service.datasets import dataset_named
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.sinks.redis.commands import Batch, Keeping
from ingest_service.sinks.redis.sink import RedisOptions
from ingest_service.sources.local import FileSource


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.redis_pipe", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    redis = RedisOptions.model_validate({})
    keeping = Keeping(redis.prefix, redis.recent_limit, redis.recent_ttl_s)
    reader = DelimitedReader(FileSource(options.file), dataset_named("microlens"))
    with options.to.open("wb") as file:
        while (block := reader.next()) is not None:
            chunk = reader.chunk(block)
            batch = Batch.of(chunk.columns, chunk.last_of_each_key())
            have_sets = np.ones(batch.n_users, np.bool_)
            for piece in batch.pieces(1 << 14):
                file.write(batch.commands(piece, keeping, have_sets).data)
    reader.close()


if __name__ == "__main__":
    main()
