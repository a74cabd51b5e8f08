"""The list of popular movies: as polars computes it from the file, replaced as a whole, never lost to an empty one."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from ingest_service.errors import ConfigurationError
from ingest_service.movielens.places import POPULAR_KEY, movie_object_id, write_movie_ids
from ingest_service.movielens.steps.popular import popular
from ingest_service.movielens.steps.ratings import ratings
from tests.movielens.conftest import World, pack, ratings_text

NEWEST = 1_500_000_000 + 1_000 * 300 + 1  # the last rating of a movie that is known


@pytest.fixture
async def loaded(world: World) -> World:
    world.write(ratings=ratings_text(300))
    write_movie_ids(world.settings(), range(1, 8))
    await ratings(world.settings())
    return world


@pytest.fixture
def client(redis_db_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_db_url) as found:
        yield found


def listed(client: "redis.Redis") -> list[str] | None:
    found: Any = client.get(POPULAR_KEY)
    return None if found is None else json.loads(found)


def by_polars(text: str, known: set[int], *, min_rating: float, days: float, as_of: datetime, limit: int) -> list[str]:
    """The same list, from the file."""
    until = as_of.timestamp()
    counted = (
        pl.read_csv(text.encode(), schema_overrides={"rating": pl.Float64})
        .filter(pl.col("movieId").is_in(list(known)), pl.col("rating") >= min_rating)
        .filter(pl.col("timestamp") <= until, pl.col("timestamp") > until - 86_400 * days)
        .group_by("movieId")
        .len()
        .with_columns(pl.col("movieId").map_elements(lambda i: str(movie_object_id(i)), pl.String).alias("id"))
        .sort(pl.col("len"), pl.col("id"), descending=[True, False])
    )
    return counted["id"].head(limit).to_list()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_rating": 0.5, "days": 3000},
        {"min_rating": 5.0, "days": 1},
        {"days": 2.5, "limit": 3},
        {"days": 3000, "limit": 1},
    ],
)
@pytest.mark.parametrize("back_s", [0, 1_000, 86_400])
async def test_the_list_is_that_of_polars(
    loaded: World, client: "redis.Redis", options: dict[str, Any], back_s: int
) -> None:
    """Movies with the most ratings of so many stars in so many days before a moment; ties by `_id`."""
    as_of = datetime.fromtimestamp(NEWEST - back_s, UTC)
    found = await popular(loaded.settings(), as_of=as_of, allow_empty=True, **options)
    wanted = by_polars(
        ratings_text(300), set(range(1, 8)), as_of=as_of, **({"min_rating": 4.0, "days": 30, "limit": 100} | options)
    )
    assert found.movies == wanted
    assert listed(client) == wanted


async def test_latest_is_the_newest_rating(loaded: World) -> None:
    """The data ends in the past, so `latest` counts from its own end."""
    found = await popular(loaded.settings(), latest=True)
    assert found.as_of == datetime.fromtimestamp(NEWEST, UTC)
    assert found.movies
    assert found == await popular(loaded.settings(), as_of=found.as_of)


async def test_the_borders_of_the_window(loaded: World) -> None:
    """A rating at the very moment counts; one exactly so many days before does not."""
    newest = datetime.fromtimestamp(NEWEST, UTC)
    one = await popular(loaded.settings(), as_of=newest, min_rating=0.5, days=1 / 86_400)
    assert len(one.movies) == 1
    none = await popular(loaded.settings(), as_of=newest + timedelta(seconds=1), min_rating=0.5, days=1 / 86_400)
    assert none.movies == []


async def test_an_empty_result_erases_no_good_list(loaded: World, client: "redis.Redis") -> None:
    """Unless it is said that it may; no list at all stays none."""
    assert not (await popular(loaded.settings())).stored
    assert listed(client) is None
    await popular(loaded.settings(), latest=True, expire_s=1000)
    good = listed(client)
    assert good
    assert not (await popular(loaded.settings())).stored
    assert listed(client) == good
    assert client.ttl(POPULAR_KEY) > 0
    assert (await popular(loaded.settings(), allow_empty=True)).stored
    assert listed(client) == []


async def test_the_list_may_expire(loaded: World, client: "redis.Redis") -> None:
    """After so many seconds; without that it stays, also where an older one would have gone."""
    await popular(loaded.settings(), latest=True, expire_s=1000)
    assert 0 < client.ttl(POPULAR_KEY) <= 1000
    await popular(loaded.settings(), latest=True)
    assert client.ttl(POPULAR_KEY) == -1


async def test_no_ratings_have_no_latest(world: World, client: "redis.Redis") -> None:
    """What to do first is said."""
    with pytest.raises(ConfigurationError, match="movielens ratings"):
        await popular(world.settings(), latest=True)
    assert listed(client) is None


async def test_the_real_list(world: World, client: "redis.Redis", ml_latest_small: Path) -> None:
    """Of the newest ratings of ml-latest-small."""
    text = (ml_latest_small / "ratings.csv").read_text()
    newest = sorted(text.splitlines()[1:], key=lambda row: int(row.rpartition(",")[2]))[-3_000:]
    some = "userId,movieId,rating,timestamp\n" + "\n".join(newest) + "\n"
    pack(world.archive, {"ratings.csv": some})
    known = {int(row.partition(",")[0]) for row in (ml_latest_small / "movies.csv").read_text().splitlines()[1:]}
    write_movie_ids(world.settings(), known)
    await ratings(world.settings())
    found = await popular(world.settings(), latest=True)
    assert found.movies == by_polars(some, known, min_rating=4.0, days=30, as_of=found.as_of, limit=100)
    assert listed(client) == found.movies
