"""`popular`: the list that polars makes of the whole files, in Redis at once, and never lost to an empty one."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import polars as pl
import pytest
import redis

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, UNREACHABLE, Cli

KEY = "rec:fallback:popular"
DAY_MS = 86_400_000
NEWEST_MS = FIRST_MS + 20 * DAY_MS
ROWS = 20_000


@pytest.fixture
def client(redis_db_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_db_url) as found:
        yield found


@pytest.fixture(scope="module")
def rows() -> list[tuple[int, int, int]]:
    """Of 300 users and 200 items over twenty days, many a key more than once, the newest last."""
    rng = random.Random(2)
    hour = DAY_MS // 24
    found = [
        (rng.randrange(300), round(rng.random() ** 2 * 200), FIRST_MS + hour * rng.randrange(20 * 24))
        for _ in range(ROWS)
    ]
    return [*found, *rng.sample(found, 3_000), (1, 2, NEWEST_MS)]


def written(cli: Cli, rows: list[tuple[int, int, int]]) -> list[Path]:
    """In two files, of several blocks each."""
    half = len(rows) // 2
    return [
        cli.file(f"part-{n}.csv", f"{HEADER},note\n" + "".join(f"{u},{i},{t},{'n' * 300}\n" for u, i, t in part))
        for n, part in enumerate((rows[:half], rows[half:]))
    ]


def by_polars(rows: list[tuple[int, int, int]], as_of_ms: int, days: float, half_life: float | None) -> list[str]:
    age = (as_of_ms - pl.col("t")) / DAY_MS
    weight = 1.0 + 0.0 * age if half_life is None else 2 ** (-age / half_life)
    counted = (
        pl.DataFrame(rows, schema=["u", "i", "t"], orient="row")
        .unique()
        .filter(pl.col("t") <= as_of_ms, pl.col("t") > as_of_ms - days * DAY_MS)
        .group_by("i")
        .agg(weight.sum().round(9).alias("score"))
        .with_columns(
            pl.col("i").map_elements(lambda i: str(uuid5(NAMESPACE_DNS, f"video_{i}")), pl.String).alias("id")
        )
        .sort("score", "id", descending=[True, False])
    )
    return counted["id"].to_list()


def listed(client: "redis.Redis") -> list[str] | None:
    found: Any = client.get(KEY)
    return None if found is None else json.loads(found)


@pytest.mark.parametrize("half_life", [None, 3.5])
@pytest.mark.parametrize("days", [0.5, 7, 4_000])
@pytest.mark.parametrize("as_of", ["latest", "2020-03-12T11:30:00+02:00"])
def test_the_list_is_that_of_polars(
    cli: Cli,
    redis_db_url: str,
    client: "redis.Redis",
    rows: list[tuple[int, int, int]],
    as_of: str,
    days: float,
    half_life: float | None,
) -> None:
    """Over several files; a key that comes again counts once; ties by id."""
    options = [] if half_life is None else [f"--half-life={half_life}"]
    outcome = cli.here(
        "popular",
        *written(cli, rows),
        f"--to={redis_db_url}",
        f"--days={days}",
        f"--as-of={as_of}",
        "--limit=1000",
        *options,
    )
    assert outcome.code == 0, outcome.stderr
    as_of_ms = NEWEST_MS if as_of == "latest" else 1_584_005_400_000
    expected = by_polars(rows, as_of_ms, days, half_life)
    assert expected
    assert listed(client) == expected


def test_no_rows_leave_the_old_list(cli: Cli, redis_db_url: str, client: "redis.Redis") -> None:
    """It is replaced by an empty one on request only; with a time after which it expires, if that is wanted."""
    file, to = cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n"), f"--to={redis_db_url}"
    assert cli.here("popular", file, to, "--as-of=latest", "--expire=1000").code == 0
    old = listed(client)
    assert old == [str(uuid5(NAMESPACE_DNS, "video_2"))]
    assert 990 < client.ttl(KEY) <= 1000
    outcome = cli.here("popular", file, to, "--json")
    assert (outcome.code, json.loads(outcome.stdout)["stored"], listed(client)) == (0, False, old)
    assert cli.here("popular", file, to, "--allow-empty", "--key=other:list").code == 0
    assert (client.get("other:list"), listed(client)) == (b"[]", old)


def test_mistakes_are_said(cli: Cli) -> None:
    """A sink that is no Redis, a time that is none, a file without rows whose newest is wanted."""
    file = cli.file("pairs.csv", f"{HEADER}\n")
    for options, code, says in (
        (("--to=sqlite:///x.db",), 78, "goes into Redis"),
        ((f"--to=redis://{UNREACHABLE}", "--as-of=soon"), 2, "ISO 8601"),
        ((f"--to=redis://{UNREACHABLE}", "--half-life=0"), 2, "above 0"),
    ):
        outcome = cli.here("popular", file, *options)
        assert (outcome.code, says in outcome.message) == (code, True), outcome.stderr


def test_a_source_without_rows_has_no_newest(cli: Cli, redis_db_url: str) -> None:
    """It is said rather than taken for a window long ago."""
    outcome = cli.here("popular", cli.file("pairs.csv", f"{HEADER}\n"), f"--to={redis_db_url}", "--as-of=latest")
    assert (outcome.code, "no newest one" in outcome.message) == (78, True)
