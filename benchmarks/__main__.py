"""Prints how fast ingest_service is beside the scripts and tools that would do the same job.

    python -m benchmarks [--rows 1000000] [--pairs 5] [--only redis,startup] [--out benchmarks/results]

Both sides of a comparison take the same file to the same server, in turns, start-up included; slow scripts
take its first rows only, as their name in the table says. Ratios are medians over the pairs.
"""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.measure import CommandFailedError
from benchmarks.report import save, table
from benchmarks.sections import SECTIONS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--only", type=sections, default=[name for name in SECTIONS if name != "quick"], metavar=",".join(SECTIONS)
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    # The null DynamoDB believes any key, and no client should look for others.
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    figures: list[Figure] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="bench-") as work, ExitStack() as stack:
        bench = Bench(options.rows, options.pairs, Path(work), stack)
        for name in options.only:
            try:
                figures += SECTIONS[name](bench)
            except (CommandFailedError, FileNotFoundError) as error:
                failed = True
                bench.skip(f"{name}: {error}")
        sys.stdout.write(table(figures))
        bench.say(f"written: {save(bench, figures, options.out)}")
    return int(failed)


def sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no section {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
