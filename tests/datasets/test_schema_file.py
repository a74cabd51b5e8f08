"""Data sets that a file describes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets import dataset_named
from ingest_service.datasets.base import Dataset
from ingest_service.datasets.schema_file import load_dataset
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats.base import Reader
from ingest_service.formats.opening import open_reader, rows_of
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.rows.interaction import NAMESPACE
from tests.formats.specification import Bytes, small_records
from tests.helpers import Cli

MAX_RECORD = 256
OWNER = {"name": "user", "type": "string", "x-role": "owner"}
ITEM = {"name": "item", "type": "string", "x-role": "item"}
TIME = {"name": "at", "type": "integer", "x-role": "time", "x-unit": "ms"}
RATING = {"name": "rating", "type": "number", "x-keep": True}


def described(tmp_path: Path, *fields: dict[str, Any], **more: Any) -> Dataset:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "schema": {"fields": list(fields or (OWNER, ITEM, TIME))}} | more))
    return load_dataset(path)


def records(dataset: Dataset, data: bytes) -> list[dict[str, Any]]:
    reader = open_reader(Bytes(data), dataset)
    try:
        found: list[dict[str, Any]] = []
        for chunk in chunks_of(reader):
            assert not chunk.rejects, chunk.rejects
            found += chunk.columns.frame().to_dicts()
        return found
    finally:
        reader.close()


def chunks_of(reader: Reader[Any]) -> Iterator[Chunk]:
    while (block := reader.next()) is not None:
        yield reader.chunk(block)


# --- what records become ----------------------------------------------------------------------------


def test_string_ids_become_uuids_of_their_text(tmp_path: Path) -> None:
    """uuid5 of prefix and text, as integer ids; the session has the user's own text."""
    (row,) = records(described(tmp_path), b"user,item,at\nA3SG, B00 ,1583366400000\n")
    assert row == {
        "user_id": str(uuid5(NAMESPACE, "user_A3SG")),
        "video_id": str(uuid5(NAMESPACE, "video_B00")),
        "timestamp": "2020-03-05T00:00:00.000000Z",
        "event_type": "click",
        "device": "unknown",
        "session_id": "session_A3SG_2020-03-05",
    }


def test_a_namespace_a_prefix_and_uuids(tmp_path: Path) -> None:
    """As the schema says; a UUID is kept as it is."""
    namespace = "12345678-1234-5678-1234-567812345678"
    dataset = described(
        tmp_path,
        OWNER | {"format": "uuid"},
        ITEM | {"x-prefix": "asin:"},
        TIME,
        **{"x-namespace": namespace, "x-event": "view", "x-device": "tv"},
    )
    (row,) = records(dataset, b"user,item,at\n6BA7B810-9DAD-11D1-80B4-00C04FD430C8,B1,1583366400000\n")
    assert row["user_id"] == "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    assert row["video_id"] == str(uuid5(UUID(namespace), "asin:B1"))
    assert (row["event_type"], row["device"]) == ("view", "tv")


def test_fields_of_its_own_events_devices_and_sessions(tmp_path: Path) -> None:
    """Kept under their names, mapped, and with what stands for a missing one."""
    dataset = described(
        tmp_path,
        OWNER,
        ITEM,
        TIME,
        {"name": "what", "x-role": "event", "x-values": {"pv": "view", "buy": "purchase"}},
        {"name": "on", "x-role": "device", "x-default": "desktop"},
        {"name": "visit", "x-role": "session"},
        RATING | {"x-default": 0},
        {"name": "n", "type": "integer", "x-keep": "times"},
        {"name": "Search Term", "x-keep": "term"},
    )
    (row,) = records(
        dataset,
        b'Search Term;user;item;at;what;on;visit;rating;n;ignored\n"a ""b"" c";u;i;1583366400000;buy;;v1;;3;x\n',
    )
    assert row["event_type"] == "purchase"
    assert (row["device"], row["session_id"], row["rating"]) == ("desktop", "v1", 0.0)
    assert (row["times"], row["term"]) == (3, 'a "b" c')


def test_a_part_of_the_key_tells_records_apart(tmp_path: Path) -> None:
    """Two rows that differ in it are two records; without it the later one replaces the first."""
    tag = {"name": "tag", "x-keep": True}
    data = b"user,item,at,tag\nu,i,1583366400000,a\nu,i,1583366400000,b\n"
    for fields, left in (({**tag, "x-key": True}, 2), (tag, 1)):
        dataset = described(tmp_path, OWNER, ITEM, TIME, fields)
        (chunk,) = chunks_of(open_reader(Bytes(data), dataset))
        assert len(chunk.last_of_each_key()) == left
    assert described(tmp_path, OWNER, ITEM, TIME, tag | {"x-key": True}).schema.key == ("timestamp", "video_id", "tag")


@pytest.mark.parametrize(
    ("field", "text", "stored"),
    [
        ({"type": "integer", "x-unit": "s"}, "1583366400", "2020-03-05T00:00:00.000000Z"),
        ({"type": "integer", "x-unit": "us"}, "1583366400000001", "2020-03-05T00:00:00.000001Z"),
        ({"type": "number", "x-unit": "s"}, "1593878946.592", "2020-07-04T16:09:06.592000Z"),
        ({"type": "number", "x-unit": "ms"}, "1.68383712e12", "2023-05-11T20:32:00.000000Z"),
        ({"type": "integer"}, "1583366400000", "2020-03-05T00:00:00.000000Z"),
        ({"type": "datetime"}, "2020-03-05T01:00:00+01:00", "2020-03-05T00:00:00.000000Z"),
        ({"type": "date"}, "2020-03-05", "2020-03-05T00:00:00.000000Z"),
        ({"type": "date", "x-zone": "Asia/Tokyo"}, "2020-03-05", "2020-03-04T15:00:00.000000Z"),
        (
            {"type": "datetime", "format": "%m/%d/%Y %I:%M:%S %p"},
            "11/13/2019 8:36:57 AM",
            "2019-11-13T08:36:57.000000Z",
        ),
    ],
)
def test_times_are_read_as_the_schema_says(tmp_path: Path, field: dict[str, Any], text: str, stored: str) -> None:
    """Units, zones and formats; what is stored is UTC."""
    dataset = described(tmp_path, OWNER, ITEM, {"name": "at", "x-role": "time"} | field)
    (row,) = records(dataset, f"user,item,at\nu,i,{text}\n".encode())
    assert row["timestamp"] == stored


# --- how files are written --------------------------------------------------------------------------


DIALECTS = [
    {"delimiter": "::", "header": False},
    {"delimiter": "\t", "header": False, "quoteChar": ""},
    {"delimiter": "\x01", "header": False},
    {"delimiter": "||"},
    {"delimiter": ",", "x-skipLines": 2, "commentChar": "%"},
]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: repr(dialect["delimiter"]))
def test_dialects(tmp_path: Path, dialect: dict[str, Any]) -> None:
    """Delimiters of any kind, with a header and without, and what stands before it."""
    delimiter = dialect["delimiter"]
    lines = [delimiter.join(("u1", "i1", "1583366400000")), delimiter.join(("u2", "i2", "1583366400001"))]
    if dialect.get("header", True):
        lines = [delimiter.join(("user", "item", "at")), *lines]
    if "x-skipLines" in dialect:
        lines = ["exported", "by hand", "% a comment", *lines]
    found = records(described(tmp_path, dialect=dialect), "\r\n".join(lines).encode())
    assert [row["session_id"] for row in found] == ["session_u1_2020-03-05", "session_u2_2020-03-05"]


PIECES = st.sampled_from(["u1", "i2", "1583366400000", "", ":", "::", ":::", "\t", '"', ' "x" ', "é", "\0", "x" * 20])
LINES = st.lists(st.lists(PIECES, max_size=6).map("".join) | st.just("u::i::1583366400000") | st.just("u\ti\t1\t2"))


@pytest.mark.parametrize("dialect", DIALECTS[:2], ids=["colons", "tabs"])
@given(lines=LINES, end=st.sampled_from(["\n", "\r\n"]), at_end=st.booleans())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_rows_without_a_header_are_what_splitting_says(
    tmp_path_factory: pytest.TempPathFactory, dialect: dict[str, Any], lines: list[str], end: str, at_end: bool
) -> None:
    """Cut anywhere, and gone on with from anywhere, a file without quotes gives the rows of `str.split`."""
    data = end.join(lines) + (end if at_end else "")
    if not data:
        return
    delimiter = dialect["delimiter"]
    dataset = described(tmp_path_factory.getbasetemp(), dialect=dialect | {"quoteChar": ""})
    expected = []
    for whole_line in data.split("\n"):
        line = whole_line.removesuffix("\r")
        if line.strip(" \t\r\v\f") or delimiter in line:
            fields = line.split(delimiter)
            is_row = len(fields) == 3 and "\0" not in line and fields[0].strip() and fields[1].strip()
            expected.append(fields if is_row and fields[2].strip() == "1583366400000" else None)
    encoded = data.encode()
    with small_records(MAX_RECORD, 200):
        reader = open_reader(Bytes(encoded), dataset, block_bytes=2 * MAX_RECORD)
        chunks = list(chunks_of(reader))
        found: dict[int, str | None] = {}
        for chunk in chunks:
            found |= {reject.offset: None for reject in chunk.rejects}
            sessions = chunk.columns.texts["session_id"].to_list()
            found |= dict(zip(chunk.offsets.tolist(), sessions, strict=True))
        in_order = [found[offset] for offset in sorted(found)]
        assert in_order == [fields and f"session_{fields[0].strip()}_2020-03-05" for fields in expected]
        for first in chunks:  # as a run that goes on there
            again = open_reader(Bytes(encoded), dataset, block_bytes=2 * MAX_RECORD)
            again.resume(first.end)
            rest = list(chunks_of(again))
            assert [chunk.end for chunk in rest] == [
                chunk.end for chunk in chunks if chunk.end.offset > first.end.offset
            ]
    assert reader.first == Position(0, 0, 0, reader.first.tail_hash)


def test_a_dead_letter_is_read_again_without_the_source(tmp_path: Path) -> None:
    """By what the checkpoint remembers of it; without a header that is nothing."""
    dataset = described(tmp_path, dialect=DIALECTS[0])
    recipe = open_reader(Bytes(b"u::i::x\n"), dataset).rows.recipe
    rows = rows_of(dataset, recipe)
    assert rows.row(b"u::i::1583366400000") == [["u", "i", 1_583_366_400_000_000]]
    refused = rows.row(b"u::i::x")
    assert isinstance(refused, RowError)
    assert refused.code == "bad_timestamp"


# --- what is wrong ----------------------------------------------------------------------------------

GOOD = {"name": "own", "schema": {"fields": [OWNER, ITEM, TIME]}}


def with_field(**changes: Any) -> dict[str, Any]:
    return GOOD | {"schema": {"fields": [OWNER, ITEM, TIME | changes]}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "line 1 is neither YAML nor JSON"),
        ("[]", "must be an object"),
        ({"name": "own"}, "schema: Field required"),
        (GOOD | {"name": "Own data"}, "name: String should match"),
        (GOOD | {"schema": {"fields": [OWNER, ITEM]}}, "no field has the role time; give one x-role: time"),
        (
            GOOD | {"schema": {"fields": [OWNER, ITEM, TIME], "primaryKey": ["user"]}},
            "schema.primaryKey is not supported",
        ),
        (with_field(constraints={"required": True}), "schema.fields.2.constraints is not supported"),
        (with_field(**{"x-unit": "min"}), "schema.fields.2.x-unit: Input should be"),
        (with_field(**{"x-zone": "Europe/Berlin"}), "x-zone is for a date"),
        (with_field(type="date", **{"x-zone": "Mars/Base", "x-unit": "auto"}), "there is no such time zone"),
        (with_field(type="boolean"), "schema.fields.2.type: Input should be"),
        (GOOD | {"schema": {"fields": [OWNER, ITEM, TIME, OWNER]}}, "the field name 'user' is there twice"),
        (
            GOOD | {"schema": {"fields": [OWNER, ITEM, TIME, RATING | {"x-keep": "device"}]}},
            "is a field of every record",
        ),
        (GOOD | {"schema": {"fields": [OWNER, ITEM, TIME, {"name": "my note", "x-keep": True}]}}, "x-keep: my_name"),
        (GOOD | {"dialect": {"header": False}}, "dialect: without a header the delimiter must be said"),
        (GOOD | {"dialect": {"delimiter": "\n"}}, "dialect.delimiter: String should match"),
        (GOOD | {"dialect": {"escapeChar": "\\"}}, "dialect.escapeChar is not supported"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path: Path, content: Any, says: str) -> None:
    """In one sentence, and what would be right."""
    path = tmp_path / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigurationError) as refused:
        dataset_named(str(path))
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is said by its path."""
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read: No such file"):
        dataset_named(str(tmp_path / "none.yaml"))


# --- as a user --------------------------------------------------------------------------------------


def test_a_kept_field_with_capital_letters(cli: Cli) -> None:
    """SQLite takes them for small ones, and `verify` finds no difference in that."""
    fields = [OWNER, ITEM, TIME, {"name": "Country", "x-keep": True}]
    cli.file("own.yaml", yaml.safe_dump({"name": "own", "schema": {"fields": fields}}).encode())
    cli.file("rows.csv", b"user,item,at,Country\nu,i,1583366400000,Peru\n")
    cli.load("rows.csv", "--dataset", "own.yaml")
    assert [row["Country"] for row in cli.rows.values()] == ["Peru"]
    assert cli.run("verify", "rows.csv", "--dataset", "own.yaml").code == 0


def test_a_load_by_a_schema_file(cli: Cli) -> None:
    """run, preview, verify, replay: each by `--dataset own.yaml`, dead letters and all."""
    cli.file("own.yaml", yaml.safe_dump(GOOD | {"dialect": DIALECTS[0]}).encode())
    rows = [f"u{n % 7}::i{n}::{1_583_366_400_000 + n}" for n in range(500)] + ["u::i::soon"]
    cli.file("rows.dat", "\n".join(rows).encode())
    cli.load("rows.dat", "--dataset", "own.yaml")
    assert len(cli.rows) == 500
    assert cli.run("preview", "rows.dat", "--dataset", "own.yaml").code == 0
    assert cli.run("verify", "rows.dat", "--dataset", "own.yaml").code == 0
    (letter,) = cli.dead_letters
    assert (letter["code"], letter["raw"]) == ("bad_timestamp", "u::i::soon")
    (path,) = (cli.folder / ".ingest").rglob("dead-letters.jsonl")
    path.write_text(path.read_text().replace("soon", "1583366400000"))
    assert cli.run("replay", path, "--dataset", "own.yaml").code == 0
    assert len(cli.rows) == 501
    assert cli.run("verify", "rows.dat", "--dataset", "own.yaml").code == 0
