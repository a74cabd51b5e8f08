"""Steps of a data set through every command and into every server."""

import json
import re
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

from tests.datasets.test_schema_file import ITEM, OWNER, RATING, TIME
from tests.datasets.test_steps import KEY, NOTE
from tests.helpers import Cli, Outcome
from tests.servers import ROOT

STEPS: list[dict[str, Any]] = [
    {"derive": "hour", "part": "hour", "zone": "Europe/Berlin"},
    {"filter": "rating >= 3 and hour != 5"},
    {"derive": "level", "bucket": "rating", "edges": [2, 4]},
]
MADE: list[dict[str, Any]] = [
    {"derive": "twice", "as": "rating * 2", "otherwise": 0},
    {"derive": "liked", "as": "rating >= 4"},
    {"derive": "date", "part": "date", "zone": "Asia/Tokyo"},
]
WEEKDAYS = """
[[transform]]
derive = "weekday"
part = "weekday"

[[transform]]
filter = "weekday < 5"
"""


def told(outcome: Outcome) -> dict[str, int]:
    found: dict[str, int] = outcome.report["sources"][0]["sinks"]["sqlite"]
    return found


def schema_file(cli: Cli, steps: list[dict[str, Any]]) -> Path:
    fields = [OWNER, ITEM, TIME, RATING]
    return cli.file("own.yaml", yaml.safe_dump({"name": "own", "schema": {"fields": fields}, "x-transform": steps}))


def ratings(cli: Cli, n: int = 3000) -> tuple[Path, int]:
    """A file of which every seventh row is refused, and how many of the others have a rating of 3 or more at no 5."""
    lines, n_kept = ["user,item,at,rating"], 0
    for i in range(n):
        rating = "bad" if i % 7 == 0 else str(i % 5 + 1)
        at = 1_600_000_000_000 + i * 977_000
        lines.append(f"u{i % 40},i{i},{at},{rating}")
        hour = datetime.fromtimestamp(at / 1000, ZoneInfo("Europe/Berlin")).hour
        n_kept += rating != "bad" and int(rating) >= 3 and hour != 5
    return cli.file("ratings.csv", "\n".join(lines) + "\n"), n_kept


def test_every_row_is_told_of_and_verify_sees_the_same_records(cli: Cli) -> None:
    path, n_kept = ratings(cli)
    options = ("--dataset", schema_file(cli, STEPS))
    first = told(cli.load(path, *options, "--limit", "1000"))
    assert first["read"] == 1000 == first["accepted"] + first["rejected"] + first["filtered"]
    counts = told(cli.load(path, *options))
    assert counts["read"] == 3000
    assert counts["rejected"] == 429
    assert counts["written"] == counts["accepted"] == n_kept == len(cli.rows)
    assert counts["filtered"] == 3000 - 429 - n_kept
    assert len(cli.dead_letters) == 429
    verified = cli.here("verify", path, *options)
    assert verified.code == 0, verified.stdout + verified.stderr
    preview = cli.here("preview", path, *options, "-n", "40")
    assert preview.code == 0, preview.stderr
    assert "level" in preview.stdout


def test_a_run_that_is_killed_passes_over_the_same_rows(cli: Cli) -> None:
    """Its trial compares rows, dead letters and all counts with those of a run without a kill."""
    path, _ = ratings(cli)
    outcome = cli.here(
        "crash-test",
        path,
        "--dataset",
        schema_file(cli, STEPS),
        "--to",
        "sqlite:///a.db",
        "--cycles",
        "2",
        "--seed",
        "3",
        "--checkpoint",
        "sink",
    )
    assert outcome.code == 0, outcome.stdout + outcome.stderr


def test_a_letter_that_is_mended_into_a_filtered_row_stays_a_letter(cli: Cli) -> None:
    cli.load(ratings(cli)[0], "--dataset", schema_file(cli, STEPS))
    (letters,) = cli.folder.rglob("dead-letters.jsonl")
    first, *others = letters.read_text().splitlines()
    letter = json.loads(first)
    letter["raw"] = letter["raw"].replace("bad", "1")
    letters.write_text("\n".join([json.dumps(letter), *others]) + "\n")
    n_rows = len(cli.rows)
    cli.here("replay", letters, "--dataset", schema_file(cli, STEPS))
    assert [one["code"] for one in cli.dead_letters].count("filtered") == 1
    assert len(cli.rows) == n_rows


def test_letters_of_rows_loaded_with_other_steps_are_not_replayed(cli: Cli) -> None:
    """Mended, they land once the steps are those of the load; until then no letter moves, and no row is written."""
    cli.load(ratings(cli, 70)[0], "--dataset", schema_file(cli, MADE))
    (letters,) = cli.folder.rglob("dead-letters.jsonl")
    letters.write_text(letters.read_text().replace("bad", "4"))
    before, rows = letters.read_bytes(), cli.rows
    for other in (MADE[:1], [], [{**MADE[0], "as": "rating * 3"}, *MADE[1:]], MADE[::-1]):
        outcome = cli.here("replay", letters, "--dataset", schema_file(cli, other))
        assert outcome.code == 78, outcome.stdout + outcome.stderr
        assert "steps" in outcome.stderr
        assert (letters.read_bytes(), cli.rows) == (before, rows)
    outcome = cli.here("replay", letters, "--dataset", schema_file(cli, MADE))
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    landed = [row for key, row in cli.rows.items() if key not in rows]
    assert len(landed) == 10
    assert {(float(row["twice"]), row["liked"], row["date"]) for row in landed} == {
        (8, "true", "2020-09-13"),
        (8, "true", "2020-09-14"),
    }


def test_preview_verify_and_crash_test_see_the_records_of_the_load(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a step of each kind; what is derived is what a loop over the rows derives."""
    monkeypatch.setenv("HASH_KEY", KEY)
    steps = [
        *MADE,
        {"derive": "level", "bucket": "twice", "edges": [4, 8]},
        {"filter": "level > 0 and liked == 'true'"},
    ]
    steps += [{"hash": "level", "key": "HASH_KEY"}, {"rename": "liked", "to": "good"}, {"drop": "rating"}]
    path, _ = ratings(cli, 700)
    options = ("--dataset", schema_file(cli, steps))
    counts = told(cli.load(path, *options))
    wanted = [i for i in range(700) if i % 7 and i % 5 + 1 >= 4]
    assert counts["written"] == len(wanted) == len(cli.rows)
    key = blake2b(KEY.encode(), person=b"ingest key").digest()
    level = {stars: blake2b(str(1 + (stars >= 4)).encode(), key=key, digest_size=16).hexdigest() for stars in (4, 5)}
    expected = sorted((level[i % 5 + 1], "true", float(2 * (i % 5 + 1))) for i in wanted)
    assert sorted((row["level"], row["good"], float(row["twice"])) for row in cli.rows.values()) == expected
    shown = cli.here("preview", path, *options, "-n", "20")
    assert shown.code == 0, shown.stderr
    assert {"twice", "good", "date", "level"} <= set(re.findall("[a-z]+", shown.stdout))
    assert level[4][:8] in shown.stdout
    assert cli.here("verify", path, *options).code == 0
    trial = ("--to", "sqlite:///a.db", "--cycles", "1", "--seed", "3", "--checkpoint", "sink")
    outcome = cli.here("crash-test", path, *options, *trial)
    assert outcome.code == 0, outcome.stdout + outcome.stderr


@pytest.fixture
def servers(
    redis_db_url: str, dynamodb_url: str, table: str, mongodb_db_url: str, postgresql_schema_url: str
) -> list[str]:
    endpoint = f"endpoint={dynamodb_url}"
    dynamodb = f"dynamodb://{table}?checkpoint_table={table}_checkpoints&{endpoint}"
    return [redis_db_url, dynamodb, mongodb_db_url, postgresql_schema_url]


def test_every_server_holds_what_steps_made(cli: Cli, servers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the built-in data set, with a field of each kind: `verify` reads the rows back and finds no difference."""
    monkeypatch.setenv("HASH_KEY", KEY)
    steps = [
        'derive = "share"\nas = "hour / 23"\notherwise = 0.0',
        'derive = "late"\nas = "hour > 18"',
        'derive = "label"\nas = "upper(event_type) + \' ü\'"',
        'derive = "date"\npart = "date"',
        'filter = "hour != 3"',
        'hash = "hour"\nkey = "HASH_KEY"',
    ]
    text = "".join(f"[[transform]]\n{step}\n" for step in ('derive = "hour"\npart = "hour"', *steps))
    cli.file("ingest.toml", text)
    lines = [f"{i % 9},{i},{1_600_000_000_000 + i * 3_001_000}" for i in range(200)]
    path = cli.file("pairs.csv", "\n".join(["user,item,timestamp", *lines]) + "\n")
    to = [word for url in servers for word in ("--to", url)]
    assert cli.here("check", "--create", *to).code == 0
    cli.load(path, *to)
    verified = cli.here("verify", path, *to)
    assert verified.code == 0, verified.stdout + verified.stderr
    shown = cli.here("show", "5", *to)
    assert shown.stdout.count("CLICK ü") >= 4 * 20, shown.stdout


def test_the_example_of_the_page_is_loaded_as_it_says(cli: Cli) -> None:
    (example,) = re.findall(r"<<'END'\n(.*?)^END$", (ROOT / "docs" / "TRANSFORMS.md").read_text(), re.M | re.S)
    schema = cli.file("ratings.yaml", example)
    path = cli.file("ratings.csv", "user,item,at,rating\n1,2,1583366400,2.5\n1,3,1583366400,3.5\n")
    counts = told(cli.load(path, "--dataset", schema))
    assert (counts["read"], counts["written"], counts["filtered"]) == (2, 1, 1)
    (row,) = cli.rows.values()
    assert (int(row["hour"]), int(row["level"])) == (1, 1)


def test_other_steps_than_those_of_the_checkpoint_are_refused(cli: Cli) -> None:
    path, n_kept = ratings(cli)
    cli.load(path, "--dataset", schema_file(cli, STEPS))
    for steps in (STEPS[:2], []):
        other = schema_file(cli, steps)
        for command in ("run", "verify"):
            outcome = cli.here(command, path, "--dataset", other)
            assert outcome.code == 78, outcome.stdout + outcome.stderr
            assert "steps" in outcome.stderr
    again = cli.load(path, "--dataset", schema_file(cli, STEPS[:2]), "--restart")
    assert again.counts("sqlite")["written"] + again.counts("sqlite")["merged"] == n_kept


def test_steps_of_the_configuration_are_taken_with_a_built_in_data_set(cli: Cli) -> None:
    """By every command; and once they are others, the rest is not loaded."""
    n = 400
    moments = [datetime.fromtimestamp(1_600_000_000 + i * 30_011, UTC) for i in range(n)]
    lines = [f"{i % 9},{i},{int(moment.timestamp()) * 1000}" for i, moment in enumerate(moments)]
    path = cli.file("pairs.csv", "\n".join(["user,item,timestamp", *lines]) + "\n")
    cli.file("ingest.toml", WEEKDAYS)
    expected = sorted(moment.weekday() for moment in moments if moment.weekday() < 5)
    counts = told(cli.load(path))
    assert (counts["read"], counts["written"], counts["filtered"]) == (n, len(expected), n - len(expected))
    assert sorted(int(row["weekday"]) for row in cli.rows.values()) == expected
    assert cli.here("verify", path).code == 0
    assert "weekday" in cli.here("preview", path).stdout
    trial = cli.here(
        "crash-test", path, "--to", "sqlite:///a.db", "--cycles", "1", "--seed", "3", "--checkpoint", "sink"
    )
    assert trial.code == 0, trial.stdout + trial.stderr
    cli.file("ingest.toml", WEEKDAYS.replace("5", "6"))
    outcome = cli.here("run", path)
    assert outcome.code == 78
    assert "[[transform]]" in outcome.stderr


def test_steps_of_the_configuration_come_after_those_of_the_schema_file(cli: Cli) -> None:
    cli.file("ingest.toml", '[[transform]]\nfilter = "level > 0 and rating < 5"\n[[transform]]\ndrop = "hour"\n')
    path, _ = ratings(cli, 700)
    counts = told(cli.load(path, "--dataset", schema_file(cli, STEPS)))
    for row in cli.rows.values():
        assert float(row["rating"]) in (3, 4)
        assert "hour" not in row
    hours = [
        datetime.fromtimestamp(1_600_000_000 + i * 977, ZoneInfo("Europe/Berlin")).hour
        for i in range(700)
        if i % 7 and i % 5 in (2, 3)
    ]
    assert counts["written"] == sum(hour != 5 for hour in hours) == len(cli.rows)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('filter = "rating > 3"', "data set microlens: in step 1 there is no field 'rating'"),
        ('derive = "h"\npart = "hour"\nzone = "Mars"', "transform.0.*no such time zone"),
        ('shell = "true"', "transform.0"),
    ],
)
def test_a_wrong_step_of_the_configuration_is_refused(cli: Cli, text: str, reason: str) -> None:
    cli.file("ingest.toml", f"[[transform]]\n{text}\n")
    outcome = cli.here("run", cli.file("pairs.csv", "user,item,timestamp\n1,2,1583366400000\n"))
    assert outcome.code == 78
    assert re.search(reason, outcome.stderr), outcome.stderr
    assert not (cli.folder / "interactions.db").exists()


def test_a_hash_tells_its_key_to_nobody(cli: Cli) -> None:
    """Without the key, with a short one or another nothing goes on; no output, log, checkpoint or letter has it."""
    fields, steps = [OWNER, ITEM, TIME, NOTE], [{"hash": "note", "key": "HASH_KEY"}]
    text = yaml.safe_dump({"name": "own", "schema": {"fields": fields}, "x-transform": steps})
    options = ("--dataset", cli.file("own.yaml", text), "--json")
    path = cli.file("notes.csv", "user,item,at,note\na,b,1583366400000,me@example.org\na,bad\n")
    kept = "--checkpoint", "file:marks"
    said = []
    for secret, code, reason in (("", 78, "is not set"), ("k" * 31, 78, "fewer than 32"), (KEY, 0, ""), (KEY, 0, "")):
        outcome = cli.run("run", path, *options, *kept, HASH_KEY=secret, LOG_LEVEL="DEBUG")
        assert outcome.code == code, outcome.stderr
        assert reason in outcome.stderr
        said.append(outcome)
    (row,) = cli.rows.values()
    assert re.fullmatch("[0-9a-f]{32}", row["note"])
    other = KEY[::-1]
    for command in ("run", "verify"):
        said.append(cli.run(command, path, *options[:2], *kept, HASH_KEY=other))
        assert said[-1].code == 78, said[-1].stderr
        assert "the steps" in said[-1].stderr
    assert cli.run("verify", path, *options[:2], *kept, HASH_KEY=KEY).code == 0
    derived = blake2b(KEY.encode(), person=b"ingest key")
    texts = [one.stdout + one.stderr for one in said] + [
        one.read_bytes().decode(errors="replace") for one in cli.folder.rglob("*") if one.is_file()
    ]
    for text in texts:
        assert KEY not in text
        assert derived.hexdigest() not in text


def test_a_checkpoint_without_steps_is_as_it_ever_was(cli: Cli) -> None:
    path, _ = ratings(cli)
    outcome = cli.load(path, "--dataset", schema_file(cli, []), "--checkpoint", f"file:{cli.folder / 'marks'}")
    assert outcome.code == 0
    (mark,) = (json.loads(one.read_text()) for one in (cli.folder / "marks").rglob("*.json"))
    assert "steps" not in mark["source"]
    assert "filtered" not in mark["counts"]
