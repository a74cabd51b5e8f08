"""Files as they come in: ugly rows, other encodings, packed in every way, and damaged anywhere.

Each ends in one of three ways: all of its rows are accounted for as the specification says, or it is refused because
its header, or its packing, is no good. `scripts/fuzz` runs the same with a million inputs and watches memory and time.
"""

import functools
import gzip
import io
import os
import sys
import zlib
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.errors import ConfigurationError, LocalIOError
from ingest_service.formats.delimited import records
from ingest_service.formats.delimited.reader import DelimitedReader
from ingest_service.formats.memory import BLOCK_BYTES
from ingest_service.formats.text import BOM
from ingest_service.rows.chunk import DeadRow
from ingest_service.sources import compression
from ingest_service.sources.base import Stream
from ingest_service.sources.compression import GZIP_MAGIC, ZSTD_MAGIC, open_stream
from tests.formats.specification import Bytes, assert_whole, chunks_of, content, header_of, small_records, specification
from tests.formats.ugly import files
from tests.helpers import Cli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EXAMPLES = os.environ.get("INGEST_TEST_EXAMPLES")
PULSE = os.environ.get("INGEST_FUZZ_PULSE")  # a file that shows `scripts/fuzz` that the inputs go on
VARIANTS = 40  # of each file that hypothesis makes: that takes it longer than all of them together
MAX_RECORD = 256

# --- inputs -----------------------------------------------------------------------------------------

PIECES = (
    b"\n",
    b"\r\n",
    b"\r",
    b'"',
    b'""',
    b",",
    b";",
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b" ",
    b"9" * 30,
)


def edited(data: bytes, rng: Random) -> bytes:
    """A few bytes lost, changed, doubled or put in."""
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 10, 300)))
        change = rng.choice((b"", rng.choice(PIECES), rng.randbytes(end - at), data[at:end] * 2))
        data = data[:at] + change + data[end if rng.random() < 0.7 else at :]
    return data


PREAMBLE = (b"", b" ", b"# exported", b"#", b"sep=;", b"sep=,", b'"sep=\t"', b"# user,item,timestamp")


def shaped(data: bytes, rng: Random) -> bytes:
    """Now and then as spreadsheets and scripts leave files: lines before the header, which may come again; CR LF."""
    header, newline, rows = data.partition(b"\n")
    if rng.random() < 0.2 and newline:
        lines = rows.split(b"\n")
        lines.insert(rng.randrange(len(lines) + 1), header)
        rows = b"\n".join(lines)
    if rng.random() < 0.2:
        before = [rng.choice(PREAMBLE) for _ in range(rng.randrange(1, 4))]
        header = b"\n".join([*before, header])
    data = header + newline + rows
    return data.replace(b"\n", b"\r\n") if rng.random() < 0.1 else data


def encoded(data: bytes, rng: Random) -> bytes:
    """Mostly as it is, now and then as another program would have saved it."""
    text = data.decode("latin-1")
    ways = (BOM + data, text.encode("utf-16"), text.encode("utf-16-le"), text.encode("utf-8"), data.swapcase())
    return data if rng.random() < 0.85 else rng.choice(ways)


def packed(data: bytes, rng: Random) -> bytes:
    """Plain, or in one or several members of a codec."""
    cut = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    members = [data[: cut[0]], data[cut[0] : cut[1]], data[cut[1] :]] if rng.random() < 0.5 else [data]
    checksum = {int(zstd.CompressionParameter.checksum_flag): rng.randrange(2)}
    way = rng.randrange(4)
    if way == 0:
        return b"".join(gzip.compress(member, rng.choice((0, 1, 9))) for member in members)
    if way == 1:
        return b"".join(zstd.compress(member, options=checksum) for member in members)
    return data


def damaged(data: bytes, rng: Random) -> bytes:
    way = rng.randrange(6)
    at = rng.randrange(len(data) + 1)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if at < len(data) else data
    if way == 2:
        return data + rng.choice((b"\0" * 20, b"user,item\n", data[: at // 2], GZIP_MAGIC, ZSTD_MAGIC))
    return edited(data, rng)


@functools.cache
def bomb(pack: str) -> bytes:
    rows = b"user,item,timestamp\n" + b"1,2,1583366400000\n" * 50_000
    return gzip.compress(rows, 9) if pack == "gzip" else zstd.compress(rows)


# --- what must come of them -------------------------------------------------------------------------


class Packed(Bytes):
    """A source in memory that is unpacked as files are."""

    def open(self) -> Stream:
        return open_stream(io.BytesIO(self.data), "x")


def unpacked(data: bytes) -> bytes | None:
    """By the standard library; None if it is refused. What follows a whole gzip member is no matter, as gzip has it."""
    try:
        if data.startswith(GZIP_MAGIC):
            plain = b""
            while data.startswith(GZIP_MAGIC):
                data = data[:3] + bytes([data[3] & 0x1F]) + data[4:] if len(data) > 3 else data  # reserved: no matter
                member = zlib.decompressobj(wbits=31)
                plain += member.decompress(data) + member.flush()
                if not member.eof:
                    return None
                data = member.unused_data
            return None if data == GZIP_MAGIC[:1] else plain
        return zstd.decompress(data) if data.startswith(ZSTD_MAGIC) else data
    except (EOFError, OSError, zlib.error, zstd.ZstdError):
        return None


def has_header(data: bytes) -> bool:
    try:
        _, end = header_of(data)
    except ConfigurationError:
        return False
    # What stands before it is as if it were its line.
    return end - data.endswith(b"\n", 0, end) < records.MAX_RECORD_BYTES


def pulse() -> None:
    """A sign of life, for `scripts/fuzz`."""
    if PULSE:
        Path(PULSE).touch()


def assert_accounted_for(data: bytes, *, is_whole: bool, block_bytes: int = 1 << 16) -> str:
    """How it ended: "rows", "header" or "packing"."""
    plain = unpacked(data)
    reader = None
    try:
        reader = DelimitedReader(Packed(data), MICROLENS, block_bytes=block_bytes)
        chunks = chunks_of(reader)
    except LocalIOError:
        assert not is_whole
        assert data.startswith((GZIP_MAGIC, ZSTD_MAGIC))
        return "packing"
    except ConfigurationError:
        assert plain is None or not has_header(plain)
        return "header"
    finally:
        if reader is not None:
            reader.close()
    assert plain is not None, "a clean end of what cannot be unpacked"
    assert reader is not None and reader.reached_end
    expected, _ = specification(plain, block_bytes)
    assert content(chunks) == expected
    assert_whole(chunks, reader.first, plain)
    return "rows"


@pytest.mark.long
@settings(
    max_examples=int(EXAMPLES or 12_000) // VARIANTS,
    derandomize=EXAMPLES is None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(base=files(), seed=st.integers(0, 1 << 62))
def test_every_input_is_accounted_for_or_refused(base: bytes, seed: int) -> None:
    """12,000 inputs: no exception but the two that a user can read, and no row that nobody answers for."""
    rng = Random(seed)
    with (
        small_records(MAX_RECORD, 200),
        patch.object(compression, "RATIO_GRACE_BYTES", 1 << 18),
        patch.object(compression, "MAX_RATIO", 100),
    ):
        for _ in range(VARIANTS):
            data = packed(encoded(edited(shaped(base, rng), rng), rng), rng)
            is_whole = rng.random() < 0.5
            if not is_whole:
                data = damaged(data, rng)
            # A plain file may begin like a packed one, and then is none.
            is_whole = is_whole and unpacked(data) is not None
            # Blocks of one or two records are slow, and have a test of their own.
            assert_accounted_for(data, is_whole=is_whole, block_bytes=rng.choice((2 * MAX_RECORD, *[1 << 13] * 9)))
        if seed % 8 == 0:
            assert assert_accounted_for(bomb(rng.choice(("gzip", "zstd"))), is_whole=False) == "packing"
    pulse()


def test_all_three_ends_are_reached() -> None:
    """The variants are no easy ones: each way to end is taken by many of them."""
    base = b"user,item,timestamp\n" + b"".join(b"%d,%d,1583366400000\n" % (n, n) for n in range(30))
    rng = Random(1)
    with small_records(MAX_RECORD, 200):
        ends = [
            assert_accounted_for(
                damaged(packed(encoded(edited(shaped(base, rng), rng), rng), rng), rng), is_whole=False
            )
            for _ in range(500)
        ]
    assert min(ends.count(end) for end in ("rows", "header", "packing")) > 25


@pytest.mark.parametrize("seed", range(40))
def test_a_run_accounts_for_them_too(tmp_path: Path, seed: int) -> None:
    """The command exits 0 with the specification's rows and dead letters, or with the code that the refusal has."""
    rng = Random(seed)
    base = b"user,item,timestamp\n" + b"".join(
        rng.choice((b"%d,%d,%d\n", b'"%d","%d","%d"\r\n')) % (n % 7, n, 1_583_366_400_000 + n) for n in range(60)
    )
    data = packed(encoded(edited(shaped(base, rng), rng), rng), rng)
    data = damaged(data, rng) if seed % 2 else data
    cli = Cli(tmp_path)
    outcome = cli.here("run", cli.file("input", data), "--json")
    plain = unpacked(data)
    if outcome.code:
        assert (outcome.code, bool(outcome.message)) in ((74, True), (78, True)), outcome.stderr
        assert plain is None or not has_header(plain)
        return
    assert plain is not None
    expected, _ = specification(plain, BLOCK_BYTES)
    dead = [row for row in expected if isinstance(row, DeadRow)]
    assert [letter["offset"] for letter in cli.dead_letters] == [row.offset for row in dead]
    assert outcome.counts("sqlite")["accepted"] == len(expected) - len(dead)
    keys = {(row.values[0], f"{row.values[2]}#{row.values[1]}") for row in expected if not isinstance(row, DeadRow)}
    assert cli.rows.keys() == keys
