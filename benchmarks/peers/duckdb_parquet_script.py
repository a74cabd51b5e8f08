"""DuckDB's own way from a CSV with ready-made rows into a folder of Parquet files by month.

python -m benchmarks.peers.duckdb_parquet_script ready-made.csv folder
"""

import sys

import duckdb

from benchmarks.peers.sqlite_script import COLUMNS


def main() -> None:
    ready, folder = sys.argv[1:]
    kinds = ", ".join(f"'{name}': 'VARCHAR'" for name in COLUMNS)
    read = f"read_csv('{ready}', header = false, columns = {{{kinds}}})"
    duckdb.sql(
        f"COPY (SELECT *, \"timestamp\"[:7] AS month FROM {read}) TO '{folder}'"
        " (FORMAT parquet, PARTITION_BY (month), COMPRESSION zstd)"
    )


if __name__ == "__main__":
    main()
