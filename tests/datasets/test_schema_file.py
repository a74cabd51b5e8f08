"""Data sets that a file describes."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
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
from tests.helpers import Cli, sqlite_rows

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


# --- kinds of columns -------------------------------------------------------------------------------


def test_a_day_and_its_clock_in_two_columns(tmp_path: Path) -> None:
    """They are one time, in the zone of the day, also on the days on which clocks change."""
    day = {"name": "day", "type": "date", "format": "%Y%m%d", "x-role": "time", "x-zone": "Europe/Berlin"}
    clock = {"name": "hm", "type": "time", "format": "%H%M", "x-role": "clock"}
    data = b"user,item,day,hm\nu,i,20200305,0930\nu,i,20200329,0330\nu,i,20200329,0130\nu,i,20201025,0230\n"
    found = [row["timestamp"] for row in records(described(tmp_path, OWNER, ITEM, day, clock), data)]
    assert [text[:16] for text in found] == [
        *("2020-03-05T08:30", "2020-03-29T01:30", "2020-03-29T00:30", "2020-10-25T00:30"),
    ]
    (chunk,) = chunks_of(open_reader(Bytes(b"user,item,day,hm\nu,i,20200230,0930\nu,i,20200305,2530\n"), described(
        tmp_path, OWNER, ITEM, day, clock)))  # fmt: skip
    assert [reject.code for reject in chunk.rejects] == ["bad_timestamp", "bad_timestamp"]


def test_kept_booleans_decimals_lists_and_times(tmp_path: Path) -> None:
    """A boolean is true or false, a decimal has all its digits, a list is JSON, a time is stored as times are."""
    own: list[dict[str, Any]] = [
        {
            "name": "ok",
            "type": "boolean",
            "x-keep": True,
            "trueValues": ["y"],
            "falseValues": ["n"],
            "x-default": False,
        },
        {"name": "price", "type": "number", "x-keep": True, "x-exact": True},
        {"name": "tags", "type": "list", "delimiter": "|", "x-keep": True, "x-default": "[]"},
        {"name": "born", "type": "date", "format": "%d.%m.%Y", "x-keep": True},
        {"name": "not_read", "type": "geojson"},
    ]
    data = (
        b"user,item,at,ok,price,tags,born,not_read\n"
        b'u,i,1583366400000,y,12.50,Action|S\xc3\xa9rie "x",05.03.2020,{}\n'
        b"u,i,1583366400000,,1e3,,05.03.2020,{}\n"
    )
    rows = records(described(tmp_path, OWNER, ITEM, TIME, *own), data.replace(b'"x"', b"x"))
    assert [(row["ok"], row["price"], row["tags"], row["born"]) for row in rows] == [
        ("true", "12.50", '["Action", "S\u00e9rie x"]', "2020-03-05T00:00:00.000000Z"),
        ("false", "1000", "[]", "2020-03-05T00:00:00.000000Z"),
    ]
    (chunk,) = chunks_of(
        open_reader(Bytes(data.replace(b",y,", b",maybe,")), described(tmp_path, OWNER, ITEM, TIME, *own))
    )
    assert "bad_value" in [reject.code for reject in chunk.rejects]


# --- a field that is several records ----------------------------------------------------------------

PAIRS = {"name": "items", "x-each": {"delimiter": " ", "fields": [ITEM]}}
SHOWN = {
    "name": "shown",
    "x-each": {
        "delimiter": " ",
        "x-inner": "-",
        "fields": [ITEM, {"name": "clicked", "x-role": "event", "x-values": {"1": "click", "0": "view"}}],
    },
}
WORDS = st.sampled_from(["N1", "N2-1", "N-3-0", "N4-2", "-1", "5-", "é-1", "", "  ", "N6-1 "])


def test_a_line_of_a_user_and_the_items(tmp_path: Path) -> None:
    """As MicroLens's pairs.tsv: no header, no times; each item is a record of the line."""
    dialect = {"header": False, "delimiter": "\t"}
    dataset = described(tmp_path, OWNER, PAIRS, dialect=dialect, **{"x-time": "2020-03-05T00:00:00Z"})
    (chunk,) = chunks_of(open_reader(Bytes(b"1\t5 6 7\n2\t\n3\t 8  9 \n"), dataset))
    rows = chunk.columns.frame().to_dicts()
    assert [row["session_id"][8] for row in rows] == ["1", "1", "1", "3", "3"]
    assert [row["video_id"] for row in rows] == [str(uuid5(NAMESPACE, f"video_{item}")) for item in (5, 6, 7, 8, 9)]
    assert (chunk.accepted, chunk.accepted_rows, chunk.read, chunk.lines.tolist()) == (5, 3, 3, [1, 1, 1, 3, 3])


@given(rows=st.lists(st.tuples(st.sampled_from(["u", "v", ""]), st.lists(WORDS, max_size=4)), min_size=1, max_size=9))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_parts_are_those_of_splitting_texts(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    """Of MIND's impressions each part is an item and its event; one without both refuses its line."""
    dataset = described(
        tmp_path_factory.getbasetemp(), OWNER, TIME, SHOWN, dialect={"header": False, "delimiter": "\t"}
    )
    lines = [f"{user}\t1583366400000\t{' '.join(words)}\n" for user, words in rows]
    expected: list[tuple[int, str, str]] = []
    n_rows = 0
    for number, (user, words) in enumerate(rows, 1):
        parts = [part.rpartition("-") for part in " ".join(words).split(" ") if part.strip(" \t")]
        good = all(item.strip() and dash and mark.strip() in ("1", "0") for item, dash, mark in parts)
        if good and (user or not parts):
            n_rows += 1
            expected += [(number, item, "click" if mark == "1" else "view") for item, _, mark in parts]
    chunks = list(chunks_of(open_reader(Bytes("".join(lines).encode()), dataset)))
    found = [
        (line, row["video_id"], row["event_type"])
        for chunk in chunks
        for line, row in zip(chunk.lines.tolist(), chunk.columns.frame().to_dicts(), strict=True)
    ]
    assert found == [(line, str(uuid5(NAMESPACE, f"video_{item}")), event) for line, item, event in expected]
    assert sum(chunk.accepted_rows for chunk in chunks) == n_rows
    assert sum(chunk.read for chunk in chunks) == len(rows)


# --- what is wrong ----------------------------------------------------------------------------------

GOOD = {"name": "own", "schema": {"fields": [OWNER, ITEM, TIME]}}
ABOUT_ITEMS = {"name": "own", "x-about": "items", "schema": {"fields": [ITEM, {"name": "title", "x-keep": True}]}}


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
        (with_field(type="boolean", **{"x-unit": "auto"}), "a boolean is kept (x-keep), and for no role"),
        (with_field(type="geojson", **{"x-unit": "auto"}), "a column of type geojson can only be passed over"),
        (with_field(type="txt"), "schema.fields.2.type"),
        (with_field(**{"x-each": {"delimiter": " ", "fields": [ITEM]}}), "the column itself has no role"),
        (GOOD | {"x-time": "2020-01-01T00:00:00Z"}, "x-time is the time of all records"),
        (GOOD | {"format": "jsonl", "dialect": {"header": True}}, "a dialect is for delimited text"),
        (GOOD | {"encoding": "gbk"}, "the encoding 'gbk' is not read here"),
        (GOOD | {"schema": {"fields": [OWNER, ITEM, TIME, OWNER]}}, "the field name 'user' is there twice"),
        (
            GOOD | {"schema": {"fields": [OWNER, ITEM, TIME, RATING | {"x-keep": "device"}]}},
            "is a field of every record",
        ),
        (GOOD | {"schema": {"fields": [OWNER, ITEM, TIME, {"name": "my note", "x-keep": True}]}}, "x-keep: my_name"),
        (
            GOOD | {"schema": {"fields": [OWNER, ITEM, TIME, RATING, {"name": "x", "x-keep": "Rating"}]}},
            "the kept name 'rating' is there twice",
        ),
        (GOOD | {"dialect": {"header": False}}, "dialect: without a header the delimiter must be said"),
        (GOOD | {"dialect": {"delimiter": "\n"}}, "dialect.delimiter: String should match"),
        (GOOD | {"dialect": {"escapeChar": "\\"}}, "dialect.escapeChar is not supported"),
        (GOOD | {"x-about": "items"}, "no field has the role owner, time; keep it"),
        (ABOUT_ITEMS | {"schema": {"fields": [ITEM, {"name": "note"}]}}, "at least one field is kept"),
        (ABOUT_ITEMS | {"x-event": "click"}, "there is no x-event"),
        (ABOUT_ITEMS | {"schema": {"fields": [RATING | {"x-keep": True}]}}, "no field has the role item"),
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
    with closing(sqlite3.connect(cli.folder / "theirs.db")) as connection:
        columns = "video_id, timestamp, event_type, device, session_id, country TEXT NOT NULL"
        connection.execute(
            f"CREATE TABLE interactions (user_id, event_key, {columns}, PRIMARY KEY (user_id, event_key))"
        )
    for place, name in (("ours.db", "Country"), ("theirs.db", "country")):
        named = ("rows.csv", "--dataset", "own.yaml", "--to", f"sqlite:///{place}")
        assert cli.run("run", *named).code == 0
        assert [row[name] for row in sqlite_rows(cli.folder / place).values()] == ["Peru"]
        assert cli.run("verify", *named).code == 0


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
