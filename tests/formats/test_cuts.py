"""Where sources can be divided: at true beginnings of rows only, so that the parts together are the whole."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.datasets import dataset_named
from ingest_service.datasets.base import Dataset
from ingest_service.formats.cuts import certain_start
from ingest_service.formats.delimited.records import Dialect, scan_record
from ingest_service.formats.opening import open_reader
from ingest_service.rows.chunk import Position
from ingest_service.sources import sources_named

DIALECT = Dialect(b",", 3)
_TEXTS = st.sampled_from(
    ["7", "a,b", '""', "x\ny", "1,2,3\n4,5,6\n7,8,9", "\n", '1,"",3\n"",2,3', "é", " ", '1,"",""2"",\n""x""\n']
)
_FIELDS = st.sampled_from(["1", "22", "", "a b", 'a"b']) | _TEXTS.map('"{}"'.format)
_ROWS = st.lists(_FIELDS, min_size=3, max_size=3).map(",".join)
_BROKEN = st.sampled_from(['1,"2,3', '1,"2"x,3', "1,2", "1,2,3,4", "", '"', "  ", '","', '1,"x\ny"z,3'])


def next_start(text: bytes, start: int) -> int | None:
    record = scan_record(text, start, DIALECT, eof=False)
    return None if record is None else record.next_start


def starts_of(text: bytes) -> list[int]:
    starts, at = [], 0
    while at < len(text):
        starts.append(at)
        record = scan_record(text, at, DIALECT, eof=True)
        assert record is not None
        at = record.next_start
    return starts


@settings(max_examples=400, deadline=None)
@given(st.lists(_ROWS | _ROWS | _BROKEN, min_size=3, max_size=40), st.sampled_from(["\n", "\r\n"]), st.data())
def test_a_cut_is_where_a_row_begins(rows: list[str], line_end: str, data: st.DataObject) -> None:
    """Whatever quotes hold, and wherever the look begins, as long as a whole row fits before the place."""
    text = (line_end.join(rows) + line_end).encode()
    starts = starts_of(text)
    longest = max(after - at for at, after in zip(starts, [*starts[1:], len(text)], strict=True))
    goal = data.draw(st.integers(1, len(text) - 1))
    window = max(0, goal - longest - data.draw(st.integers(0, 3 * longest)))
    found = certain_start(text[window:], goal - window, next_start, begins=window == 0)
    if found is not None:
        assert window + found in [*starts, len(text)]
        assert window + found == min(start for start in [*starts, len(text)] if start >= goal)


def test_what_can_be_read_in_two_ways_is_not_cut() -> None:
    """A field full of rows says nothing of where it begins to who looks from its middle; with its beginning it does."""
    field = "1,2,3\n" * 100
    text = f'0,"{field}",0\n'.encode() * 3
    goal = len(text) // 2
    window = goal - len(text) // 3 - 5
    assert certain_start(text[window:], goal - window, next_start) is None
    assert certain_start(text, goal, next_start, begins=True) == 2 * len(text) // 3


def _quoted(n: int) -> str:
    trap = f'{n},"1,2,3\n{n},9,1583366400000\n""{n}"",x",'
    return f'{n % 97},{n},{1583366400000 + n},"{trap.replace(chr(34), "") if n % 3 else trap}"\n'


def _delimited(path: Path, encoding: str) -> tuple[Path, Dataset]:
    text = "user,item,timestamp,note\n" + "".join(map(_quoted, range(30_000)))
    path.write_bytes(text.encode(encoding))
    return path, dataset_named("microlens")


def _schema(folder: Path, form: dict[str, object]) -> Dataset:
    fields = [
        {"name": "user", "type": "string", "x-role": "owner"},
        {"name": "item", "type": "integer", "x-role": "item"},
        {"name": "at", "type": "integer", "x-role": "time", "x-unit": "ms"},
    ]
    path = folder / "schema.json"
    path.write_text(json.dumps({"name": "seen", "schema": {"fields": fields}, **form}))
    return dataset_named(str(path))


def _lines(folder: Path, form: dict[str, object], say: Callable[[object], str]) -> tuple[Path, Dataset]:
    path = folder / "rows.txt"
    rows = ({"user": f"u{n % 9}", "item": n, "at": 1583366400000 + n, "x": "é\n" * (n % 9)} for n in range(20_000))
    path.write_text("".join(say(row) + "\n" for row in rows))
    return path, _schema(folder, form)


def _utf_16(folder: Path) -> tuple[Path, Dataset]:
    dataset = _schema(folder, {"encoding": "utf-16"})
    rows = (f'"u{n % 9}\r\n😀,""{n}""",{n},{1583366400000 + n}\n' for n in range(20_000))
    (folder / "rows.csv").write_text("user,item,at\n" + "".join(rows), encoding="utf-16", newline="")
    return folder / "rows.csv", dataset


def _parquet(folder: Path) -> tuple[Path, Dataset]:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    n = range(20_000)
    table = arrow.table({"user": [f"u{i % 9}" for i in n], "item": list(n), "at": [1583366400000 + i for i in n]})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=3_000)
    return folder / "rows.parquet", _schema(folder, {"format": "parquet"})


SOURCES: dict[str, Callable[[Path], tuple[Path, Dataset]]] = {
    "quoted": lambda folder: _delimited(folder / "rows.csv", "utf-8"),
    "utf-16": _utf_16,
    "json lines": lambda folder: _lines(folder, {"format": "jsonl"}, json.dumps),
    "literals": lambda folder: _lines(folder, {"format": "literals"}, repr),
    "parquet": _parquet,
}


def _read(path: Path, dataset: Dataset, start: Position | None, end: Position | None) -> tuple[list[int], Position]:
    """Where the rows between two places stood, and where reading ended."""
    (source,) = sources_named(str(path))
    reader = open_reader(source, dataset)
    try:
        if end is not None:
            reader.until(end)
        reader.resume(start or reader.first)
        offsets: list[int] = []
        while (block := reader.next()) is not None:
            chunk = reader.chunk(block)
            offsets += sorted([*chunk.offsets.tolist(), *(row.offset for row in chunk.rejects)])
        assert reader.reached_end
        return offsets, reader.position
    finally:
        reader.close()


@pytest.mark.parametrize("kind", SOURCES)
def test_the_parts_together_are_the_whole(kind: str, tmp_path: Path) -> None:
    """Each row is in one part, in order, and a part ends where the next one begins, by the same hash."""
    path, dataset = SOURCES[kind](tmp_path)
    (source,) = sources_named(str(path))
    reader = open_reader(source, dataset)
    length = reader.length or 0
    rng = random.Random(7)
    goals = sorted(rng.randrange(1, length) for _ in range(12))
    cuts = list({cut.offset: cut for goal in goals if (cut := reader.cut(goal)) is not None}.values())
    reader.close()
    assert len(cuts) > 1
    whole, last = _read(path, dataset, None, None)
    parts: list[int] = []
    for start, end in zip([None, *cuts], [*cuts, None], strict=True):
        rows, ended = _read(path, dataset, start, end)
        parts += rows
        expected = end or last
        assert (ended.offset, ended.tail_hash) == (expected.offset, expected.tail_hash)
    assert parts == whole and len(whole) >= 20_000


def test_a_packed_source_is_not_cut(tmp_path: Path) -> None:
    """Its bytes can be read from the front only."""
    import gzip

    path, dataset = _delimited(tmp_path / "rows.csv", "utf-8")
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    (source,) = sources_named(str(tmp_path / "rows.csv.gz"))
    reader = open_reader(source, dataset)
    assert not reader.is_divisible
    reader.close()


@pytest.mark.parametrize("kind", SOURCES)
def test_some_rows_of_a_block_say_what_they_say_in_the_whole(kind: str, tmp_path: Path) -> None:
    """Their records are those that the whole block has at their places, whatever stands between them."""
    path, dataset = SOURCES[kind](tmp_path)
    (source,) = sources_named(str(path))
    reader = open_reader(source, dataset)
    rng = np.random.default_rng(7)
    n_rows = 0
    while (block := reader.next()) is not None:
        whole = reader.chunk(block)
        wanted = rng.random(whole.accepted) < 0.1
        some = reader.chunk(reader.only(block, whole.offsets[wanted]))
        some, expected = some.only(np.isin(some.offsets, whole.offsets[wanted])), whole.only(wanted)
        assert some.offsets.tolist() == expected.offsets.tolist()
        assert some.columns.frame().equals(expected.columns.frame())
        n_rows += some.accepted
    reader.close()
    assert n_rows > 1_500
