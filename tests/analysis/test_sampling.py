"""`estimate --sample`: bounds, held to what a parse of the whole source counts."""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.analysis.test_estimate import NOTES, ROWS, SHAPES, estimated
from tests.helpers import HEADER, UNREACHABLE, Cli, Outcome

PAD = " " * 1_000  # so that the file is long enough, and parts of it are not looked at
TO = (
    "--to=sqlite:///here.db",
    "--to=dynamodb://table?region=eu-west-1",
    f"--to=redis://{UNREACHABLE}?retry_budget_s=0.1",
)
LIKE_SHAPES = [*SHAPES, "users who come one after the other"]


def padded(cli: Cli, shape: str) -> Path:
    """A file of which the sample reads a half; a row in fifty is refused."""
    users = SHAPES[shape](random.Random(1)) if shape in SHAPES else [i // 3 for i in range(ROWS)]
    rows = (f"{user},{'x' if i % 50 == 7 else i % 5000},{FIRST_MS + 1000 * i}{PAD}\n" for i, user in enumerate(users))
    return cli.file("pairs.csv", f"{HEADER}\n{''.join(rows)}")


@pytest.mark.parametrize("shape", LIKE_SHAPES)
def test_what_is_there_lies_within_the_bounds(cli: Cli, shape: str) -> None:
    """Counts, and what each sink takes, whatever the order of users and however many rows each has."""
    file = padded(cli, shape)
    exact, bounds = estimated(cli, file, *TO), estimated(cli, file, *TO, "--sample")
    assert (bounds["sample"]["places"], bounds["sample"]["percent"] < 70) == (64, True)
    for name in ("rows_read", "records", "users"):
        assert bounds[f"{name}_at_least"] <= exact[name] <= bounds[f"{name}_at_most"], name
    assert bounds["records_of_largest_user_at_least"] <= exact["records_of_largest_user"]
    for name in ("rejected", "filtered"):
        assert exact[name] <= bounds[f"{name}_at_most"], name
    assert bounds["rows_read_at_most"] < 1.1 * exact["rows_read"]
    for sink, sizes in exact["sinks"].items():
        held = {name: size for name, size in sizes.items() if f"{name}_at_most" in bounds["sinks"][sink]}
        assert len(held) >= 2
        for name, size in held.items():
            assert size <= bounds["sinks"][sink][f"{name}_at_most"], (sink, name)


@pytest.mark.parametrize("shape", ["twenty rows a user", "users who come one after the other"])
def test_redis_takes_no_more_than_was_said(cli: Cli, redis_db_url: str, shape: str) -> None:
    """By its own `used_memory`: where users are at their most, what the formula may be wrong by is in the bound."""
    file = padded(cli, shape)
    sizes = estimated(cli, file, f"--to={redis_db_url}", "--sample")["sinks"]["redis"]
    with redis.Redis.from_url(redis_db_url) as client:
        before = client.info("memory")["used_memory"]
        cli.load(file, f"--to={redis_db_url}")
        took = client.info("memory")["used_memory"] - before
        assert took <= sizes["memory_bytes_at_most"]
        assert client.dbsize() <= sizes["keys_at_most"] + 1  # and the checkpoint


def test_long_and_short_rows_weigh_by_their_number(cli: Cli) -> None:
    """Half of the file are few long rows that take little in the store, and half many short ones that take much."""
    schema = cli.file("notes.yaml", NOTES)
    long = [f"u{i},i{i},{FIRST_MS + i},1,{' ' * 8_000}" for i in range(2_000)]
    short = [f"u{i},i{i},{FIRST_MS + i},1,{'n' * 1_100}" for i in range(2_000, 16_000)]
    file = cli.file("notes.csv", "\n".join(["user,item,at,weight,note", *long, *short]) + "\n")
    arguments = (file, "--to=dynamodb://table?region=eu-west-1", f"--dataset={schema}")
    exact, bounds = estimated(cli, *arguments), estimated(cli, *arguments, "--sample")
    for name in ("write_units", "usd_on_demand", "import_bytes"):
        most = bounds["sinks"]["dynamodb"][f"{name}_at_most"]
        assert exact["sinks"]["dynamodb"][name] <= most <= 4 * exact["sinks"]["dynamodb"][name]


def test_bounds_are_marked_as_such(cli: Cli) -> None:
    """No number of a size is without it, in JSON and in text; how long a load takes says that it goes by them."""
    file = padded(cli, "twenty rows a user")
    bounds = estimated(cli, file, *TO, "--sample")
    numbers = {name for name, value in bounds.items() if isinstance(value, int)} - {"source_bytes"}
    for sizes in bounds["sinks"].values():
        numbers |= {name for name, size in sizes.items() if not isinstance(size, str)}
    unmarked = {name for name in numbers if not name.endswith(("_at_most", "_at_least"))}
    assert unmarked == {"item_bytes", "rows_per_s", "load_s"}
    text = cli.here("estimate", file, *TO, "--sample").stdout
    assert "what follows are bounds, and no estimate" in text
    assert "disk bytes at most" in text and "disk bytes  " not in text


def refused(cli: Cli, *arguments: str | Path) -> Outcome:
    outcome = cli.here("estimate", *arguments, "--to=sqlite:///here.db", "--sample")
    assert outcome.code == 2, outcome.stdout + outcome.stderr
    return outcome


def test_what_cannot_be_looked_at_in_places_is_said(cli: Cli) -> None:
    """A short file, a packed one, and features, which need all rows before."""
    file = padded(cli, "a row a user")
    assert "too short for a sample" in refused(cli, cli.file("short.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")).message
    packed = cli.folder / "pairs.csv.gz"
    packed.write_bytes(gzip.compress(file.read_bytes(), 1))
    assert "only be read from front to back" in refused(cli, packed).message
    features: dict[str, Any] = {"name": "own", "schema": FIELDS, "x-features": [{"feature": "user_count"}]}
    schema = cli.file("own.json", json.dumps(features))
    assert "need all rows before" in refused(cli, file, f"--dataset={schema}").message


FIELDS = {
    "fields": [
        {"name": "userID", "type": "integer", "x-role": "owner"},
        {"name": "videoID", "type": "integer", "x-role": "item"},
        {"name": "timestamp", "type": "integer", "x-role": "time", "x-unit": "ms"},
    ]
}


def parquet(cli: Cli, users: Sequence[int], group_rows: int) -> Path:
    path = cli.folder / "pairs.parquet"
    n = len(users)
    frame = pl.DataFrame({"userID": users, "videoID": range(n), "timestamp": range(FIRST_MS, FIRST_MS + n)})
    frame.write_parquet(path, row_group_size=group_rows)
    return path


def test_parquet_is_looked_at_group_by_group(cli: Cli) -> None:
    """Its rows are known, so only users and sizes are bounds; of few groups there is no sample."""
    schema = cli.file("own.json", json.dumps({"name": "own", "format": "parquet", "schema": FIELDS}))
    rng = random.Random(2)
    file = parquet(cli, [rng.randrange(4_000) for _ in range(80_000)], 500)
    exact = estimated(cli, file, *TO, f"--dataset={schema}")
    bounds = estimated(cli, file, *TO, f"--dataset={schema}", "--sample")
    assert bounds["records_at_least"] == bounds["records_at_most"] == exact["records"] == 80_000
    assert bounds["users_at_least"] <= exact["users"] <= bounds["users_at_most"]
    assert "too few places" in refused(cli, parquet(cli, range(1_000), 500), f"--dataset={schema}").message
