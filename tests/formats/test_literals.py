"""Python literals: a line says what the same line says as JSON, and what is none is one dead letter."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets import dataset_named
from ingest_service.datasets.base import Dataset
from ingest_service.formats.opening import open_reader
from tests.formats.specification import Bytes, chunks_of
from tests.helpers import Cli

FIELDS = [
    {"name": "user", "x-role": "owner"},
    {"name": "item", "x-role": "item"},
    {"name": "at", "type": "integer", "x-role": "time"},
    {"name": "stars", "type": "number", "x-keep": True, "x-default": -1},
    {"name": "name", "x-keep": True, "x-default": "", "x-path": "about.name"},
    {"name": "good", "type": "boolean", "x-keep": True, "x-default": "false"},
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("schemas")
    return {name: _dataset(folder, name) for name in ("literals", "jsonl")}


def _dataset(folder: Path, name: str) -> Dataset:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "format": name, "schema": {"fields": FIELDS}}))
    return dataset_named(str(path))


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.text("ab'\"\\é ", min_size=1) | st.integers(),
            "item": st.integers(0, 9),
            "at": st.just(1583366400),
        },
        optional={
            "stars": VALUES,
            "about": st.dictionaries(st.sampled_from(["name", "x"]), VALUES) | VALUES,
            "good": VALUES,
            "more": st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=4),
        },
    ),
    max_size=8,
)


@given(rows=ROWS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_line_says_what_it_says_as_json(datasets: dict[str, Dataset], rows: list[dict[str, Any]]) -> None:
    """The same records, and the same rows refused for the same reason."""
    found = {}
    for name, dumps in (("literals", repr), ("jsonl", json.dumps)):
        data = "".join(f"{dumps(row)}\n" for row in rows).encode()
        if not data:
            return
        chunks = chunks_of(open_reader(Bytes(data), datasets[name]))
        records = [row for chunk in chunks for row in chunk.columns.frame().to_dicts()]
        refused = [(reject.line, reject.code) for chunk in chunks for reject in chunk.rejects]
        found[name] = (records, refused)
    assert found["literals"] == found["jsonl"]


GOOD = "{'user': u'a', 'item': 1, 'at': 1583366400}"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{'user': 'a'", "bad_literal"),
        ("[1, 2]", "bad_literal"),
        ("{'user': __import__('os').getpid(), 'item': 1, 'at': 1}", "bad_literal"),
        ("{'user': " + "[" * 5_000 + "]" * 5_000 + "}", "bad_literal"),
        ("{'user': " + "-" * 50_000 + "1}", "bad_literal"),
        ("{'user': " + "9" * 5_000 + "}", "bad_literal"),
        ("{[]: 1}", "bad_literal"),
        ('{"user": "a", "item": 1, "at": true}', "bad_literal"),
        ("{'user': b'a', 'item': 1, 'at': 1583366400}", "bad_value"),
        ("{'user': ('a', 'b'), 'item': 1, 'at': 1583366400}", "bad_value"),
        ("{'user': 'a', 'item': 1j, 'at': 1583366400}", "bad_value"),
        ("{'user': 'a\\x00', 'item': 1, 'at': 1583366400}", "nul_byte"),
        ("{'user': 'a', 'item': 1}", "bad_timestamp"),
        (f"{{'user': '{'x' * (1 << 20)}', 'item': 1}}", "record_too_long"),
    ],
)
def test_what_is_none_is_one_dead_letter(datasets: dict[str, Dataset], line: str, code: str) -> None:
    """No code is run, nothing is too deep or too long, and the rows around it are loaded."""
    data = f"{GOOD}\n{line}\n\n{GOOD}\n".encode()
    chunks = chunks_of(open_reader(Bytes(data), datasets["literals"]))
    assert sum(chunk.accepted for chunk in chunks) == 2
    (reject,) = [reject for chunk in chunks for reject in chunk.rejects]
    assert (reject.line, reject.code, reject.raw) == (2, code, line.encode())


def test_a_backslash_that_begins_no_escape_stands_for_itself(cli: Cli) -> None:
    """And no warning of Python's compiler is printed."""
    cli.file("own.yaml", yaml.safe_dump({"name": "own", "format": "literals", "schema": {"fields": FIELDS}}))
    cli.file("rows.txt", GOOD[:-1] + ", 'about': {'name': '\\d'}}\n")
    outcome = cli.load("rows.txt", "--dataset", "own.yaml")
    assert [row["name"] for row in cli.rows.values()] == ["\\d"]
    assert "escape" not in outcome.stderr
