"""Writes the rows of a generated file once more: as reviews in JSON Lines, and as Parquet.

python -m benchmarks.generate_formats pairs.csv reviews.jsonl pairs.parquet
"""

import json
import sys
from pathlib import Path
from random import Random

import polars as pl

WORDS = ["good", "bad", '"quoted"', "naïve", "line\nbreak", "lorem", "ipsum", "😀"]


def main() -> None:
    source, lines, parquet = sys.argv[1:]
    frame = pl.read_csv(source)
    frame = frame.with_columns(pl.from_epoch("timestamp").alias("timestamp"))
    frame.write_parquet(parquet, row_group_size=500_000)
    rng = Random(1)
    with Path(lines).open("w") as file:
        for user, item, at in frame.with_columns(pl.col("timestamp").dt.epoch("ms")).iter_rows():
            review = {
                "rating": float(rng.randint(1, 5)),
                "title": " ".join(rng.choices(WORDS, k=4)),
                "text": " ".join(rng.choices(WORDS, k=rng.randint(3, 60))),
                "images": [],
                "asin": f"B{item:09}",
                "parent_asin": f"B{item:09}",
                "user_id": f"A{user:027}",
                "timestamp": at,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
            file.write(json.dumps(review) + "\n")


if __name__ == "__main__":
    main()
