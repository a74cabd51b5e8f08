"""Standard streams: closed, full, and names that act on who looks at them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest_service.runtime.escaped import escaped
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import COMMAND, HEADER, Cli


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    found = Cli(tmp_path)
    yield found
    found.close()


_REDIRECTIONS = (
    "<&-",
    ">&-",
    "2>&-",
    ">/dev/full",
    "2>/dev/full",
    "<&- >&- 2>&-",
    ">&- 2>/dev/full",
    ">/dev/full 2>&-",
)


@pytest.mark.parametrize("streams", _REDIRECTIONS)
def test_closed_and_full_streams_change_nothing_that_is_stored(cli: Cli, streams: str) -> None:
    """All rows are there, the database is whole, and no exit code says that there are differences."""
    cli.file("pairs.csv", f"{HEADER}\n" + "".join(f"{user},1,{FIRST_MS}\n" for user in range(100)))

    def code_of(*command: str) -> int:
        script = f'exec "$@" {streams}'
        return subprocess.run(["sh", "-c", script, "sh", *COMMAND, *command], cwd=cli.folder, check=False).returncode

    is_full = ">/dev/full" in streams.replace("2>/dev/full", "")
    for command in (["run", "pairs.csv", "--json"], ["run", "pairs.csv"], ["verify", "pairs.csv"], ["status"]):
        assert code_of(*command) == (74 if is_full else 0), command
    assert len(cli.rows) == 100
    assert code_of("--help") == (74 if is_full else 0)
    assert code_of("run", "missing.csv") == 66
    assert code_of("run", "--nonsense") == 2


def test_names_act_on_no_terminal(cli: Cli) -> None:
    """Neither in errors, nor in the log, nor in a table."""
    name = "a\x1b[2J\n{}\x9b\u2028\u202e.csv"
    for arguments in (["run", name], ["run", f"--{name}"], ["check", name], ["status", name]):
        outcome = cli.here(*arguments)
        shown = outcome.stdout + outcome.stderr
        assert "\\x1b[2J\\n{}\\x9b\\u2028\\u202e" in shown or arguments[1].startswith("--")
        assert all(escaped(line) == line for line in shown.split("\n"))
    cli.file(name, f"{HEADER}\n1,2,{FIRST_MS}\n")
    outcome = cli.here("run", name)
    assert outcome.code == 0
    assert all(escaped(line) == line for line in outcome.stdout.split("\n"))


def test_what_is_escaped() -> None:
    """What acts rather than stands for itself; and nothing that people write."""
    assert escaped("a\tb\x00\x7f\x9b\u2029\u2066\ufeff\udce9") == "a\\tb\\x00\\x7f\\x9b\\u2029\\u2066\\ufeff\\udce9"
    for plain in ("caf\u00e9 \u4e2d\u6587 \u05e2\u05d1\u05e8\u05d9\u05ea \\n 'x'", "👩\u200d💻", ""):
        assert escaped(plain) == plain
