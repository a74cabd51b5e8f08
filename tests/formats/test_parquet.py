"""Parquet: what blocks say is what Arrow's own rows are, whatever the types; positions are rows."""

import io
import json
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.schema_file import load_dataset
from ingest_service.errors import ConfigurationError, LocalIOError, RowError, SourceChanged
from ingest_service.formats.opening import rows_of
from ingest_service.formats.parquet.reader import ParquetReader
from ingest_service.rows.chunk import Chunk
from ingest_service.sources.base import Source, Stream
from ingest_service.sources.local import FileSource, StdinSource
from tests.formats.specification import chunks_of
from tests.helpers import Cli

BLOCK = 1 << 12
AT = datetime(2020, 3, 5, tzinfo=UTC)
AT_MS = 1_583_366_400_000
FIELDS: list[dict[str, Any]] = [
    {"name": "user", "type": "string", "x-role": "owner"},
    {"name": "item", "type": "integer", "x-role": "item"},
    {"name": "at", "type": "integer", "x-role": "time", "x-unit": "ms"},
    {"name": "rating", "type": "number", "x-keep": True, "x-default": -1},
    {"name": "note", "type": "string", "x-keep": True, "x-default": "none"},
]
EXAMPLES = os.environ.get("INGEST_TEST_EXAMPLES")
USUAL = settings(
    max_examples=int(EXAMPLES or 80),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class InMemory(Source):
    uri = "memory:"

    def __init__(self, data: bytes) -> None:
        self.data = data

    def size(self) -> int:
        return len(self.data)

    def open(self) -> Stream:
        raise AssertionError("it is read at random")

    def open_at_random(self) -> IO[bytes]:
        return io.BytesIO(self.data)


def written(table: pa.Table, **options: Any) -> InMemory:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return InMemory(file.getvalue())


def described(folder: Path, fields: list[dict[str, Any]], **more: Any) -> Dataset:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "format": "parquet", "schema": {"fields": fields}} | more))
    return load_dataset(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return described(tmp_path_factory.mktemp("own"), FIELDS)


# --- columns of many types --------------------------------------------------------------------------

USERS = st.sampled_from(["a", "b", "é", " c ", "", "7", "x" * 40, "n\0l", "😀"])
NUMBERS = st.integers(-3, 9) | st.integers(-(1 << 63), (1 << 63) - 1)
MOMENTS = st.sampled_from([AT, AT + timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=UTC)]) | st.datetimes(
    datetime(1960, 1, 1), datetime(2262, 1, 1), timezones=st.just(UTC)
)
NOTES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.string(), USERS),
    (pa.bool_(), st.booleans()),
    (pa.int16(), st.integers(-9, 9)),
    (pa.float64(), st.floats(allow_nan=True, width=32)),
    (pa.float32(), st.floats(allow_nan=True, width=32)),
    (pa.decimal128(9, 2), st.integers(-999, 999).map(lambda n: Decimal(n) / 4)),
    (pa.timestamp("us", "UTC"), MOMENTS),
    (pa.list_(pa.int8()), st.just([1, 2])),
    (pa.dictionary(pa.int8(), pa.string()), USERS),
    (pa.time64("us"), st.times()),
]
USER_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.string(), USERS),
    (pa.large_string(), USERS),
    (pa.dictionary(pa.int32(), pa.string()), USERS),
    (pa.binary(), st.sampled_from([b"a", b"b", b"\xff", "é".encode()])),
    (pa.binary(2), st.sampled_from([b"ab", b"b ", b"\xff\xfe"])),
    (pa.int64(), NUMBERS),
    (pa.uint64(), st.sampled_from([0, 7, (1 << 64) - 1])),
]
ITEM_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.int64(), NUMBERS),
    (pa.uint8(), st.integers(0, 255)),
    (pa.uint64(), st.sampled_from([0, 7, 1 << 63])),
    (pa.float64(), st.sampled_from([1.0, 2.0, 2.5, float("nan"), 1e300])),
    (pa.string(), st.sampled_from(["1", "+7", "x", "", " 5 "])),
    (pa.decimal128(5, 0), st.integers(0, 99).map(Decimal)),
]
TIME_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *((pa.timestamp(unit, zone), MOMENTS) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin")),
    (pa.timestamp("s"), st.sampled_from([AT, datetime(9999, 1, 1, tzinfo=UTC)])),
    (pa.int64(), st.integers(AT_MS, AT_MS + 99) | st.just(-1)),
    (pa.date32(), st.dates(date(1969, 12, 30), date(2262, 1, 2))),
    (pa.string(), st.sampled_from(["2020-03-05T00:00:00Z", "soon", str(AT_MS)])),
    (pa.float64(), st.sampled_from([1583366400.5, 1.0, float("nan")])),
]


TYPES = {"user": USER_TYPES, "item": ITEM_TYPES, "at": TIME_TYPES, "rating": ITEM_TYPES, "note": NOTES}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    n = draw(st.integers(0, 60))
    columns = {}
    for name, types in TYPES.items():
        kind, values = draw(st.sampled_from(types))
        some = st.none() | values if draw(st.booleans()) else values
        found = draw(st.lists(some, min_size=n, max_size=n))
        if pa.types.is_timestamp(kind) and kind.tz is None:
            found = [None if one is None else one.replace(tzinfo=None) for one in found]
        columns[name] = pa.array(found, kind)
    return pa.table(columns)


def oracle(row: dict[str, Any]) -> str | None:
    """Of a row as Arrow gives it, the session that it must have, where it is plainly right; None elsewhere."""
    user, item, at = row["user"], row["item"], row["at"]
    if not isinstance(user, str) or not user.strip() or "\0" in user or type(item) is not int or item >= 1 << 63:
        return None
    if not isinstance(at, datetime) or row["note"] is not None or row["rating"] is not None:
        return None
    moment = at if at.tzinfo else at.replace(tzinfo=UTC)
    moment = moment.astimezone(UTC)
    return f"session_{user.strip()}_{moment:%Y-%m-%d}" if 1970 <= moment.year < 2262 else None


def content(chunks: list[Chunk]) -> list[tuple[int, bytes, object]]:
    found: list[tuple[int, bytes, object]] = []
    for chunk in chunks:
        rows = chunk.columns.frame().rows()
        found += [(int(chunk.offsets[i]), chunk.raws.raw(i), row) for i, row in enumerate(rows)]
        found += [(dead.offset, dead.raw, dead.code) for dead in chunk.rejects]
        assert (chunk.lines == chunk.offsets + 1).all()
    return sorted(found, key=lambda row: row[0])


@USUAL
@given(table=tables(), size=st.integers(1, 70), limit=st.integers(1, 60), int96=st.booleans(), which=st.randoms())
def test_columns_are_specified(
    dataset: Dataset, table: pa.Table, size: int, limit: int, int96: bool, which: Random
) -> None:
    """Of any types and row groups, what columns say is what the rows say by themselves; from any block and limit on."""
    source = written(table, row_group_size=size, use_deprecated_int96_timestamps=int96)
    reader = ParquetReader(source, dataset, block_bytes=512)
    chunks: list[Chunk] = []
    expected: list[bool] = []
    while (block := reader.next()) is not None:
        chunks.append(reader.chunk(block))
        assert reader.position.row == block.end.row
        expected += [not isinstance(values, RowError) for values in reader.values(block)]
    found = content(chunks)
    assert [offset for offset, _, _ in found] == list(range(len(table)))
    assert [not isinstance(row, str) for _, _, row in found] == expected
    again_rows = rows_of(dataset, reader.rows.recipe)
    for (_, raw, row), plain in zip(found, table.to_pylist() if not _has_ns(table) else [{}] * len(table), strict=True):
        session = oracle(plain) if plain else None
        if session:
            assert isinstance(row, tuple)
            assert row[5] == session
        reread = again_rows.row(raw)  # as a replay does
        assert isinstance(reread, RowError) == isinstance(row, str)
    first = ParquetReader(source, dataset, block_bytes=512, limit=limit)
    head = chunks_of(first)
    assert content(head) == found[:limit]
    for at in [first.position, *(chunk.end for chunk in which.sample(chunks, min(2, len(chunks))))]:
        rest = ParquetReader(source, dataset, block_bytes=512)
        rest.resume(at)
        assert content(chunks_of(rest)) == found[at.row :]


def _has_ns(table: pa.Table) -> bool:
    return any(pa.types.is_timestamp(kind) and kind.unit == "ns" for kind in table.schema.types)


def test_blocks_end_where_they_did(dataset: Dataset) -> None:
    """Whatever row a run goes on from, its blocks end at the rows at which those of the whole end."""
    n = 5000
    table = pa.table(
        {"user": ["u" * (i % 90) + "x" for i in range(n)], "item": range(n), "at": range(AT_MS, AT_MS + n)}
        | {"rating": [1.0] * n, "note": ["n"] * n}
    )
    source = written(table, row_group_size=1777)
    ends = [chunk.end.row for chunk in chunks_of(ParquetReader(source, dataset, block_bytes=BLOCK))]
    assert {1777, 2 * 1777, n} < set(ends)
    assert len(ends) > 30
    for row in (1, ends[0] - 1, 1776, 1778, 4999):
        reader = ParquetReader(source, dataset, block_bytes=BLOCK, limit=row)
        assert chunks_of(reader)[-1].end.row == row
        rest = ParquetReader(source, dataset, block_bytes=BLOCK)
        rest.resume(reader.position)
        assert [chunk.end.row for chunk in chunks_of(rest)] == [end for end in ends if end > row]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_that_cannot_be_stored_is_refused(dataset: Dataset, unit: str) -> None:
    """Before 1970, after 2261, and so far away that microseconds have no number for it."""
    per_s = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    last = 9_214_646_399
    counts = [0, last, -1, last + 1, (1 << 63) // max(per_s, 1_000) - 1]  # seconds are written as milliseconds
    table = good_table(5).set_column(
        2, "at", pa.array([n * per_s for n in counts[:4]] + [counts[4]], pa.timestamp(unit))
    )
    (chunk,) = chunks_of(ParquetReader(written(table), dataset))
    assert chunk.lines.tolist()[:2] == [1, 2]
    assert {3, 4} <= {reject.line for reject in chunk.rejects}
    assert all(row["timestamp"] < "2262" for row in chunk.columns.frame().to_dicts())


# --- nested -----------------------------------------------------------------------------------------


def test_elements_of_a_list_are_records(tmp_path: Path) -> None:
    """`user → [items]`, and lists of objects; a row without its list is refused, one with an empty one is no record."""
    fields = [
        {"name": "user", "type": "integer", "x-role": "owner", "x-path": "who.id"},
        {"name": "item", "type": "string", "x-role": "item", "x-path": "seen[].item"},
        {"name": "at", "type": "integer", "x-role": "time", "x-unit": "ms", "x-path": "seen[].at"},
    ]
    rows = [
        {"who": {"id": 1}, "seen": [{"item": "a", "at": AT}, {"item": "b", "at": AT}]},
        {"who": {"id": 2}, "seen": []},
        {"who": {"id": 3}, "seen": None},
        {"who": None, "seen": [{"item": "c", "at": AT}]},
        {"who": {"id": 5}, "seen": [{"item": "d", "at": AT}, {"item": None, "at": AT}]},
        {"who": {"id": 6}, "seen": [{"item": "e", "at": AT}]},
    ]
    source = written(pa.Table.from_pylist(rows))
    (chunk,) = chunks_of(ParquetReader(source, described(tmp_path, fields)))
    assert list(zip(chunk.columns.frame()["session_id"], chunk.lines.tolist(), strict=True)) == [
        ("session_1_2020-03-05", 1), ("session_1_2020-03-05", 1), ("session_6_2020-03-05", 6),
    ]  # fmt: skip
    assert (chunk.accepted, chunk.accepted_rows, chunk.read) == (3, 3, 6)
    assert [(reject.line, reject.code) for reject in chunk.rejects] == [
        (3, "missing_value"), (4, "bad_id"), (5, "bad_id"),
    ]  # fmt: skip
    fields[1]["x-path"], fields[2] = "seen[]", {"name": "at", "type": "integer", "x-role": "time", "x-unit": "ms"}
    source = written(pa.table({"who": [{"id": 1}], "seen": [["a", "b", "c"]], "at": [AT_MS]}))
    (chunk,) = chunks_of(ParquetReader(source, described(tmp_path, fields)))
    assert chunk.accepted == 3


# --- what is wrong ----------------------------------------------------------------------------------


def good_table(n: int = 3000, shift: int = 0) -> pa.Table:
    users = [f"u{i}" for i in range(n)]
    numbers = {"item": range(n), "at": range(AT_MS + shift, AT_MS + shift + n), "rating": [1.0] * n, "note": users}
    return pa.table({"user": users} | numbers)


def test_another_file_is_not_gone_on_from(dataset: Dataset) -> None:
    """Its footer or the bytes of a row group differ; a shorter one, too. The same file is."""
    source = written(good_table(), row_group_size=1000)
    reader = ParquetReader(source, dataset, limit=1500)
    chunks_of(reader)
    ParquetReader(source, dataset).resume(reader.position)
    others = [written(good_table(shift=1), row_group_size=1000), written(good_table(1200), row_group_size=1000)]
    changed = bytearray(source.data)
    changed[len(changed) // 3] ^= 1
    for other in others:
        with pytest.raises(SourceChanged):
            ParquetReader(other, dataset).resume(reader.position)
    with pytest.raises((SourceChanged, LocalIOError)):  # as what is changed shows
        ParquetReader(InMemory(bytes(changed)), dataset).resume(reader.position)
    typed = good_table().set_column(1, "item", pa.array([str(i) for i in range(3000)]))
    with pytest.raises(SourceChanged, match="types"):
        ParquetReader(written(typed), dataset).require(reader.rows.recipe)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"user,item,at\n1,2,3\n", "not a Parquet file"),
        (b"", "not a Parquet file"),
        (b"PAR1" + b"\xff" * 40 + b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_parquet_is_said(dataset: Dataset, data: bytes, says: str) -> None:
    """In one sentence."""
    with pytest.raises((ConfigurationError, LocalIOError), match=says):
        ParquetReader(InMemory(data), dataset)


def test_a_damaged_page_ends_the_run(dataset: Dataset) -> None:
    """No row is made up, and none left out in silence."""
    source = written(good_table(), row_group_size=1000, compression="zstd", write_page_checksum=False)
    for at in range(2000, len(source.data) - 2000, 1501):
        changed = bytearray(source.data)
        changed[at : at + 8] = b"\xff" * 8
        reader = ParquetReader(InMemory(bytes(changed)), dataset)
        try:
            rows = sum(chunk.read for chunk in chunks_of(reader))
        except LocalIOError as error:
            assert str(error).endswith(".")
        else:
            assert rows == 3000


def test_a_missing_column_and_a_pipe(dataset: Dataset, tmp_path: Path) -> None:
    """What there is is said; and that its format needs a file."""
    with pytest.raises(ConfigurationError, match=r"no column 'at'; it has: user, item\."):
        ParquetReader(written(good_table().select(["user", "item"])), dataset)
    with pytest.raises(ConfigurationError, match="needs a file"):
        ParquetReader(StdinSource(), dataset)
    path = tmp_path / "rows.parquet"
    path.write_bytes(written(good_table(), row_group_size=500).data)
    reader = ParquetReader(FileSource(path), dataset)
    assert sum(chunk.accepted for chunk in chunks_of(reader)) == 3000
    assert reader.stored_position() == path.stat().st_size
    assert json.loads(reader.rows.recipe)[0] == "string"
    reader.close()


# --- as a user --------------------------------------------------------------------------------------


def test_a_load_of_parquet(cli: Cli) -> None:
    """In parts and with kills: each row once, and verify finds nothing; what is refused is replayed."""
    table = good_table()
    items = [*table["item"].to_pylist()[:-1], -1]
    table = table.set_column(1, "item", pa.array([str(n) if n >= 0 else "soon" for n in items]))
    pq.write_table(table, cli.folder / "rows.parquet", row_group_size=700)
    content = {"name": "own", "format": "parquet", "schema": {"fields": FIELDS}}
    cli.file("own.yaml", yaml.safe_dump(content))
    own = ("rows.parquet", "--dataset", "own.yaml")
    cli.load(*own, "--limit", "1234")
    assert len(cli.rows) == 1234
    (stands,) = map(json.loads, cli.here("status", *own[:1], "--json").stdout.splitlines())
    assert (stands["offset"], stands["percent"]) == (1234, 41.1)
    cli.load(*own)
    assert len(cli.rows) == 2999
    assert cli.here("verify", *own).code == 0
    assert cli.here("preview", *own).code == 0
    (letter,) = cli.dead_letters
    assert (letter["line"], json.loads(letter["raw"])["item"]) == (3000, "soon")
    (path,) = (cli.folder / ".ingest").rglob("dead-letters.jsonl")
    path.write_text(path.read_text().replace("soon", "5"))
    assert cli.here("replay", path, "--dataset", "own.yaml").code == 0
    assert len(cli.rows) == 3000
    assert cli.here("verify", *own).code == 0
    outcome = cli.here("crash-test", *own, "--to", "sqlite:///t.db?rate=9000", "--cycles", "3", "--seed", "5")
    assert outcome.code == 0, outcome.stdout + outcome.stderr
