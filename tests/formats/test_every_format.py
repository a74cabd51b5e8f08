"""What holds for every format, by the commands: loads, what is refused, verify, replay, growing files, kills."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.helpers import Cli

N = 3_000
AT = 1_583_366_400_000
FIELDS: list[dict[str, Any]] = [
    {"name": "user", "type": "string", "x-role": "owner"},
    {"name": "item", "type": "integer", "x-role": "item"},
    {"name": "at", "type": "integer", "x-role": "time", "x-unit": "ms"},
    {"name": "note", "type": "string", "x-keep": True},
]
EACH = [
    FIELDS[0],
    FIELDS[1] | {"x-path": "seen[].item"},
    FIELDS[2] | {"x-path": "seen[].at"},
    FIELDS[3] | {"x-path": "about.note"},
]


def note(n: int) -> str:
    return f"naïve {n % 9} “{n % 5}” 😀"


def delimited(n: int) -> str:
    return f'u{n % 50};{n};{AT + n};"{note(n)}"\n'


def line(n: int, **changes: object) -> str:
    return json.dumps({"user": f"u{n % 50}", "item": n, "at": AT + n, "note": note(n)} | changes) + "\n"


def literal(n: int, **changes: object) -> str:
    return repr({"user": f"u{n % 50}", "item": n, "at": AT + n, "note": note(n)} | changes) + "\n"


def several(n: int) -> str:
    seen = [{"item": 10 * n + i, "at": AT + n} for i in range(n % 4)]
    return json.dumps({"user": f"u{n % 50}", "seen": seen, "about": {"note": note(n)}}, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Form:
    """How rows are written, a line each; `bad` is a row that is refused, and `good` what mends it."""

    schema: dict[str, Any]
    row: Callable[[int], str]
    bad: str
    wrong: str
    right: str
    encoding: str = "utf-8"
    head: str = ""
    records: Callable[[int], int] = lambda n: 1


FORMS = {
    "utf-16": Form(
        {"encoding": "utf-16", "fields": FIELDS},
        delimited, "u;x;1;n\n", "u;x;1", f"u;5;{AT}", "utf-16", "user;item;at;note\n",
    ),
    "big endian": Form(
        {"encoding": "utf-16-be", "dialect": {"header": False, "delimiter": ";"}, "fields": FIELDS},
        delimited, "u;x;1;n\n", "u;x;1", f"u;5;{AT}", "utf-16-be",
    ),
    "windows-1252": Form(
        {"encoding": "windows-1252", "fields": FIELDS},
        lambda n: delimited(n).replace("😀", "€"), "u;x;1;ñ\n", "u;x;1", f"u;5;{AT}",
        "windows-1252", "user;item;at;note\n",
    ),
    "jsonl": Form({"format": "jsonl", "fields": FIELDS}, line, line(1, item="x"), '\\"x\\"', "5"),
    "literals": Form({"format": "literals", "fields": FIELDS}, literal, literal(1, item="x"), "'x'", "5"),
    "several a line": Form(
        {"format": "jsonl", "fields": EACH}, several, several(N + 3).replace("30030", '"x"'), '\\"x\\"', "30030",
        records=lambda n: n % 4,
    ),
}  # fmt: skip
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def write(cli: Cli, form: Form, n: int = N, *, end: str = "") -> None:
    fields = form.schema["fields"]
    schema = {name: value for name, value in form.schema.items() if name != "fields"}
    cli.file("own.yaml", yaml.safe_dump({"name": "own", **schema, "schema": {"fields": fields}}).encode())
    text = form.head + "".join(map(form.row, range(n))) + end
    mark = "\ufeff" if form.encoding == "utf-16-be" else ""  # "utf-16" writes one by itself
    cli.file("rows.dat", (mark + text).encode(form.encoding))


def records(form: Form, n: int = N) -> int:
    return sum(map(form.records, range(n)))


OWN = ("rows.dat", "--dataset", "own.yaml")


@forms
def test_a_load_is_whole(cli: Cli, form: Form) -> None:
    """All rows, and what each says; verify finds nothing, and finds what is taken away; a second load adds nothing."""
    write(cli, form, end=form.bad)
    (sink,) = cli.load(*OWN).report["sources"][0]["sinks"].values()
    assert (sink["read"], sink["accepted"], sink["rejected"]) == (N + 1, N, 1)
    assert sink["written"] == records(form)
    assert sink.get("records", N) == records(form)
    rows = cli.rows
    assert len(rows) == records(form)
    notes = {row["note"].replace("€", "😀") for row in rows.values()}
    assert notes == {note(n) for n in range(N) if form.records(n)}
    users = {row["session_id"].split("_")[1] for row in rows.values()}
    assert users == {f"u{n % 50}" for n in range(N) if form.records(n)}
    assert cli.here("verify", *OWN).code == 0
    cli.load(*OWN)
    assert cli.rows == rows
    with contextlib.closing(sqlite3.connect(cli.folder / "interactions.db")) as database:
        database.execute("DELETE FROM interactions WHERE event_key = (SELECT min(event_key) FROM interactions)")
        database.commit()
    assert cli.here("verify", *OWN).code == 1


@forms
def test_a_refused_row_is_replayed(cli: Cli, form: Form) -> None:
    """Its text is in the dead letter, and what is mended there is loaded as the row it should have been."""
    write(cli, form, end=form.bad)
    cli.load(*OWN)
    (letter,) = cli.dead_letters
    assert letter["line"] == N + 1 + bool(form.head)
    assert letter["raw"] == form.bad.rstrip("\n")
    (path,) = (cli.folder / ".ingest").rglob("dead-letters.jsonl")
    text = path.read_text()
    assert form.wrong in text
    path.write_text(text.replace(form.wrong, form.right))
    assert cli.here("replay", path, "--dataset", "own.yaml").code == 0
    assert cli.here("verify", *OWN).code == 0
    assert len(cli.rows) > records(form)


@forms
def test_a_file_that_goes_on_is_gone_on_with(cli: Cli, form: Form) -> None:
    """A limit, the whole, and what was written to its end since: each row once; half a last row is taken back."""
    write(cli, form, 500)
    cli.load(*OWN, "--limit", "123")
    assert len(cli.rows) == records(form, 123)
    path = cli.folder / "rows.dat"
    whole = path.read_bytes()
    unit = 2 if "16" in form.encoding else 1
    path.write_bytes(whole[: len(whole) - 9 * unit])
    cli.here("run", *OWN, "--max-rejects", "1")
    write(cli, form, 700)
    assert path.read_bytes().startswith(whole)
    cli.load(*OWN, "--max-rejects", "1")
    assert len(cli.rows) == records(form, 700)
    assert cli.here("verify", *OWN).code == 0
    assert not cli.dead_letters


@forms
def test_kills_lose_nothing(cli: Cli, form: Form) -> None:
    """A few runs that are killed and gone on with leave what one that was not does."""
    write(cli, form, end=form.bad)
    outcome = cli.here("crash-test", *OWN, "--to", "sqlite:///t.db?rate=9000", "--cycles", "3", "--seed", "5")
    assert outcome.code == 0, outcome.stdout + outcome.stderr
