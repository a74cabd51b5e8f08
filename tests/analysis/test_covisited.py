"""`covisited`: the lists that polars makes of the whole files, in Redis at once, and never half of them."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import polars as pl
import pytest
import redis

from ingest_service.analysis import covisited as module
from ingest_service.rows import spill
from ingest_service.sinks.redis.sink import RedisSink
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, Cli

KEY = "rec:covisited"
DAY_MS = 86_400_000


@pytest.fixture
def client(redis_db_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_db_url, decode_responses=True) as found:
        yield found


def id_of(item: int) -> str:
    return str(uuid5(NAMESPACE_DNS, f"video_{item}"))


def listed(client: "redis.Redis", key: str = KEY) -> dict[str, list[str]]:
    found: Any = client.hgetall(key)
    return {item: json.loads(others) for item, others in found.items()}


def by_polars(rows: list[tuple[int, int, int]], days: float, per_user: int, limit: int) -> dict[str, list[str]]:
    until = max(time for _, _, time in rows)
    ids = pl.DataFrame({"i": list(range(300)), "id": [id_of(item) for item in range(300)]})
    newest = (
        pl.DataFrame(rows, schema=["u", "i", "t"], orient="row")
        .filter(pl.col("t") > until - days * DAY_MS)
        .join(ids, on="i")
        .group_by("u", "id")
        .agg(pl.col("t").max())
        .sort("t", "id", descending=[True, False])
        .group_by("u", maintain_order=True)
        .head(per_user)
    )
    pairs = newest.join(newest, on="u", suffix="_other").filter(pl.col("id") != pl.col("id_other"))
    counted = pairs.group_by("id", "id_other").len().sort("len", "id_other", descending=[True, False])
    lists = counted.group_by("id", maintain_order=True).agg(pl.col("id_other").head(limit))
    return dict(lists.iter_rows())


def written(cli: Cli, rows: list[tuple[int, int, int]]) -> list[Path]:
    """In two files, of several blocks each."""
    half = len(rows) // 2
    return [
        cli.file(f"part-{n}.csv", f"{HEADER},note\n" + "".join(f"{u},{i},{t},{'n' * 300}\n" for u, i, t in part))
        for n, part in enumerate((rows[:half], rows[half:]))
    ]


@pytest.mark.parametrize("per_user", [2, 15, 1_000])
@pytest.mark.parametrize("days", [3, 4_000])
def test_the_lists_are_those_of_polars(
    cli: Cli, redis_db_url: str, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, days: int, per_user: int
) -> None:
    """Of users in both files, with keys that come again and times that are the same; in many parts."""
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 2_000)
    monkeypatch.setattr(spill, "PARTITION_ROWS", 5_000)
    rng = random.Random(4)
    rows = [
        (rng.randrange(250), round(rng.random() ** 2 * 200), FIRST_MS + DAY_MS * rng.randrange(20))
        for _ in range(8_000)
    ]
    options = (f"--to={redis_db_url}", "--as-of=latest", f"--days={days}", f"--per-user={per_user}", "--limit=7")
    outcome = cli.here("covisited", *written(cli, rows), *options)
    assert outcome.code == 0, outcome.stderr
    expected = by_polars(rows, days, per_user, 7)
    assert len(expected) > 50
    assert listed(client) == expected
    assert [*client.scan_iter("*")] == [KEY], "nothing is left beside it"


def test_no_pairs_leave_the_old_lists(cli: Cli, redis_db_url: str, client: "redis.Redis") -> None:
    """They go on request only; new ones expire, if that is wanted, and otherwise do not."""
    pair, to = cli.file("pair.csv", f"{HEADER}\n1,2,{FIRST_MS}\n1,3,{FIRST_MS}\n"), f"--to={redis_db_url}"
    assert cli.here("covisited", pair, to, "--as-of=latest", "--expire=1000").code == 0
    both = {id_of(2): [id_of(3)], id_of(3): [id_of(2)]}
    assert listed(client) == both
    assert 990 < client.ttl(KEY) <= 1000
    assert cli.here("covisited", pair, to, "--as-of=latest").code == 0
    assert (listed(client), client.ttl(KEY)) == (both, -1)
    alone = cli.file("alone.csv", f"{HEADER}\n1,2,{FIRST_MS}\n2,3,{FIRST_MS}\n")
    outcome = cli.here("covisited", alone, to, "--as-of=latest", "--json")
    assert (outcome.code, outcome.report["stored"], listed(client)) == (0, False, both)
    assert cli.here("covisited", alone, to, "--as-of=latest", "--allow-empty").code == 0
    assert not client.exists(KEY)


def test_lists_that_the_server_dropped_replace_none(
    cli: Cli, redis_db_url: str, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written so far is beside the old ones and expires; if it goes, that is said, and the old ones stay."""
    to, rows = f"--to={redis_db_url}", f"1,2,{FIRST_MS}\n1,3,{FIRST_MS}\n"
    file = cli.file("pair.csv", f"{HEADER}\n{rows}")
    assert cli.here("covisited", file, to, "--as-of=latest").code == 0
    old, plainly = listed(client), RedisSink.command
    monkeypatch.setattr(module, "_LISTS_A_COMMAND", 1)

    async def dropping(sink: RedisSink, *arguments: str | int, key: str = "") -> object:
        if arguments[0] == "EVAL":
            new = str(arguments[3])
            assert 0 < await asyncio.to_thread(client.ttl, new) <= 3_600
            await asyncio.to_thread(client.hdel, new, id_of(4))
        return await plainly(sink, *arguments, key=key)

    monkeypatch.setattr(RedisSink, "command", dropping)
    more = cli.file("more.csv", f"{HEADER}\n{rows}1,4,{FIRST_MS}\n")
    outcome = cli.here("covisited", more, to, "--as-of=latest")
    assert (outcome.code, "old ones stay" in outcome.message) == (69, True)
    assert listed(client) == old


def test_mistakes_are_said(cli: Cli) -> None:
    """A sink that is no Redis; a number of items that makes no pair."""
    file = cli.file("pairs.csv", f"{HEADER}\n")
    for options, code, says in ((("--to=sqlite:///x.db",), 78, "goes into Redis"), (("--per-user=1",), 2, "")):
        outcome = cli.here("covisited", file, "--to=redis://127.0.0.1:1", *options)
        assert outcome.code == code
        assert says in outcome.stderr
