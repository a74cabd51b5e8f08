"""Rows that are refused, by the commands: what becomes of them, when they stop a run, and what is said."""

import base64
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.sinks.testing.rows import FIRST_MS, interaction, key_of
from tests.helpers import HEADER, Cli, sqlite_rows

ONE, TWO = interaction(1, 2, FIRST_MS), interaction(30, 40, FIRST_MS + 1_000)

BAD_ROWS: dict[str, tuple[bytes, str]] = {
    "too few fields": (b"1,2", "wrong_arity"),
    "too many fields": (b"1,2,1583366400000,4", "wrong_arity"),
    "not a number": (b"one,2,1583366400000", "bad_id"),
    "beyond 64 bits": (b"9223372036854775808,2,1583366400000", "bad_id"),
    "an empty id": (b",2,1583366400000", "bad_id"),
    "an impossible date": (b"1,2,2021-02-30T00:00:00", "bad_timestamp"),
    "before 1970": (b"1,2,1969-12-31T23:59:59", "timestamp_out_of_range"),
    "invalid UTF-8": (b"1,\xff2,1583366400000", "invalid_utf8"),
    "NUL": (b"1,2\x00,1583366400000", "nul_byte"),
    "an unclosed quote": (b'1,"2,1583366400000', "unclosed_quote"),
    "text after a quote": (b'1,"2"x,1583366400000', "bad_quote"),
    "a field of 1 MiB": (b"1," + b"2" * MAX_RECORD_BYTES + b",1583366400000", "record_too_long"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
@pytest.mark.parametrize("last", [False, True], ids=["between", "last, no newline"])
def test_a_bad_row_is_one_dead_letter(cli: Cli, name: str, last: bool) -> None:
    """It is kept with line, offset, bytes and reason; the good rows around it land."""
    raw, code = BAD_ROWS[name]
    head = f"{HEADER}\n1,2,{FIRST_MS}\n".encode()
    good = f"30,40,{FIRST_MS + 1_000}\n".encode()
    content = head + good + raw if last else head + raw + b"\n" + good
    path = cli.file("pairs.csv", content)
    outcome = cli.load(path)
    assert cli.rows.keys() == {key_of(ONE), key_of(TWO)}
    assert outcome.counts("sqlite")["rejected"] == 1
    (letter,) = cli.dead_letters
    text = letter["raw"]
    assert (base64.b64decode(text) if letter.get("encoding") == "base64" else text.encode()) == raw
    assert content[letter["offset"] :].startswith(raw)
    assert (letter["line"], letter["code"]) == (4 if last else 3, code)
    assert letter["source"] == path.as_uri()
    assert letter["stage"] in ("parse", "validate")
    assert letter["reason"].endswith(".")
    assert datetime.fromisoformat(letter["at"]).tzinfo == UTC
    folder = Path(outcome.report["sources"][0]["dead_letters"])
    assert stat.S_IMODE((cli.folder / folder).stat().st_mode) == 0o600


def test_all_bad_rows_together(cli: Cli) -> None:
    """One of each in one file: as many dead letters, in order, and no good row is lost to a quote."""
    lines = [HEADER.encode()]
    for number, (raw, _) in enumerate(BAD_ROWS.values()):
        lines += [raw, f"{number},1,{FIRST_MS}".encode()]
    outcome = cli.load(cli.file("pairs.csv", b"\n".join(lines)))
    assert [(letter["line"], letter["code"]) for letter in cli.dead_letters] == [
        (2 + 2 * number, code) for number, (_, code) in enumerate(BAD_ROWS.values())
    ]
    assert cli.rows.keys() == {key_of(interaction(number, 1)) for number in range(len(BAD_ROWS))}
    assert outcome.report["balanced"]


@pytest.mark.parametrize(
    ("limit", "code"), [("9", 65), ("10", 0), ("0.9%", 65), ("1%", 0), ("0", 65), ("0%", 65), ("100%", 0)]
)
def test_too_many_rejects_stop_the_run(cli: Cli, limit: str, code: int) -> None:
    """Ten bad rows in a thousand: more than allowed exits 65, keeps what was refused, and can be gone on from."""
    cli.file("pairs.csv", f"{HEADER}\n" + f"x,1,1\n{f'1,2,{FIRST_MS}{chr(10)}' * 99}" * 10)
    outcome = cli.here("run", "pairs.csv", "--max-rejects", limit)
    assert outcome.code == code, outcome.stderr
    assert len(cli.dead_letters) == 10
    if code:
        assert "--max-rejects" in outcome.message
    assert cli.load("pairs.csv").counts("sqlite")["rejected"] == 10
    assert len(cli.dead_letters) == 10


def ending(cli: Cli, *arguments: str) -> tuple[int, str]:
    outcome = cli.here("run", "pairs.csv", *arguments)
    return outcome.code, outcome.message if outcome.code else ""


GOOD, BAD = f"1,2,{FIRST_MS}\n", "x1,2,1583366400000\n"


@pytest.mark.fault(59)
@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (BAD, 65),
        (BAD * 3_000, 65),
        (BAD * 3_000 + GOOD, 0),
        (BAD * 5_001 + GOOD * 6_000, 65),
        (GOOD * 5_000 + BAD * 5_000 + GOOD * 10, 0),
        (GOOD * 10_000 + BAD * 20_000, 0),
        ("", 0),
    ],
    ids=["one bad", "all bad", "one good", "most of the first", "half of the first", "bad later", "no rows"],
)
def test_a_source_that_is_mostly_refused_is_no_success(cli: Cli, rows: str, code: int) -> None:
    """More than half of the first 10,000 rows, or all of a shorter source: 65 at each run, unless a limit is set."""
    cli.file("pairs.csv", f"{HEADER}\n{rows}")
    for _ in range(2):
        found, message = ending(cli)
        assert found == code
        if code:
            assert "--max-rejects 100%" in message
    assert ending(cli, "--max-rejects", "100%")[0] == 0
    if code:
        assert ending(cli, "--restart")[0] == code


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("u7,2,1583366400000", "line 2: user is not an integer within 64 bits. Ids are whole numbers"),
        ("1,2.5,1583366400000", "line 2: item is not an integer"),
        ("1,2,yesterday", "line 2: timestamp is neither an ISO 8601 date and time nor a Unix epoch. Write times like"),
        ("1,2,1583366400000,", "Each row ends with ',': end the header with one, too."),
        ("r1,1,2,1583366400000", "Each row has one field more, as with row names"),
        ("1;2;1583366400000", "The rows are split by ';' and the header by ','"),
        ("1\t2\t1583366400000", "The rows are split by tabs and the header by ','"),
        ("1", "line 2: The record has 1 fields where the header has 3. Does the header belong to these rows?"),
    ],
)
def test_what_most_rows_are_refused_for_is_said_once(cli: Cli, row: str, says: str) -> None:
    """The commonest reason, with the line of its first row, and what to write instead."""
    cli.file("pairs.csv", f"{HEADER}\n" + f"{row}\n" * 50)
    code, message = ending(cli)
    assert code == 65
    assert says in message
    assert "50 of 50 rows are refused" in message


@pytest.mark.fault(60)
def test_a_sink_that_refuses_all_is_no_success(cli: Cli, redis_db_url: str) -> None:
    """65 with the sink's reason, though another sink took everything; the rows are kept, and a limit allows it."""
    user = interaction(1, 2).user_id
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(f"recent:{{{user}}}", "something else")
    cli.file("pairs.csv", f"{HEADER}\n" + "".join(f"1,{item},{FIRST_MS}\n" for item in range(50)))
    to = ("--to", redis_db_url, "--to", "sqlite:///a.db")
    for first in (True, False):
        code, message = ending(cli, *to)
        assert code == 65
        assert "redis refuses all 50 rows that it was given" in message
        assert not first or "line 2: The user's key holds something" in message
    assert len(cli.dead_letters) == 50
    assert ending(cli, *to, "--max-rejects", "100%")[0] == 0


def test_a_sink_that_refuses_all_the_first_rows_is_not_given_the_rest(cli: Cli, redis_db_url: str) -> None:
    """After so many the run stops: the file is not read to its end in vain."""
    user = interaction(1, 2).user_id
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(f"recent:{{{user}}}", "something else")
    note = "n" * 800
    cli.file("pairs.csv", f"{HEADER},note\n" + "".join(f"1,{item},{FIRST_MS},{note}\n" for item in range(60_000)))
    assert ending(cli, "--to", redis_db_url)[0] == 65
    assert 10_000 <= len(cli.dead_letters) < 60_000


def test_floats_of_whole_numbers_are_loaded(cli: Cli) -> None:
    """A frame that pandas wrote with gaps in its columns is the file that it was made of."""
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n3,4,{FIRST_MS}\n")
    cli.file("floats.csv", f"{HEADER}\n1.0,2.0,{FIRST_MS}.0\n3.0,4.0,{FIRST_MS}.0\n")
    cli.load("pairs.csv", "--to", "sqlite:///a.db")
    cli.load("floats.csv", "--to", "sqlite:///b.db")
    assert sqlite_rows(cli.folder / "a.db") == sqlite_rows(cli.folder / "b.db") != {}
