"""JSON Lines: what blocks say is what the json module says of each line, whatever the lines are."""

import gc
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.schema_file import load_dataset
from ingest_service.errors import ConfigurationError, RowError, SourceChanged, UsageError
from ingest_service.formats.jsonl.reader import JsonLinesReader
from ingest_service.formats.opening import rows_of
from ingest_service.rows.chunk import Chunk, DeadRow
from tests.formats.specification import Bytes, chunks_of, small_records

FIELDS = """
  - {name: user, type: string, x-role: owner, x-path: who.id}
  - {name: item, type: integer, x-role: item}
  - {name: at, type: integer, x-role: time, x-unit: ms}
  - {name: rating, type: number, x-keep: true, x-default: -1}
  - {name: tag, type: string, x-keep: true, x-default: none}
"""
MANY = """
  - {name: user, type: integer, x-role: owner}
  - {name: item, type: integer, x-role: item, x-path: "events[].aid"}
  - {name: at, type: integer, x-role: time, x-unit: ms, x-path: "events[].ts"}
  - {name: type, type: string, x-role: event, x-path: "events[].type"}
"""
AT = 1_583_366_400_000
EXAMPLES = os.environ.get("INGEST_TEST_EXAMPLES")
USUAL = settings(
    max_examples=int(EXAMPLES or 200),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def dataset_with(folder: Path, fields: str, **more: Any) -> Dataset:
    path = folder / "own.yaml"
    path.write_text(
        yaml.safe_dump({"name": "own", "format": "jsonl", "schema": {"fields": yaml.safe_load(fields)}} | more)
    )
    return load_dataset(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_with(tmp_path_factory.mktemp("one"), FIELDS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_with(tmp_path_factory.mktemp("many"), MANY)


# --- lines ------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [
        "a",
        "",
        " b ",
        "é",
        "😀",
        'q"q',
        "back\\slash",
        "line\nbreak",
        "tab\t",
        "\u2028",
        "nul\0",
        "\ud800",
        "7",
        "x" * 300,
    ]
)
NUMBERS = st.sampled_from(
    [
        *["0", "7", "-7", "-0", "7.0", "1.5", "1e3", "1E400", "01", "+1", ".5", "1.", "9223372036854775808", "NaN"],
        *["1" * 40, "1" * 5000, "-Infinity", str(AT), f"{AT}.0", "1593878946.592", "0.1", "123456789012345678901.5"],
    ]
)
ANY = st.recursive(
    TEXTS.map(json.dumps) | NUMBERS | st.sampled_from(["true", "false", "null", "True", "nul", "{}", "[]", "[1,]"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
        | st.lists(st.tuples(TEXTS.map(json.dumps), inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=4,
)
WHO = ANY | TEXTS.map(lambda text: json.dumps({"id": text})) | NUMBERS.map(lambda text: f'{{"id": {text}, "x": 1}}')
NAMES = st.sampled_from(['"who"', '"item"', '"at"', '"rating"', '"tag"', '"other"', '"it\\u0065m"', '"\\ud800"', '""'])
GOOD = st.builds(
    lambda who, item, at, more: {"who": {"id": who}, "item": item, "at": at} | more,
    st.sampled_from(["a", "b", "é", 7, "😀"]),
    st.integers(-5, 1 << 62),
    st.integers(AT, AT + 999),
    st.dictionaries(st.sampled_from(["rating", "tag", "other"]), st.sampled_from([1, 2.5, "3", None, "x"])),
)
LINES = st.one_of(
    GOOD.map(json.dumps),
    GOOD.map(lambda row: json.dumps(row, ensure_ascii=False, separators=(",", ":"))),
    st.lists(st.tuples(NAMES, ANY | WHO), max_size=6).map(
        lambda pairs: "{" + ", ".join(f"{name} : {value}" for name, value in pairs) + "}"
    ),
    st.sampled_from(["", " ", "\t\r", "\v", "{", "}", "[]", "7", "null", '"x"', "\ufeff{}", "{}{}", "{} x"]),
    st.sampled_from(['{"a":' * 120 + "1" + "}" * 120, '{"a":"' + "[" * 120 + '"}', "[" * 3000]),
    st.text(max_size=20),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    lines = [line.replace("\n", "\\n") for line in draw(st.lists(LINES, max_size=12))]
    data = bytearray((end.join(lines) + draw(st.sampled_from(["", end]))).encode(errors="surrogatepass"))
    for _ in range(draw(st.integers(0, 2)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + bytes(data)


# --- an independent reading -------------------------------------------------------------------------


def wanted(line: bytes) -> tuple[str, str] | None:
    """The user and item that json.loads finds on a line, where it has all that a row must; None elsewhere."""
    try:
        row = json.loads(line.decode(), parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError, RecursionError):
        return None
    who = row.get("who") if isinstance(row, dict) else None
    user, item, at = (who.get("id") if isinstance(who, dict) else None), row.get("item") if who else None, None
    at = row.get("at") if who else None
    if not isinstance(user, str | int) or isinstance(user, bool) or type(item) is not int or type(at) is not int:
        return None
    return str(user).strip(), str(item)


def content(chunks: list[Chunk]) -> list[tuple[int, int, bytes, object]]:
    found: list[tuple[int, int, bytes, object]] = []
    for chunk in chunks:
        rows = chunk.columns.frame().rows()
        found += [(int(chunk.offsets[i]), int(chunk.lines[i]), chunk.raws.raw(i), row) for i, row in enumerate(rows)]
        found += [(dead.offset, dead.line, dead.raw, dead.code) for dead in chunk.rejects]
    return sorted(found, key=lambda row: row[0])


@USUAL
@given(data=files(), sizes=st.lists(st.integers(1, 200), min_size=1, max_size=3), which=st.randoms())
def test_columns_say_what_the_specification_says(
    dataset: Dataset, data: bytes, sizes: list[int], which: Random
) -> None:
    """Rows, lines, offsets, raws, rejects; every line that is not blank is one of them; and so from any block on."""
    with small_records(1024, 200):
        try:
            reader = JsonLinesReader(Bytes(data, sizes), dataset, block_bytes=2048)
        except ConfigurationError:
            assert not data or b"\0" in data or not data[:3].isascii()
            return
        chunks: list[Chunk] = []
        expected: list[tuple[int, bool]] = []
        while (block := reader.next()) is not None:
            chunks.append(reader.chunk(block))
            for offset, values in zip(block.offsets.tolist(), reader.values(block), strict=True):
                expected.append((offset, not isinstance(values, RowError)))
        found = content(chunks)
        assert [(offset, not isinstance(row, str)) for offset, _, _, row in found] == expected
        for offset, line, raw, row in found:
            assert data[offset : offset + len(raw)] == raw
            assert line == data.count(b"\n", 0, offset) + 1
            if not isinstance(row, str) and (texts := wanted(raw)):
                assert isinstance(row, tuple)
                assert row[5] == f"session_{texts[0]}_2020-03-05"
        spans = {range(offset, offset + len(raw)) for offset, _, raw, _ in found}
        rows = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip(b" \t\r")]
        assert len(rows) == len(spans)
        for index in which.sample(range(len(chunks)), min(2, len(chunks))):
            again = JsonLinesReader(Bytes(data, sizes), dataset, block_bytes=2048)
            again.resume(chunks[index].end)
            assert content(chunks_of(again)) == content(chunks[index + 1 :])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"who": {"id": "a"}, "item": 1}', "bad_timestamp"),
        (b'{"who": {"id": "a"}, "item": [1], "at": 1583366400000}', "bad_value"),
        (b'{"who": 5, "item": 1, "at": 1583366400000}', "bad_value"),
        (b'{"who": {"id": "a"}, "item": 12345678901234567890, "at": 1583366400000}', "bad_id"),
        (b'{"who": {"id": "a\\u0000"}, "item": 1, "at": 1583366400000}', "nul_byte"),
        (b'{"who": {"id": "\\ud800"}, "item": 1, "at": 1583366400000}', "invalid_utf8"),
        (b'{"who": {"id": "\xff"}, "item": 1, "at": 1583366400000}', "invalid_utf8"),
        (b'{"who": {"id": "a"}, "item": 1, "at": 1583366400000', "bad_json"),
        (b'{"who": {"id": "a"}, "item": NaN, "at": 1583366400000}', "bad_json"),
        (b'[{"who": {"id": "a"}, "item": 1, "at": 1583366400000}]', "bad_json"),
        (b'{"who": {"id": "a"}, "item": 1, "at": 1583366400000, "rating": "good"}', "bad_number"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "bad_json"),
    ],
)
def test_each_code_of_a_line(dataset: Dataset, line: bytes, code: str) -> None:
    """A broken line is one dead letter, whose bytes are read again by themselves; its neighbours are none."""
    good = b'{"who":{"id":"a"},"item":1,"at":1583366400000}\n'
    (chunk,) = chunks_of(JsonLinesReader(Bytes(good + line + b"\n" + good), dataset))
    assert [(reject.code, reject.line, reject.raw) for reject in chunk.rejects] == [(code, 2, line)]
    assert chunk.accepted == 2
    again = rows_of(dataset, "").row(line)
    assert isinstance(again, RowError)
    assert again.code == code


def test_names_that_need_escapes(tmp_path: Path) -> None:
    """Quotes, backslashes and control characters in names, too."""
    names = {"user": 'us"er', "item": "it\\em", "at": "a\tt"}
    fields = yaml.safe_load(FIELDS)[:3]
    for field in fields:
        field["x-path"] = [names[field["name"]]]
    dataset = dataset_with(tmp_path, yaml.safe_dump(fields))
    data = json.dumps({names["user"]: "x", names["item"]: 1, names["at"]: 1_583_366_400_000}).encode()
    (chunk,) = chunks_of(JsonLinesReader(Bytes(data), dataset))
    assert (chunk.accepted, chunk.rejects) == (1, [])


@pytest.mark.parametrize(
    ("paths", "row"),
    [
        (("a", "b", "a.c"), {"a": {"c": 1_583_366_400_000}, "b": 2}),
        (("a[]", "b", "a.c"), {"a": [1], "b": 2}),
        (("a[]", "a[].b", "c"), {"a": [{"b": 1}], "c": 1_583_366_400_000}),
    ],
)
def test_paths_through_each_other(tmp_path: Path, paths: tuple[str, ...], row: dict[str, Any]) -> None:
    """No row can have both; each is refused, and the others are read."""
    fields = yaml.safe_load(FIELDS)[:3]
    for field, path in zip(fields, paths, strict=True):
        field["x-path"] = path
    dataset = dataset_with(tmp_path, yaml.safe_dump(fields))
    (chunk,) = chunks_of(JsonLinesReader(Bytes(json.dumps(row).encode() + b"\n"), dataset))
    assert (chunk.accepted, [dead.code for dead in chunk.rejects]) == (0, ["bad_value"])


def test_names_twice_and_odd_values(dataset: Dataset) -> None:
    """Of a name that is there twice the last counts; a number may be a text; null is nothing."""
    data = b"\xef\xbb\xbf" + (
        b'{"item":1,"who":{"id":"x"},"at":1583366400000,"item":2}\n'
        b"\n"
        b'{"who":{"id":123456789012345678901234567890},"item":"3","at":"1583366400000","rating":null,"tag":true}\n'
        b'{"it\\u0065m":4,"who":{"id":"x"},"at":1583366400000.0,"rating":1.5e1}'
    )
    chunks = chunks_of(JsonLinesReader(Bytes(data), dataset))
    assert not [chunk.rejects for chunk in chunks if chunk.rejects]
    rows = [row for chunk in chunks for row in chunk.columns.frame().to_dicts()]
    assert [row["session_id"].split("_")[1] for row in rows] == ["x", "123456789012345678901234567890", "x"]
    assert [row["rating"] for row in rows] == [-1.0, -1.0, 15.0]
    assert [row["tag"] for row in rows] == ["none", "true", "none"]
    assert [int(chunk.lines[-1]) for chunk in chunks] == [3, 4]  # the last line has no end: it comes by itself


# --- a line that is several records -----------------------------------------------------------------

ELEMENTS = st.lists(
    st.fixed_dictionaries(
        {"aid": st.integers(0, 9) | st.just("x"), "ts": st.integers(AT, AT + 9)},
        optional={"type": st.sampled_from(["clicks", "carts", None, 5])},
    )
    | st.sampled_from([None, 5, {}, {"aid": 1, "ts": AT, "type": "clicks", "more": [1]}]),
    max_size=4,
)


@USUAL
@given(
    rows=st.lists(
        st.fixed_dictionaries({"user": st.integers(0, 5)}, optional={"events": ELEMENTS | st.sampled_from([None, 5])})
    )
)
def test_each_element_of_a_list_is_a_record(many: Dataset, rows: list[dict[str, Any]]) -> None:
    """The row stays what is counted: refused as a whole if one element is wrong, accepted without records if empty."""

    def good(element: Any) -> bool:
        if not isinstance(element, dict) or type(element.get("aid")) is not int:
            return False
        return "ts" in element and element.get("type") is not None

    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if not rows:
        return
    chunks = chunks_of(JsonLinesReader(Bytes(data), many))
    expected = [
        (number, element["aid"], str(element["type"]))
        for number, row in enumerate(rows, 1)
        if isinstance(row.get("events"), list) and all(map(good, row["events"]))
        for element in row["events"]
    ]
    n_rows = sum(isinstance(row.get("events"), list) and all(map(good, row["events"])) for row in rows)
    found = [
        (int(line), int(item), row["event_type"])
        for chunk in chunks
        for line, item, row in zip(chunk.lines, chunk.columns.parts[0], chunk.columns.frame().to_dicts(), strict=True)
    ]
    assert found == expected
    assert sum(chunk.accepted_rows for chunk in chunks) == n_rows
    assert sum(chunk.read for chunk in chunks) == len(rows)
    for chunk in chunks:
        middle = chunk.raws.raw(0) if chunk.accepted else b""
        assert not middle or json.loads(middle) == rows[int(chunk.lines[0]) - 1]


def test_two_lists_in_a_row_are_refused(tmp_path: Path) -> None:
    """Which elements belong together nobody could know."""
    fields = MANY.replace("events[].type", "kinds[].type")
    with pytest.raises(UsageError, match="two"):
        JsonLinesReader(Bytes(b"{}\n"), dataset_with(tmp_path, fields))


def test_other_paths_are_another_reading(dataset: Dataset, many: Dataset) -> None:
    """A checkpoint that was made with other columns is not gone on from."""
    reader = JsonLinesReader(Bytes(b"{}\n"), many)
    with pytest.raises(SourceChanged, match="columns are not those"):
        reader.require(JsonLinesReader(Bytes(b"{}\n"), dataset).rows.recipe)


@pytest.mark.parametrize(
    "line", [b"no JSON", b"[]", b'{"a": NaN}', b"[" * 200], ids=["text", "list", "constant", "deep"]
)
def test_a_refused_line_leaves_nothing_in_memory(dataset: Dataset, line: bytes) -> None:
    """However many there are: an error that is kept and raised again would grow by each of them."""

    def held() -> int:
        for _ in range(200):
            rows_of(dataset, "").row(line)
        gc.collect()
        return len(gc.get_objects())

    held()
    before = held()
    assert held() < before + 200


def test_a_line_longer_than_a_block_is_one_dead_letter(dataset: Dataset) -> None:
    """It is passed over without being held."""
    with small_records(1024, 200):
        data = b'{"who":{"id":"' + b"x" * 9000 + b'"}}\n{"who":{"id":"a"},"item":1,"at":1583366400000}\n'
        chunks = chunks_of(JsonLinesReader(Bytes(data), dataset, block_bytes=2048))
        dead = [row for chunk in chunks for row in chunk.rejects]
        assert [(row.code, len(row.raw)) for row in dead] == [("record_too_long", 2048)]
        assert isinstance(dead[0], DeadRow)
        assert sum(chunk.accepted for chunk in chunks) == 1
