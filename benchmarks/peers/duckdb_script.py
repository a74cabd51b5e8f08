"""DuckDB's own import of a CSV with ready-made rows, into a table with the key that ours has.

python -m benchmarks.peers.duckdb_script ready-made.csv rows.duckdb
"""

import sys

import duckdb

from benchmarks.peers.sqlite_script import COLUMNS


def main() -> None:
    ready, path = sys.argv[1:]
    columns = ", ".join(f'"{name}" TEXT NOT NULL' for name in COLUMNS)
    with duckdb.connect(path) as database:
        database.execute(f"CREATE TABLE interactions ({columns}, PRIMARY KEY (user_id, event_key))")
        kinds = ", ".join(f"'{name}': 'VARCHAR'" for name in COLUMNS)
        read = f"read_csv(?, header = false, columns = {{{kinds}}})"
        database.execute(f"INSERT OR REPLACE INTO interactions SELECT * FROM {read}", [ready])


if __name__ == "__main__":
    main()
