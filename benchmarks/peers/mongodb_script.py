"""The script that a user would write for ratings: csv, a document a row, and `insert_many` a thousand at a time."""

import csv
import json
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo import MongoClient

from benchmarks.peers.rows import Arguments, arguments

BATCH_ROWS = 1_000


def main(args: Arguments) -> None:
    ids = {
        int(key): ObjectId(text)
        for key, text in json.loads(args.path.with_name("movie_id_map.json").read_text()).items()
    }
    with MongoClient[dict[str, Any]](args.to) as client, args.path.open(newline="") as file:
        collection = client.get_default_database()["interactions"]
        documents = (
            {
                "user_id": int(row["userId"]),
                "movie_id": ids[int(row["movieId"])],
                "type": "rate",
                "rating": float(row["rating"]),
                "timestamp": datetime.fromtimestamp(int(row["timestamp"]), UTC),
            }
            for row in islice(csv.DictReader(file), args.limit)
        )
        while batch := list(islice(documents, BATCH_ROWS)):
            collection.insert_many(batch, ordered=False)


if __name__ == "__main__":
    main(arguments())
