"""Redis: a later row of a key replaces the earlier one, and keys of another kind are left alone."""

import json
from itertools import pairwise, takewhile
from pathlib import Path

import pytest
import redis

from ingest_service.sinks.base import Written
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction, interactions
from tests.helpers import Cli, opened, redis_sets

_TRIM = "ZREMRANGEBYRANK"


async def test_a_later_version_replaces_the_earlier(redis_db_url: str) -> None:
    """Only of the same key: another item, another microsecond and what is no row of ours stay."""
    other = interaction(1, 2)
    micro = interaction(1, 1).model_copy(update={"timestamp": interaction(1, 1).timestamp.replace(microsecond=7)})
    first = [interaction(1, 1, session_id="first"), other, micro]
    key = f"recent:{{{other.user_id}}}"
    async with opened(redis_db_url) as sink:
        assert await sink.store(chunk_of(first)) == Written(3)
        with redis.Redis.from_url(redis_db_url) as client:
            client.zadd(key, {"no JSON": FIRST_MS})
        for session in ("second", "third", "first"):
            assert await sink.store(
                chunk_of([interaction(1, 1, session_id=session)], follows_from_key=False)
            ) == Written(1)
            (members,) = redis_sets(redis_db_url).values()
            found = sorted(json.loads(member)["session_id"] for member in members if member != "no JSON")
            assert found == sorted([session, other.session_id, micro.session_id])
            assert "no JSON" in members


async def test_many_rows_of_one_user_replace_each_other(redis_db_url: str) -> None:
    """More than a script's stack would hold, all at one time."""
    rows = [interaction(1, item) for item in range(10_000)]
    async with opened(f"{redis_db_url}?recent_limit=20000") as sink:
        for session in ("one", "two"):
            changed = [row.model_copy(update={"session_id": session}) for row in rows]
            assert await sink.store(chunk_of(changed, follows_from_key=False)) == Written(10_000)
            (members,) = redis_sets(redis_db_url).values()
            assert len(members) == 10_000
            assert {json.loads(member)["session_id"] for member in members} == {session}


@pytest.mark.fault(13)
@pytest.mark.parametrize("follows", [True, False])
async def test_a_key_of_another_kind_is_left_as_it_was(redis_db_url: str, follows: bool) -> None:
    """Neither its content nor its expiry changes; all others expire."""
    rows = interactions(200, users=100)
    culprits = [f"recent:{{{row.user_id}}}" for row in rows[:2]]
    with redis.Redis.from_url(redis_db_url, decode_responses=True) as client:
        client.set(culprits[0], "for ever")
        client.set(culprits[1], "for a while", px=1_000_000)
        async with opened(redis_db_url) as sink:
            for _ in range(2):  # the second time the others are known to have sets
                written = await sink.store(chunk_of(rows, follows_from_key=follows))
                assert (written.written, {row.code for row in written.dead}) == (196, {"wrong_type"})
        assert [client.get(key) for key in culprits] == ["for ever", "for a while"]
        assert client.ttl(culprits[0]) == -1
        assert 0 < client.ttl(culprits[1]) <= 1_000
        others = [key for key in client.scan_iter("recent:*") if key not in culprits]
        assert len(others) == 98
        assert all(86_000 < client.ttl(key) <= 86_400 for key in others)


async def test_an_expiry_goes_with_the_rows_where_there_was_a_set(redis_db_url: str) -> None:
    """A chunk ago; in the others' case after the replies. Each chunk renews it once for each of its users."""
    old, new = interactions(30, users=10), [interaction(100 + i, i) for i in range(10)]
    with redis.Redis.from_url(redis_db_url, decode_responses=True) as client, client.monitor() as monitor:
        async with opened(redis_db_url) as sink:
            await sink.store(chunk_of(old))
            await sink.store(chunk_of([*old, *new]))
        client.echo("the end")
        said = takewhile(lambda command: "the end" not in command["command"], monitor.listen())
        words = [command["command"].partition(" recent:{") for command in said]
    words = [(name, rest.partition("}")[0]) for name, _, rest in words if rest]
    first, second, late = words[:30], words[30:-10], words[-10:]
    assert [name for name, _ in first] == ["ZADD", _TRIM] * 10 + ["EXPIRE"] * 10
    with_rows = [key for before, (name, key) in pairwise(second) if (name, before) == ("EXPIRE", (_TRIM, key))]
    assert sorted(with_rows) == sorted({str(row.user_id) for row in old})
    assert sorted(late) == sorted(("EXPIRE", str(row.user_id)) for row in new)


@pytest.mark.fault(38)
@pytest.mark.parametrize("dataset", ["movielens", "movielens-links", "movielens-tags"])
def test_the_later_row_is_there_whatever_was_repeated(redis_db_url: str, cli: Cli, dataset: str) -> None:
    """Of rows with one key and other fields, in different chunks, one is left: in two runs or one, or loaded again."""
    path = write_versions(cli.folder / "versions.csv", dataset)
    options = ("--dataset", dataset, "--to", redis_db_url)
    assert cli.here("run", path, *options, "--limit", "20").code == 0  # none of the later ones yet
    for restart in ([], ["--restart"], ["--restart"]):
        assert cli.here("run", path, *options, *restart).code == 0
        found = cli.here("verify", path, *options)
        assert found.code == 0, found.stdout
    records = [json.loads(member) for members in redis_sets(redis_db_url).values() for member in members]
    if dataset == "movielens":
        assert sorted(record["rating"] for record in records) == [2.0] * FILLERS + [5.0] * 3
    elif dataset == "movielens-links":
        assert sorted(record["imdb_id"] for record in records) == ["filler"] * FILLERS + ["later"] * 3
    else:
        tags = ["another, \\", *['a "tag"'] * 3]
        assert sorted(record["tag"] for record in records) == sorted([*tags, *["filler"] * FILLERS])


FILLERS = 40


def write_versions(path: Path, dataset: str) -> Path:
    """Three records, and far down the file, many blocks later, once more with other fields."""
    at = FIRST_MS // 1_000
    head, first, filler, last = {
        "movielens": ("userId,movieId,rating,timestamp", "1,{},1.0,{}", "2,{},2.0,{}", "1,{},5.0,{}"),
        "movielens-links": ("movieId,imdbId,tmdbId", "{},earlier,{}", "{},filler,{}", "{},later,{}"),
        "movielens-tags": (
            "userId,movieId,tag,timestamp",
            '1,{},"a ""tag""",{}',
            "2,{},filler,{}",
            '1,{},"a ""tag""",{}',
        ),
    }[dataset]
    with path.open("w") as file:
        file.write(f"{head},note\n")
        file.writelines(f"{first.format(movie, at)},\n" for movie in range(3))
        file.writelines(f"{filler.format(100 + i, at)},{'n' * 500_000}\n" for i in range(FILLERS))
        file.writelines(f"{last.format(movie, at)},\n" for movie in range(3))
        if dataset == "movielens-tags":
            file.write(f'1,0,"another, \\",{at},\n')
    return path
