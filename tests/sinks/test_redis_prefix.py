"""Redis: data sets apart by a prefix of all keys, on a server or a cluster that has but one database."""

import json
from pathlib import Path

import pytest
import redis

from ingest_service import InteractionStore
from ingest_service.errors import ConfigurationError
from ingest_service.sinks.testing.rows import FIRST_MS, interaction
from ingest_service.sinks.urls import sink_at
from tests.helpers import HEADER, Cli, write_pairs
from tests.servers import find_redis
from tests.sinks.test_redis import restricted


def keys(url: str) -> set[str]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return set(client.scan_iter(count=10_000))


def test_prefixes_keep_data_sets_apart(redis_db_url: str, cli: Cli) -> None:
    """Sets and checkpoints: each run, status, verify and answer is of its own prefix, and none of another."""
    pairs = write_pairs(cli.folder / "pairs.csv", 500)
    (cli.folder / "few.csv").write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
    places = {"pairs.csv": f"{redis_db_url}?prefix=one:", "few.csv": f"{redis_db_url}?prefix=shop/2."}
    for name, url in places.items():
        for command in (["check"], ["run", name], ["verify", name]):
            outcome = cli.here(*command, "--to", url)
            assert outcome.code == 0, outcome.stdout + outcome.stderr
        (line,) = cli.here("status", "--to", url, "--json").stdout.splitlines()
        assert json.loads(line)["source"].endswith(name)
    found = keys(redis_db_url)
    assert all(key.startswith(("one:recent:{", "one:ingest:", "shop/2.recent:{", "shop/2.ingest:")) for key in found)
    assert len([key for key in found if key.startswith("shop/2.recent:")]) == 1
    assert cli.here("verify", "few.csv", "--to", redis_db_url).code == 78  # without the prefix nothing was loaded
    assert (
        f"ZADD one:recent:{{{interaction(1, 2).user_id}}} "
        in cli.here("preview", "few.csv", "--to", places["pairs.csv"]).stdout
    )
    assert pairs.rows == 500


async def test_recent_answers_for_its_prefix(redis_db_url: str, cli: Cli, tmp_path: Path) -> None:
    """And for no other."""
    (tmp_path / "few.csv").write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
    url = f"{redis_db_url}?prefix=one:"
    assert cli.run("run", "few.csv", "--to", url).code == 0
    user = interaction(1, 2).user_id
    assert await InteractionStore([url]).recent(user) == [interaction(1, 2)]
    assert await InteractionStore([redis_db_url]).recent(user) == []


@pytest.mark.fault(13)
def test_rights_on_a_prefix_suffice(tmp_path: Path) -> None:
    """A user who may touch nothing else loads, resumes, verifies and tries crashes."""
    cli = Cli(tmp_path)
    write_pairs(tmp_path / "pairs.csv", 300)
    with find_redis(tmp_path) as server:
        rules = ["resetkeys", "~one:recent:*", "~one:ingest:*", "+@all"]
        url = f"{restricted(server, *rules).removesuffix('/0')}/0?prefix=one:".replace("~*", "")
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "loader", "resetkeys", "~one:recent:*", "~one:ingest:*")
        for command in (["check"], ["run", "pairs.csv"], ["run", "pairs.csv"], ["verify", "pairs.csv"]):
            outcome = cli.here(*command, "--to", url)
            assert outcome.code == 0, outcome.stderr
        before = keys(server.url)
        outcome = cli.run("crash-test", "pairs.csv", "--cycles", "1", "--to", url)
        assert outcome.code == 0, outcome.stdout + outcome.stderr
        assert keys(server.url) == before
        assert not keys(server.url.removesuffix("/0") + "/15")


@pytest.mark.parametrize("prefix", ["{a}", "a*", "a b", "a?", "%0A", "é", "a" * 101])
def test_a_prefix_that_means_something_else_is_refused(prefix: str) -> None:
    """Braces would put all of it into one slot of a cluster, stars would match other keys."""
    with pytest.raises(ConfigurationError, match="'prefix'"):
        sink_at(f"redis://host/0?prefix={prefix}")
