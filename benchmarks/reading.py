"""Reads a file by a data set to its end, and stores nothing: what reading and parsing cost without a sink.

python -m benchmarks.reading FILE DATASET
"""

import sys
from pathlib import Path

from ingest_service.datasets import dataset_named
from ingest_service.formats.opening import open_reader
from ingest_service.sources.local import FileSource


def main() -> None:
    path, dataset = sys.argv[1:]
    reader = open_reader(FileSource(Path(path)), dataset_named(dataset))
    rows = 0
    while (block := reader.next()) is not None:
        chunk = reader.chunk(block)
        if chunk.rejects:
            sys.exit(f"refused: {chunk.rejects[0].reason}")
        rows += chunk.accepted
    sys.stdout.write(f"{rows}\n")


if __name__ == "__main__":
    main()
