"""An archive as GroupLens packs it, of any number of ratings.

    python -m benchmarks.generate_movielens FOLDER --rows N

Leaves ml-bench.zip, ratings.csv and movie_id_map.json. Users rate 100 movies each, of a thousand.
"""

import argparse
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ingest_service.movielens.places import movie_object_id

MOVIES = 1_000
RATINGS_A_USER = 100
FIRST_S = 1_400_000_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True)
    with (folder / "ratings.csv").open("w") as file:
        file.writelines(ratings(options.rows))
    ids = {str(movie): str(movie_object_id(movie)) for movie in range(1, MOVIES + 1)}
    (folder / "movie_id_map.json").write_text(json.dumps(ids))
    with zipfile.ZipFile(folder / "ml-bench.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "ratings.csv", "ml-bench/ratings.csv")
        archive.writestr("ml-bench/movies.csv", "".join(movies()))


def ratings(rows: int) -> Iterator[str]:
    rng = random.Random(1)
    yield "userId,movieId,rating,timestamp\n"
    for row in range(rows):
        user, place = divmod(row, RATINGS_A_USER)
        movie = 1 + place * (MOVIES // RATINGS_A_USER) + rng.randrange(MOVIES // RATINGS_A_USER)
        yield f"{user + 1},{movie},{rng.randrange(1, 11) / 2},{FIRST_S + rng.randrange(200_000_000)}\n"


def movies() -> Iterator[str]:
    rng = random.Random(2)
    words = [
        "night",
        "day",
        "love",
        "war",
        "king",
        "last",
        "first",
        "house",
        "road",
        "dead",
        "river",
        "man",
        "woman",
        "city",
        "dream",
        "blue",
    ]
    yield "movieId,title,genres\n"
    for movie in range(1, MOVIES + 1):
        title = " ".join(rng.choices(words, k=rng.randrange(1, 9))).title()
        yield f"{movie},{title} ({rng.randrange(1930, 2019)}),Drama|Comedy\n"


if __name__ == "__main__":
    main()
