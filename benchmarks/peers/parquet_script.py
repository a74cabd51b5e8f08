"""The script that a user would write for Parquet: csv, and pyarrow's own writer of a folder divided by month."""

from itertools import islice

import pyarrow
import pyarrow.dataset

from benchmarks.peers.rows import Arguments, arguments, records

_ROWS = 200_000


def main(args: Arguments) -> None:
    rows = records(args.path, args.limit)
    number = 0
    while batch := [{**row, "month": row["timestamp"][:7]} for row in islice(rows, _ROWS)]:
        pyarrow.dataset.write_dataset(
            pyarrow.Table.from_pylist(batch),
            args.to.removeprefix("parquet:///"),
            format="parquet",
            partitioning=pyarrow.dataset.partitioning(pyarrow.schema([("month", pyarrow.string())]), flavor="hive"),
            basename_template=f"part-{number}-{{i}}.parquet",
            existing_data_behavior="overwrite_or_ignore",
        )
        number += 1


if __name__ == "__main__":
    main(arguments())
