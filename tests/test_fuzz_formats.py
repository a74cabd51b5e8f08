"""The same for the other formats: JSON Lines packed, saved otherwise and damaged; UTF-16; Parquet with bytes lost.

Each ends in one of three ways: all of its rows are accounted for as the specification says, row by row, or it is
refused because it is no such file, or its packing is no good. `scripts/fuzz` runs it with a million inputs.
"""

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingest_service.datasets.base import Dataset
from ingest_service.datasets.schema_file import load_dataset
from ingest_service.errors import ConfigurationError, LocalIOError, RowError
from ingest_service.formats.base import Reader
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.formats.jsonl.reader import JsonLinesReader
from ingest_service.formats.parquet.reader import ParquetReader
from ingest_service.sources.compression import GZIP_MAGIC, ZSTD_MAGIC
from tests.formats import test_jsonl, test_parquet
from tests.formats.specification import chunks_of, content, small_records
from tests.formats.ugly import files as delimited_files
from tests.test_fuzz import MAX_RECORD, VARIANTS, Packed, damaged, edited, packed, pulse, unpacked

EXAMPLES = os.environ.get("INGEST_TEST_EXAMPLES")
BLANKS = b" \t\r"
USUAL = settings(
    max_examples=int(EXAMPLES or 8_000) // VARIANTS,
    derandomize=EXAMPLES is None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


def described(folder: Path, fields: Any, **more: Any) -> Dataset:
    path = folder / f"{more.get('format', 'csv')}.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "schema": {"fields": fields}} | more))
    return load_dataset(path)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return described(tmp_path_factory.mktemp("own"), yaml.safe_load(test_jsonl.FIELDS), format="jsonl")


def assert_rows_answer(reader: Reader[Any]) -> int:
    """Each row is accepted or refused as the specification has it, by itself; how many there are."""
    n = 0
    while (block := reader.next()) is not None:
        chunk = reader.chunk(block)
        rows = list(reader.values(block))
        refused = [
            offset for offset, row in zip(block.offsets.tolist(), rows, strict=True) if isinstance(row, RowError)
        ]
        assert [reject.offset for reject in chunk.rejects] == refused
        assert chunk.offsets.tolist() == [one for one in block.offsets.tolist() if one not in set(refused)]
        n += chunk.read
    assert reader.reached_end
    return n


@pytest.mark.long
@USUAL
@given(base=test_jsonl.files(), seed=st.integers(0, 1 << 62))
def test_every_input_of_json_lines_is_accounted_for_or_refused(lines: Dataset, base: bytes, seed: int) -> None:
    """No exception but the two that a user can read, and no line that nobody answers for."""
    rng = Random(seed)
    with small_records(MAX_RECORD, 200):
        for _ in range(VARIANTS):
            data = packed(edited(base, rng), rng)
            if rng.random() < 0.5:
                data = damaged(data, rng)
            plain = unpacked(data)
            try:
                reader = JsonLinesReader(Packed(data), lines, block_bytes=1 << 14)
                n = assert_rows_answer(reader)
            except LocalIOError:
                assert data.startswith((GZIP_MAGIC, ZSTD_MAGIC))
                continue
            except ConfigurationError:
                continue
            assert plain is not None, "a clean end of what cannot be unpacked"
            # What is longer than a block is one row, whatever it holds.
            rows = [line for line in plain.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip(BLANKS)]
            assert n == len(rows)
    pulse()


@USUAL
@given(base=delimited_files(), seed=st.integers(0, 1 << 62))
def test_every_input_in_utf_16_says_what_it_says_in_utf_8(tmp_path_factory: Any, base: bytes, seed: int) -> None:
    """The same rows; with offsets that lead to them in the file as it is stored."""
    rng = Random(seed)
    fields = [
        {"name": "user", "type": "integer", "x-role": "owner"},
        {"name": "item", "type": "integer", "x-role": "item"},
        {"name": "timestamp", "type": "integer", "x-role": "time"},
    ]
    folder = tmp_path_factory.getbasetemp()
    wide = described(folder, fields, encoding="utf-16", format="tsv")
    narrow = described(folder, fields)
    with small_records(MAX_RECORD, 200):
        for _ in range(VARIANTS // 4):
            text = edited(base, rng).decode(errors="replace").replace("\0", "")
            stored = text.encode(rng.choice(("utf-16", "utf-16-le")))
            try:
                ours = chunks_of(DelimitedReader(Packed(stored), wide, block_bytes=1 << 14))
                theirs = chunks_of(DelimitedReader(Packed(text.encode()), narrow, block_bytes=1 << 14))
            except (ConfigurationError, LocalIOError):
                continue
            if len(stored) >= 1 << 14:
                continue  # blocks end elsewhere
            found, expected = content(ours), content(theirs)
            assert [(row.line, row.raw) for row in found] == [(row.line, row.raw) for row in expected]
            mark = stored.startswith(b"\xff\xfe") and not text.startswith("\ufeff")
            for row, other in zip(found, expected, strict=True):
                before = text.encode()[: other.offset].decode()
                assert row.offset == len(before.encode("utf-16-le")) + 2 * mark
    pulse()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, bytes]:
    dataset = described(tmp_path_factory.mktemp("parquet"), test_parquet.FIELDS, format="parquet")
    options = {"row_group_size": 70, "data_page_size": 200, "write_page_checksum": True}
    return dataset, test_parquet.written(test_parquet.good_table(200), **options).data


@settings(max_examples=int(EXAMPLES or 600), derandomize=EXAMPLES is None, deadline=None, database=None)
@example(seed=1039)  # a footer that Arrow aborts at, where it is not asked for a row first
@given(seed=st.integers(0, 1 << 62))
def test_every_damage_to_parquet_is_noticed(table: tuple[Dataset, bytes], seed: int) -> None:
    """With check sums of its pages, as writers make them on request: no value but those that were written."""
    dataset, whole = table
    rng = Random(seed)
    pulse()
    data = bytearray(whole)
    at = rng.randrange(len(data))
    data[at : at + rng.choice((1, 1, 4, 40))] = rng.randbytes(rng.choice((0, 1, 1, 4, 40)))
    try:
        chunks = chunks_of(ParquetReader(test_parquet.InMemory(bytes(data)), dataset, block_bytes=4096))
    except (ConfigurationError, LocalIOError):
        return
    expected = chunks_of(ParquetReader(test_parquet.InMemory(whole), dataset, block_bytes=4096))
    assert sum(chunk.read for chunk in chunks) <= 200
    good = {row for chunk in expected for row in chunk.columns.frame().rows()}
    assert {row for chunk in chunks for row in chunk.columns.frame().rows()} <= good
