"""The movies of an archive's folder through the model: as `movielens movies` does it, or nothing but the model's runs.

python -m benchmarks.peers.embed FOLDER MODEL ours|bare
"""

import csv
import sys
import zipfile
from pathlib import Path

from ingest_service.movielens.embeddings import OnnxEmbedder

BATCH_SIZE = 32


def main(folder: Path, model: Path, mode: str) -> None:
    with zipfile.ZipFile(folder / "ml-bench.zip") as archive:
        text = archive.read("ml-bench/movies.csv").decode()
    texts = [f"{row['title']} {row['genres'].replace('|', ' ')}" for row in csv.DictReader(text.splitlines())]
    embedder = OnnxEmbedder(model, model.name, "cpu", BATCH_SIZE)
    if mode == "ours":
        embedder.embed(texts, lambda _: None)
        return
    for _, ids, mask in embedder.batches(texts):
        embedder.run(ids, mask)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
