"""The script that a user would write for SQLite: csv, and one `executemany`."""

import sqlite3
from contextlib import closing

from benchmarks.peers.rows import Arguments, arguments, records

COLUMNS = ("user_id", "event_key", "video_id", "timestamp", "event_type", "device", "session_id")
CREATE = (
    f"CREATE TABLE IF NOT EXISTS interactions ({', '.join(f'{column} TEXT NOT NULL' for column in COLUMNS)}, "
    "PRIMARY KEY (user_id, event_key)) WITHOUT ROWID"
)
INSERT = f"INSERT OR REPLACE INTO interactions VALUES ({', '.join(f':{column}' for column in COLUMNS)})"


def main(args: Arguments) -> None:
    with closing(sqlite3.connect(args.to.removeprefix("sqlite:///"))) as database, database:
        database.execute(CREATE)
        database.executemany(INSERT, records(args.path, args.limit))


if __name__ == "__main__":
    main(arguments())
