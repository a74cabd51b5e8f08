"""`infer`: what it writes is a schema file by which all rows of clean data load, or it says why there can be none."""

import bz2
import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingest_service.datasets.schema_file import load_dataset
from ingest_service.errors import ConfigurationError, IngestError
from ingest_service.inference.infer import Inferred, infer
from ingest_service.sources import sources_named
from tests.buckets import ObjectServer
from tests.datasets.test_standard import is_standard
from tests.helpers import Cli, sqlite_rows
from tests.inference.making import FIRST_S, N, at, parquet, text
from tests.inference.shapes import SHAPES


def inferred(folder: Path, data: bytes, name: str = "log.csv") -> Inferred:
    path = folder / name
    path.write_bytes(data)
    return infer(sources_named(str(path))[0])


def fields_of(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Those within a list, too."""
    fields: list[dict[str, Any]] = schema["schema"]["fields"]
    return [*fields, *(one for field in fields for one in field.get("x-each", {}).get("fields", ()))]


def roles_in(schema: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """By role the name, the type, and a time's unit or format."""
    found = {}
    for field in fields_of(schema):
        if role := field.get("x-role"):
            more = [field[key] for key in ("x-unit", "format") if key in field and role == "time"]
            found[role] = (field["name"], field["type"], *more)
    return found


# --- data sets in use -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_columns_are_told_by_name_and_content(tmp_path: Path, name: str) -> None:
    """Roles with types, units and formats, the dialect, what is kept, and what is not sure."""
    shape = SHAPES[name]
    result = inferred(tmp_path, shape.data, shape.name)
    schema = yaml.safe_load(result.text)
    assert roles_in(schema) == shape.roles | {
        role: found for role, found in roles_in(schema).items() if role in ("event", "session", "device")
    }
    assert is_standard(schema)
    said = schema | schema.get("dialect", {}) | schema["schema"]
    assert {key: said.get(key) for key in shape.keys} == shape.keys
    kept = {field["name"] for field in fields_of(schema) if "x-keep" in field}
    stored = {field["x-keep"] for field in fields_of(schema) if "x-keep" in field}
    assert shape.kept <= kept | stored
    lines = "\n".join([*result.found, *result.doubts])
    for words in shape.said:
        assert words in lines
    assert bool(result.doubts) != shape.is_sure
    assert result.text.count("# not sure: ") == len(result.doubts)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_written_loads_all_rows(cli: Cli, name: str) -> None:
    """`infer -o`, and then `preview`, `check`, `run` and `verify` by the file as it is."""
    shape = SHAPES[name]
    (cli.folder / shape.name).write_bytes(shape.data)
    outcome = cli.here("infer", shape.name, "-o", "own.yaml")
    assert (outcome.code, outcome.stdout) == (0, ""), outcome.stderr
    named = (shape.name, "--dataset", "own.yaml", "--to", "sqlite:///own.db")
    preview = cli.here("preview", *named)
    assert preview.code == 0 and "refused" not in preview.stdout, preview.stdout
    assert cli.here("check", *named).code == 0
    run = cli.here("run", *named, "--json")
    assert run.code == 0, run.stderr
    counts = json.loads(run.stdout)["sources"][0]["sinks"]["sqlite"]
    assert len(sqlite_rows(cli.folder / "own.db")) == counts["written"] == shape.records
    assert counts["rejected"] == (0 if shape.records != N - 10 else 10)  # those without a time
    assert cli.here("verify", *named).code == 0


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("MovieLens 1M", "movielens-1m"),
        ("MovieLens CSV", "microlens or movielens"),
        ("H&M", "hm"),
        ("OTTO", "otto"),
        ("MIND", "mind"),
        ("RetailRocket", "retailrocket"),
        ("RecBole", "recbole"),
        ("baskets", ""),
        ("Parquet", ""),
    ],
)
def test_known_data_sets_are_named(tmp_path: Path, name: str, known: str) -> None:
    """What is known by name and reads the rows, too, is said, on stderr and in the file."""
    result = inferred(tmp_path, SHAPES[name].data, SHAPES[name].name)
    lines = [line for line in result.found if line.startswith("known: ")]
    words = f"known: it fits --dataset {known} as well, with ids and events as others have them"
    assert lines == ([words] if known else [])
    assert all(f"# {line}\n" in result.text for line in lines)


def test_what_is_unsure_is_in_the_file_and_on_stderr(cli: Cli) -> None:
    """A comment above the column, and a line that begins with `not sure`."""
    (cli.folder / "u.data").write_bytes(SHAPES["MovieLens 100K"].data)
    outcome = cli.run("infer", "u.data")
    assert outcome.code == 0
    for stream in (outcome.stdout, outcome.stderr):
        assert "not sure: " in stream and "the owner is told by what it holds" in stream
    assert yaml.safe_load(outcome.stdout)["name"] == "u"
    assert "time: #4, a Unix epoch in seconds\n" in outcome.stderr


# --- where sources lie ------------------------------------------------------------------------------


def test_compressed_sources_and_members(cli: Cli) -> None:
    """All of these give the same schema, but for its name."""
    data = SHAPES["MovieLens CSV"].data
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", data)
        archive.writestr("README", "x")
    for name, content in {
        "ratings.csv": data,
        "ratings.csv.gz": gzip.compress(data),
        "ratings.bz2": bz2.compress(data),
        "ml.zip": packed.getvalue(),
    }.items():
        (cli.folder / name).write_bytes(content)
    places = [
        "ratings.csv",
        "ratings.csv.gz",
        "ratings.bz2",
        "ml.zip#ml/ratings.csv",
        f"file://{cli.folder}/ratings.csv",
    ]
    texts = {cli.here("infer", place).stdout for place in places}
    assert len(texts) == 1 and "name: ratings\n" in texts.pop()


def test_objects_are_looked_at_by_ranges(cli: Cli) -> None:
    """Of a long one the beginning, and pieces in the middle and at the end."""
    long = b"user,item,ts\n" + b"".join(b"%d,%d,1583366400\n" % (n % 900, n) for n in range(1_500_000))
    with ObjectServer() as server:
        server.objects = {"/data/ratings.csv": SHAPES["MovieLens CSV"].data, "/data/long.csv": long}
        short = cli.run("infer", "gs://data/ratings.csv", **server.environment)
        assert short.code == 0 and "{name: movieId, type: integer, x-role: item}" in short.stdout
        assert cli.run("infer", "gs://data/long.csv", **server.environment).code == 0
        starts = [start for path, start, _ in server.ranges if path == "/data/long.csv"]
        assert len(starts) == 3 and starts[0] == 0 and starts[1] >= len(long) // 2 - 1
        assert cli.run("infer", "gs://data/none.csv", **server.environment).code == 66


def test_standard_input_is_looked_at(cli: Cli) -> None:
    """Its beginning."""
    outcome = cli.run("infer", "-", stdin=SHAPES["RetailRocket"].data.decode())
    assert outcome.code == 0 and "x-role: owner" in outcome.stdout


@pytest.mark.parametrize("packed", [False, True])
def test_rows_further_on_count(tmp_path: Path, packed: bool) -> None:
    """An id that is none of a number far behind the beginning makes all ids texts."""
    rows = [f"{'u' * (20_000 < n < 40_000)}{n % 900},{n},{at(n)},{'x' * 80}\n" for n in range(60_000)]
    if packed:
        rows = [row.removeprefix("u") for row in rows] * 2 + ["u" + row.removeprefix("u") for row in rows]
    data = ("user,item,ts,note\n" + "".join(rows)).encode()
    result = inferred(tmp_path, gzip.compress(data, 1) if packed else data, "log.csv.gz" if packed else "log.csv")
    assert "{name: user, type: string, x-role: owner}" in result.text


def test_a_file_is_never_replaced(cli: Cli) -> None:
    """A schema that is there stays as it was; 2."""
    (cli.folder / "log.csv").write_bytes(SHAPES["H&M"].data)
    (cli.folder / "own.yaml").write_text("mine")
    outcome = cli.here("infer", "log.csv", "-o", "own.yaml")
    assert outcome.code == 2 and "There is a file own.yaml already" in outcome.stderr
    assert (cli.folder / "own.yaml").read_text() == "mine"
    assert cli.here("infer", "log.csv", "-o", "own.txt").code == 2
    assert cli.here("infer", "log.csv", "-o", "nowhere/own.yaml").code == 74
    assert cli.here("infer", "*.c*v").code == 0
    (cli.folder / "log2.csv").write_bytes(b"")
    assert cli.here("infer", "*.csv").code == 2
    assert cli.here("infer", "nowhere.csv").code == 66


def test_nothing_is_written_where_nothing_can_be_said(cli: Cli) -> None:
    """No file, one sentence, 78."""
    (cli.folder / "log.csv").write_text("user,item,rating\n1,2,3\n4,5,6\n")
    outcome = cli.here("infer", "log.csv", "-o", "own.yaml")
    assert outcome.code == 78 and outcome.stdout == ""
    assert outcome.stderr == (
        "ingest-service: The source has no column for the time; a record needs a time "
        "(like an epoch, 2020-03-05T10:00:00Z or 2020-03-05), or in the schema x-time for all.\n"
    )
    assert not (cli.folder / "own.yaml").exists()


# --- what is no such source -------------------------------------------------------------------------

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "The source is empty"),
    "a mark alone": (b"\xfe\xff", "The source is empty"),
    "blank lines": (b"\n\n\n", "The source is empty"),
    "a header alone": (b"user,item,timestamp\n", "a header and no rows"),
    "one line": (b"hello\n", "not split into three fields"),
    "one long line": (b"x" * (3 << 20), "longer than 1 MiB"),
    "binary": (bytes(range(256)) * 4096, "binary"),
    "zeros": (bytes(3 << 20), "binary"),
    "SQLite": (b"SQLite format 3\0" + bytes(4096), "a SQLite database"),
    "many columns": (b",".join(b"c%d" % n for n in range(100_000)) + b"\n", "100,000 columns"),
    "HTML": (b"<!DOCTYPE html>\n<html></html>", "an HTML page"),
    "a document of JSON": (b'[{"user": 1,\n"item": 2}]', "jq -c"),
    "lists of JSON": (b"[1,2,3]\n[4,5,6]\n", "jq -c"),
    "literals of Python": (b"{'user': 1}\n{'user': 2}\n", "literals of Python"),
    "JSON nested deep": (b'{"a":' * 100_000, "not an object a line"),
    "no Parquet after all": (b"PAR1" + bytes(5000), "cut off"),
    "Parquet in gzip": (gzip.compress(SHAPES["Parquet"].data), "a packed Parquet file"),
    "Parquet without rows": (parquet(pa.table({"user": pa.array([], pa.int64())})), "no rows"),
    "no time": (b"user,item,n\n1,2,3\n2,3,4\n", "no column for the time"),
    "a time that is none": (b"user,item,timestamp\n1,2,3\n2,3,4\n", "'timestamp' is named like a time"),
    "no item": (
        text(",", [[f"{n / 7}", str(n / 3), str(at(n))] for n in range(9)], "x,y,time"),
        "no column for the owner",
    ),
    "CR alone": (b"user,item,time\r1,2,2020-03-05\r3,4,2020-03-06\r", "end in CR alone"),
    "GB 18030": (
        "".join(f"用户{n},商品{n},{at(n)},中文\n" for n in range(50)).encode("gb18030"),
        "several bytes a character",
    ),
    "UTF-32": ("user,item,time\n1,2,2020-03-05\n".encode("utf-32"), "UTF-32"),
    "no time, and known": (b"user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n", "fit --dataset goodreads."),
    "two names too few": (b"user,item\n" + b"1,2,3,1583366400\n" * 9, "2 fields, and its rows 4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_source_is_told_in_a_sentence(cli: Cli, name: str) -> None:
    """78, and one line that says what it is."""
    data, words = REFUSED[name]
    (cli.folder / "rows").write_bytes(data)
    outcome = cli.here("infer", "rows")
    assert (outcome.code, outcome.stdout) == (78, "")
    assert words in outcome.stderr and outcome.stderr.count("\n") == 1


PEAK = r"""
import re, sys
from ingest_service.inference.infer import infer
from ingest_service.sources import sources_named
try:
    infer(sources_named(sys.argv[1])[0])
except Exception as error:
    print(type(error).__name__)
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) >> 10)
"""


@pytest.mark.parametrize(
    ("head", "line", "ending"),
    [
        (b"", b"x", "ConfigurationError"),
        (b"user,item,time\n1,2,1583366400\n", b"x", ""),
        (b"user,item,time\n", b"7,8,1583366400\n", ""),
        (b"", b'{"user":1,"item":2,"ts":1583366400,"more":[{"a":1},{"a":2}]}\n', ""),
    ],
)
def test_memory_is_bounded(tmp_path: Path, head: bytes, line: bytes, ending: str) -> None:
    """A line of 100 MB, or as much of rows, is looked at within 150 MB, the program itself included."""
    with (tmp_path / "log").open("wb") as file:
        file.write(head)
        for _ in range(100):
            file.write(line * ((1 << 20) // len(line)))
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "log"], capture_output=True, text=True, check=True)
    *error, peak_mb = done.stdout.split()
    assert error == ([ending] if ending else [])
    assert int(peak_mb) < 150


# --- what is hard to tell ---------------------------------------------------------------------------


def rows(make: str, n: int = 60) -> bytes:
    """`make` is a format of the row's number and its second."""
    return "".join(make.format(n=n, s=FIRST_S + 60 * n) + "\n" for n in range(n)).encode()


def test_days_and_months_that_could_be_either(tmp_path: Path) -> None:
    """Of 03/04/2020 both are said."""
    result = inferred(tmp_path, b"user,item,date\n" + rows("{n},{n},03/04/2020"))
    assert any("the other way round, as in %d/%m/%Y" in doubt for doubt in result.doubts)


def test_repeated_keys_are_told(tmp_path: Path) -> None:
    """How many records would replace others, where no kept text tells them apart."""
    result = inferred(tmp_path, b"user,item,time\n" + rows("{n},{n},{s}") * 2)
    assert any("60 of 120 records have the user, item and time of another" in doubt for doubt in result.doubts)


def test_ids_with_leading_zeros_stay_texts(tmp_path: Path) -> None:
    """One is enough; and so does what is beyond 64 bits."""
    result = inferred(tmp_path, b"user,item,time\n" + rows("{n},7{n}{n}{n}{s}{s},{s}") + b"007,1,1583366400\n")
    assert "{name: user, type: string, x-role: owner}" in result.text
    assert "{name: item, type: string, x-role: item}" in result.text


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ("{n:02}.03.2020", 'type: date, format: "%d.%m.%Y"'),
        ("202003{n:02}", 'type: date, format: "%Y%m%d"'),
        ("202003{n:02}1030", 'type: datetime, format: "%Y%m%d%H%M"'),
        ("202003{n:02}103059", 'type: datetime, format: "%Y%m%d%H%M%S"'),
        ("2020-03-{n:02}T10:30:59.5Z", "type: datetime"),
        ("2020-03-{n:02} 10:30", 'type: datetime, format: "%Y-%m-%d %H:%M"'),
        ("2020-03-{n:02} 10:30:59 UTC", 'type: datetime, format: "%Y-%m-%d %H:%M:%S UTC"'),
        ("2020-03-{n:02}T10:30:59+0100", 'type: datetime, format: "%Y-%m-%dT%H:%M:%S%z"'),
        ("{n}-Mar-2020", 'type: date, format: "%d-%b-%Y"'),
        ('"Mar {n}, 2020"', 'type: date, format: "%b %d, %Y"'),
        ("{n:02}/Mar/2020:10:30:59 +0000", 'type: datetime, format: "%d/%b/%Y:%H:%M:%S %z"'),
        ("3/{n}/20 10:30", 'type: datetime, format: "%m/%d/%y %H:%M"'),
    ],
)
def test_forms_of_times(tmp_path: Path, written: str, field: str) -> None:
    """As strptime has them; all of these load."""
    days = "".join(f"{n},{n}," + written.format(n=n) + "\n" for n in range(13, 29)).encode()
    result = inferred(tmp_path, b"user,item,at\n" + days)
    assert f"{{name: at, {field}, x-role: time}}" in result.text
    assert not any("refused" in doubt for doubt in result.doubts)


def test_a_single_row_is_no_header(tmp_path: Path) -> None:
    """What has a time or a number in it."""
    result = inferred(tmp_path, b"user_1\t2009-05-04T23:08:57Z\tSong 7\n")
    assert roles_in(yaml.safe_load(result.text))["time"] == ("time", "datetime")


def test_headers_in_the_middle_are_no_rows(tmp_path: Path) -> None:
    """As where files were put together."""
    result = inferred(tmp_path, (b"user,item,time\n" + rows("{n},{n},{s}", 5)) * 9)
    assert "{name: user, type: integer, x-role: owner}" in result.text
    assert "would be refused: header_again 8" in "".join(result.doubts)


def test_ids_are_no_times(tmp_path: Path) -> None:
    """Numbers of as many digits as a date."""
    data = "".join(f"{202000 + n},{20200300 + n},{at(n)}\n" for n in range(60)).encode()
    assert roles_in(yaml.safe_load(inferred(tmp_path, data).text)) == {
        "owner": ("user", "integer"),
        "item": ("item", "integer"),
        "time": ("time", "integer", "s"),
    }


@pytest.mark.parametrize(
    ("written", "type_", "unit"),
    [
        ("{s}", "integer", "s"),
        ("{s}000", "integer", "ms"),
        ("{s}000000", "integer", "us"),
        ("{s}000000000", "integer", "ns"),
        ("{s}.25", "number", "s"),
        ("1.58{n:02}e12", "number", "ms"),
    ],
)
def test_units_of_epochs(tmp_path: Path, written: str, type_: str, unit: str) -> None:
    """By their size; a fraction or a power of ten makes them numbers."""
    result = inferred(tmp_path, b"user,item,ts\n" + rows("{n},{n}," + written))
    assert f"{{name: ts, type: {type_}, x-unit: {unit}, x-role: time}}" in result.text


def test_quotes_that_are_text(tmp_path: Path) -> None:
    """Quotes are off where rows are right without them alone, and on where fields need them."""
    header = b"user,item,title,time\n"
    off = inferred(tmp_path, header + rows('{n},{n},"A" b,{s}'))
    on = inferred(tmp_path, header + rows('{n},{n},"A, ""b""\nc",{s}'))
    assert 'quoteChar: ""' in off.text and "quoteChar" not in on.text
    assert off.doubts == on.doubts == []


def test_some_lines_that_are_not_utf_8(tmp_path: Path) -> None:
    """A few damaged ones do not make another encoding of it."""
    result = inferred(tmp_path, b"user,item,time\n" + rows("é{n},{n},{s}", 300) + b"\xff\xfe,1,1583366400\n")
    assert "encoding" not in yaml.safe_load(result.text)
    assert any("1 of the lines looked at are not UTF-8" in doubt for doubt in result.doubts)


# --- whatever the source ----------------------------------------------------------------------------

CELLS = st.sampled_from(
    ["1", "2", "07", "a b", "", "NA", r"\N", "1583366400", "1583366400000", "2020-03-05", "03/04/2020", '"', '"x"', "é",
     "user", "item", "time", "-1.5", "1e400", "9" * 30, "\u2028", "{", "#", "0f8fad5b-d9cb-469f-a165-70867728950e",
     "2020-03-05 10:00:00", "\0", "\x85", "nan", "::", "view", "\ufeff", "sep=;"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["user", "User", "item_id", "time", "ts", "rating", "event", "session", "device", "", "a.b", "x[]", "user ", '"',
     "#",
     "id", "_id", "timestamp", "yes", "null", "~", "é", "\u2028", "\ud800", "a\\b", "name: x", "[]", "-", "%",
     "user_name"]
)  # fmt: skip
TABLES = st.builds(
    lambda delimiter, header, rows, end: end.join(delimiter.join(row) for row in [header, *rows]).encode(
        "utf-8", "replace"
    ),
    st.sampled_from([",", "\t", ";", "::", "|", " "]),
    st.lists(NAMES | CELLS, min_size=1, max_size=6),
    st.lists(st.lists(CELLS, min_size=2, max_size=6), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
)
COLUMNS = st.integers(3, 5).flatmap(
    lambda n: st.tuples(
        st.lists(NAMES, min_size=n, max_size=n),
        st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=6),
    )
)
EVEN = COLUMNS.map(lambda table: "\n".join(",".join(row) for row in [table[0], *table[1]]).encode("utf-8", "replace"))
VALUES = st.recursive(
    CELLS | st.none() | st.booleans() | st.integers() | st.floats() | st.just(1583366400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={"user": VALUES, "item": VALUES, "ts": st.just(1583366400) | VALUES, "events": VALUES, "a.b": VALUES},
    )
    | st.dictionaries(NAMES, VALUES, max_size=6),
    min_size=1,
    max_size=6,
).map(lambda objects: "\n".join(json.dumps(one) for one in objects).encode())
ENCODED = st.tuples(EVEN | TABLES, st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "cp1252"])).map(
    lambda pair: pair[0].decode().encode(pair[1], "replace")
)


@settings(max_examples=400, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=EVEN | TABLES | OBJECTS | ENCODED | st.binary(max_size=300))
@example(data=b'{"a\\"b": 1, "user": 1, "item": 2, "ts": 1583366400}')
def test_what_is_written_is_a_schema_whatever_the_source(tmp_path: Path, data: bytes) -> None:
    """A file that loads and reads the source, or one sentence."""
    try:
        result = inferred(tmp_path, data)
    except ConfigurationError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and "schema file" not in str(error)
        return
    except IngestError as error:
        assert type(error).exit_code == 74  # a damaged archive
        return
    path = tmp_path / "own.yaml"
    path.write_text(result.text, encoding="utf-8")
    assert load_dataset(path).name == yaml.safe_load(result.text)["name"]
    assert result.found and result.text.count("# not sure: ") == len(result.doubts)
