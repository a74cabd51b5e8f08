"""`verify`: what counts as a difference and what does not, as a user meets it."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import redis

from ingest_service.pipeline import dead_letter
from ingest_service.sinks.sqlite.sink import SQLiteSink
from ingest_service.sinks.testing.rows import FIRST_MS, chunk_of, interaction
from tests.helpers import HEADER, Cli, create_tables, dynamodb_at, write_pairs

ROWS = [f"{1 + i % 5},{100 + i},{FIRST_MS + i}\n" for i in range(100)]
BAD = ["x,1,1\n", "1,2\n", f"1,y,{FIRST_MS}\n"]


def pairs(cli: Cli, rows: int = 100, name: str = "pairs.csv") -> Path:
    """A bad row follows each thirtieth."""
    lines = [row + (BAD[i // 30] if i % 30 == 10 and i < 90 else "") for i, row in enumerate(ROWS[:rows])]
    return cli.file(name, f"{HEADER}\n" + "".join(lines))


def verified(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    """What it found; the exit code must say the same."""
    outcome = cli.here("verify", *arguments, "--json")
    assert outcome.stdout, outcome.stderr
    assert outcome.code == (0 if outcome.report["equal"] else 1)
    return outcome.report


def numbers(found: dict[str, Any], sink: str = "sqlite") -> tuple[int, ...]:
    return tuple(found["sinks"][sink][name] for name in ("compared", "missing", "altered", "extra"))


def letters_of(cli: Cli) -> Path:
    (path,) = (cli.folder / ".ingest").rglob(dead_letter.FILE_NAME)
    return path


async def store(cli: Cli, *rows: str) -> None:
    """Put rows into the default database as a run would that was killed before its checkpoint."""
    sink = SQLiteSink(f"sqlite:///{cli.folder / 'interactions.db'}")
    await sink.open()
    try:
        values = [tuple(int(field) for field in row.split(",")) for row in rows]
        await sink.store(chunk_of([interaction(*value) for value in values]))
        await sink.flush()
    finally:
        await sink.close()


# --- what it says ---------------------------------------------------------------------------------


def test_a_clean_load_has_no_differences(cli: Cli, redis_db_url: str, dynamodb_url: str, table: str) -> None:
    """A file with rows of every fate, in all sinks at once: each holds what it should, and so do the dead letters."""
    file = write_pairs(cli.folder / "pairs.csv", 20_000)
    to = [redis_db_url, dynamodb_at(dynamodb_url, table), "sqlite:///interactions.db"]
    asyncio.run(create_tables(to[1]))
    sinks = [argument for url in to for argument in ("--to", url)]
    report = cli.load(file.path, *sinks).report["sources"][0]["sinks"]
    found = verified(cli, file.path, *sinks)
    assert found["equal"]
    assert found["rows_read"] == 20_000
    keys = len(cli.rows)
    assert numbers(found) == numbers(found, "dynamodb") == (keys, 0, 0, 0)
    # No user of this file has more than a hundred rows but some.
    assert 0 < numbers(found, "redis")[0] <= keys
    assert found["dead_letters"]["compared"] == report["redis"]["rejected"] == len(file.bad)


def test_it_is_readable_and_names_places_only(cli: Cli) -> None:
    """The text has one line a sink, the first differences with line, offset and key, and nothing else of a row."""
    path = pairs(cli)
    cli.load(path)
    cli.here("run", path, "--to", "sqlite:///other.db?name=other")
    (cli.folder / "other.db").rename(cli.folder / "gone.db")
    cli.here("run", path, "--to", "sqlite:///other.db?name=other", "--limit", "1")
    outcome = cli.here("verify", path, "--to", "sqlite:///interactions.db", "--to", "sqlite:///other.db?name=other")
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert "sqlite: 100 rows compared, 0 missing, 0 altered, 0 extra" in lines
    assert "other: 1 rows compared, 0 missing, 0 altered, 0 extra" in lines
    assert any(line.startswith("  note: other has only the first 1 rows of file://") for line in lines)
    assert lines[-1] == "all as it should be"
    assert "session" not in outcome.stdout


def test_progress_is_shown(cli: Cli) -> None:
    """Events on stderr tell how far it is."""
    path = pairs(cli)
    cli.load(path)
    events = cli.here("verify", path).events
    assert events[0]["event"] == "verify"
    assert events[0]["rows_read"] == 103


# --- what a sink is held to -----------------------------------------------------------------------


async def test_rows_behind_the_watermark_are_not_yet_expected(cli: Cli) -> None:
    """A sink that has not all of the file is held to its checkpoint; it may have some of the rest, nothing else."""
    path = pairs(cli)
    assert cli.run("run", path, "40").code == 0

    def here() -> dict[str, Any]:
        return json.loads(cli.run("verify", path, "--json").stdout)  # type: ignore[no-any-return]

    found = here()
    assert (found["equal"], numbers(found)) == (True, (39, 0, 0, 0))
    await store(cli, *ROWS[60:80])
    found = here()
    assert (found["equal"], numbers(found)) == (True, (39, 0, 0, 0))
    await store(cli, f"1,5555,{FIRST_MS}")
    assert numbers(here()) == (39, 0, 0, 1)


def test_users_of_other_files_do_not_count(cli: Cli) -> None:
    """What a sink holds of users that the file has not is another file's business."""
    path = pairs(cli)
    other = cli.file("other.csv", f"{HEADER}\n77,1,{FIRST_MS}\n")
    cli.load(path, other)
    found = verified(cli, path)
    assert found["equal"]
    assert found["sinks"]["sqlite"]["notes"] == []


def test_files_that_share_users_are_compared_together(cli: Cli) -> None:
    """Alone each would have rows too many; together they have what they should."""
    one = pairs(cli)
    two = cli.file("two.csv", f"{HEADER}\n1,5000,{FIRST_MS}\n2,5000,{FIRST_MS}\n")
    cli.load(one, two)
    alone = verified(cli, one)
    assert numbers(alone) == (100, 0, 0, 2)
    assert "1 other source" in alone["sinks"]["sqlite"]["notes"][0]
    assert numbers(verified(cli, one, two)) == (102, 0, 0, 0)


def test_a_sample_compares_whole_users(cli: Cli) -> None:
    """Of two users all twenty rows each, the same ones each time; all dead letters."""
    path = pairs(cli)
    cli.load(path)
    first, second = (verified(cli, path, "--sample", "2") for _ in range(2))
    assert first == second
    assert numbers(first) == (40, 0, 0, 0)
    assert first["dead_letters"]["compared"] == 3


def test_the_newest_in_redis_are_what_counts(cli: Cli, redis_db_url: str) -> None:
    """A user with more rows than Redis keeps misses none; one that is not among the newest is one too many."""
    path = pairs(cli)
    to = f"{redis_db_url}?recent_limit=7"
    cli.load(path, "--to", to)
    assert numbers(verified(cli, path, "--to", to), "redis") == (35, 0, 0, 0)
    assert numbers(verified(cli, path, "--to", f"{redis_db_url}?recent_limit=8"), "redis") == (40, 5, 0, 0)
    assert numbers(verified(cli, path, "--to", f"{redis_db_url}?recent_limit=6"), "redis") == (30, 0, 0, 5)


def test_a_user_that_may_have_expired_is_pointed_out(cli: Cli, redis_db_url: str) -> None:
    """Its rows are missing, and a note says that a key without any may have expired."""
    path = pairs(cli)
    cli.load(path, "--to", redis_db_url)
    with redis.Redis.from_url(redis_db_url) as client:
        client.delete(f"recent:{{{interaction(2, 1).user_id}}}")
    found = verified(cli, path, "--to", redis_db_url)
    assert numbers(found, "redis") == (100, 20, 0, 0)
    (note,) = found["sinks"]["redis"]["notes"]
    assert "nothing at all of 1 users" in note
    assert "expires 86,400 s after its last write" in note


def test_a_wrong_score_in_redis_is_an_altered_row(cli: Cli, redis_db_url: str) -> None:
    """The order is part of what Redis stores."""
    path = pairs(cli)
    cli.load(path, "--to", redis_db_url)
    with redis.Redis.from_url(redis_db_url) as client:
        key = f"recent:{{{interaction(2, 1).user_id}}}"
        client.zincrby(key, 0.5, client.zrange(key, 3, 3)[0])
        client.zadd(key, {"no record": 5})
    assert numbers(verified(cli, path, "--to", redis_db_url), "redis") == (100, 0, 1, 1)


def test_rows_that_dynamodb_may_have_expired_are_not_missing(cli: Cli, dynamodb_url: str, table: str) -> None:
    """Past `expires_at` a row may be there or not; its value is compared while it is."""
    to = dynamodb_at(dynamodb_url, table, ttl_s=86_400)
    asyncio.run(create_tables(to))
    path = pairs(cli)
    cli.load(path, "--to", to)
    found = verified(cli, path, "--to", to)
    assert (found["equal"], numbers(found, "dynamodb")) == (True, (0, 0, 0, 0))
    assert found["sinks"]["dynamodb"]["expired"] == 100
    other = dynamodb_at(dynamodb_url, table, ttl_s=86_401)
    assert numbers(verified(cli, path, "--to", other), "dynamodb") == (0, 0, 100, 0)


def test_rows_that_a_sink_refused_are_not_expected_there(cli: Cli, redis_db_url: str) -> None:
    """A dead letter of a sink explains why its row is not in it, and in no other sink."""
    path = pairs(cli)
    key = f"recent:{{{interaction(2, 1).user_id}}}"
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(key, "no sorted set")
    sinks = ("--to", redis_db_url, "--to", "sqlite:///interactions.db")
    cli.load(path, *sinks)
    found = verified(cli, path, *sinks)
    assert found["equal"]
    assert (numbers(found, "redis"), numbers(found)) == ((80, 0, 0, 0), (100, 0, 0, 0))
    text = letters_of(cli).read_text()
    letters_of(cli).write_text("".join(line for line in text.splitlines(True) if '"stage": "redis"' not in line))
    assert numbers(verified(cli, path, *sinks), "redis") == (100, 20, 0, 0)


# --- dead letters ---------------------------------------------------------------------------------


def test_the_dead_letters_are_compared_too(cli: Cli) -> None:
    """One that is missing, one of no refused row and one that is there twice are differences."""
    path = pairs(cli)
    cli.load(path)
    lines = letters_of(cli).read_text().splitlines(keepends=True)
    assert len(lines) == 3

    def found() -> tuple[int, int]:
        letters = verified(cli, path)["dead_letters"]
        return letters["missing"], letters["extra"]

    letters_of(cli).write_text("".join(lines[1:]))
    assert found() == (1, 0)
    letters_of(cli).write_text("".join([*lines, lines[1]]))
    assert found() == (0, 1)
    good = json.loads(lines[0]) | {"offset": len(HEADER) + 1}
    letters_of(cli).write_text("".join([*lines, json.dumps(good) + "\n"]))
    assert found() == (0, 1)
    of_no_row = json.loads(lines[0]) | {"stage": "sqlite", "offset": 5}
    letters_of(cli).write_text("".join([*lines, json.dumps(of_no_row) + "\n"]))
    assert found() == (0, 1)
    letters_of(cli).write_text("".join(lines))
    assert found() == (0, 0)


# --- mistakes -------------------------------------------------------------------------------------


def test_a_sink_without_a_checkpoint_is_refused(cli: Cli) -> None:
    """Nothing says what it should hold; the message says what to do."""
    outcome = cli.here("verify", pairs(cli))
    assert outcome.code == 78
    assert "has no checkpoint of" in outcome.message


def test_a_source_that_changed_is_refused(cli: Cli) -> None:
    """Comparing with another file would only mislead."""
    path = pairs(cli)
    cli.load(path)
    path.write_text(path.read_text().replace("1,100,", "1,101,"))
    outcome = cli.here("verify", path)
    assert outcome.code == 78
    assert "are not those that were ingested" in outcome.message
    pairs(cli, 50)
    assert cli.here("verify", path).code == 78


def test_standard_input_is_refused(cli: Cli) -> None:
    """It cannot be read again."""
    outcome = cli.here("verify", "-")
    assert (outcome.code, outcome.message.startswith("Standard input cannot")) == (2, True)


def test_a_damaged_checkpoint_is_refused(cli: Cli) -> None:
    """It is damaged, and not a difference."""
    path = pairs(cli)
    cli.load(path, "--checkpoint", "file:checkpoints")
    (checkpoint,) = (cli.folder / "checkpoints").glob("*.json")
    checkpoint.write_text(checkpoint.read_text()[:-5])
    outcome = cli.here("verify", path, "--checkpoint", "file:checkpoints")
    assert outcome.code == 78
    assert "is damaged" in outcome.message


def test_nothing_is_left_behind(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set aside is gone, and neither sink nor checkpoint has changed."""
    path = pairs(cli)
    cli.load(path)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    before = (cli.folder / "interactions.db").read_bytes()
    assert verified(cli, path)["equal"]
    assert os.listdir(folder) == []  # noqa: PTH208
    assert (cli.folder / "interactions.db").read_bytes() == before
