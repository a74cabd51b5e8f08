"""Sources: every byte or an error, never a silent end."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest_service.errors import LocalIOError, SourceNotFound, UsageError
from ingest_service.sources import compression, sources_named
from ingest_service.sources.archive import ZipMemberSource
from ingest_service.sources.base import Source
from ingest_service.sources.compression import open_stream
from ingest_service.sources.local import FileSource, StdinSource

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b"user,item,timestamp\n" + b"".join(b"%d,%d,%d\n" % (n, n * 7, n * n) for n in range(300))
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
PACKED = pytest.mark.parametrize("kind", PACK)
MAGIC_BYTES = {"gzip": 2, "zstd": 4, "bzip2": 10, "xz": 6}


def everything(source: Source, n: int = 1000) -> bytes:
    with source.open() as stream:
        parts = []
        while data := stream.read(n):
            assert len(data) <= n
            parts.append(data)
        assert stream.read(n) == b""
        return b"".join(parts)


def unpacked(data: bytes, n: int = 1000) -> bytes:
    with open_stream(io.BytesIO(data), "x") as stream:
        return b"".join(iter(lambda: stream.read(n), b""))


# --- compression ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", *PACK])
@pytest.mark.parametrize("n", [1, 7, 1 << 20])
def test_every_byte_comes_out(tmp_path: Path, kind: str, n: int) -> None:
    """The content tells the codec, whatever the file is called, and whatever sizes are read."""
    path = tmp_path / "file.csv"
    path.write_bytes(PACK.get(kind, bytes)(TEXT))
    assert everything(FileSource(path), n) == TEXT


@PACKED
@pytest.mark.fault(24)
def test_all_members_are_read(kind: str) -> None:
    """Files that were compressed apart and put together are one, empty members included."""
    data = b"".join(PACK[kind](part) for part in (TEXT[:10], b"", TEXT[10:1000], TEXT[1000:]))
    assert unpacked(data) == TEXT


@PACKED
@pytest.mark.fault(24)
def test_a_file_that_breaks_off_anywhere_is_an_error(kind: str) -> None:
    """At every length short of whole members there is a LocalIOError, and never fewer bytes with a clean end."""
    first, second = PACK[kind](TEXT[:500]), PACK[kind](TEXT[500:900])
    data = first + second
    magic = MAGIC_BYTES[kind]
    for length in range(len(data)):
        if length < magic:
            assert unpacked(data[:length]) == data[:length]  # not told as compressed, and no header of rows either
        elif length == len(first):
            assert unpacked(data[:length]) == TEXT[:500]  # a whole file, as far as anybody can tell
        else:
            with pytest.raises(LocalIOError, match="whole copy"):
                unpacked(data[:length])


@PACKED
def test_damage_is_never_passed_on_as_a_whole_file(kind: str) -> None:
    """One flipped bit anywhere after the magic is an error, or changes nothing that is read."""
    pack = (
        (lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}))
        if (kind == "zstd")
        else gzip.compress
    )
    data = pack(TEXT[:400])
    for index in range(4, len(data)):
        for bit in (1, 16, 128):
            damaged = data[:index] + bytes([data[index] ^ bit]) + data[index + 1 :]
            try:
                assert unpacked(damaged) == TEXT[:400]
            except LocalIOError:
                continue


@pytest.mark.parametrize("kind", ["zstd", "xz"])
def test_rubbish_after_the_end_is_an_error(kind: str) -> None:
    """What follows the last member must be another member, as for their own commands."""
    with pytest.raises(LocalIOError, match="after the end"):
        unpacked(PACK[kind](TEXT) + b"user,item,timestamp\n1,2,3\n")


@pytest.mark.parametrize("kind", ["gzip", "bzip2"])
@pytest.mark.parametrize("rubbish", [b"\0", bytes(512), b"user,item,timestamp\n1,2,3\n", os.urandom(300_000)])
@pytest.mark.fault(55)
def test_rubbish_after_the_end_is_told(kind: str, rubbish: bytes) -> None:
    """As gzip and bzip2 do: all that was packed is read, and what follows is passed over with a warning."""
    with open_stream(io.BytesIO(PACK[kind](TEXT[:99]) + PACK[kind](TEXT[99:]) + rubbish), "x.gz") as stream:
        assert not stream.warnings
        assert b"".join(iter(lambda: stream.read(1000), b"")) == TEXT
        (warning,) = stream.warnings
        assert f"x.gz has bytes after the end of its {kind} data" in warning


def test_what_other_packers_write_is_read() -> None:
    """Frames without data, as pzstd writes them between the others, and the padding that xz allows."""
    assert unpacked(zstd.compress(TEXT[:9]) + b"\x50\x2a\x4d\x18\4\0\0\0abcd" + zstd.compress(TEXT[9:])) == TEXT
    assert unpacked(lzma.compress(TEXT[:9]) + bytes(8) + lzma.compress(TEXT[9:]) + bytes(4)) == TEXT


@PACKED
@pytest.mark.fault(24)
def test_a_bomb_is_refused_while_it_is_unpacked(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Beyond an absurd ratio there is an error, after no more than the grace and one read."""
    monkeypatch.setattr(compression, "RATIO_GRACE_BYTES", 1 << 20)
    monkeypatch.setattr(compression, "MAX_RATIO", 500)
    data = PACK[kind](bytes(32 << 20))
    total = 0
    with open_stream(io.BytesIO(data), "x") as stream, pytest.raises(LocalIOError, match="500 times"):
        while more := stream.read(1 << 16):
            total += len(more)
    assert total <= max(1 << 20, 500 * len(data))
    assert len(PACK[kind](TEXT)) * 500 > len(TEXT)
    assert unpacked(PACK[kind](TEXT)) == TEXT


def test_a_zstd_window_beyond_the_limit_is_refused() -> None:
    """A frame that asks for gigabytes of memory is LocalIOError."""
    parameters = zstd.CompressionParameter
    options = {int(parameters.window_log): 28, int(parameters.enable_long_distance_matching): 1}
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(TEXT, compressor.FLUSH_BLOCK) + compressor.flush()
    with pytest.raises(LocalIOError):
        unpacked(data)


@pytest.mark.fault(24)
@pytest.mark.parametrize("n", [4, 1000])
def test_a_zstd_frame_that_lost_a_block_is_refused(n: int) -> None:
    """Less comes out than its header states, though its last block is there: libzstd does not look at an empty one."""
    header, block, last = b"\x28\xb5\x2f\xfd\x20\x14", (10 << 3).to_bytes(3, "little") + b"1,2,3\n4,5,", b"\1\0\0"
    assert unpacked(header + 2 * block + last, n) == 2 * block[3:]
    for kept in (block, b""):
        with pytest.raises(LocalIOError, match="whole copy"):
            unpacked(header + kept + last, n)


def test_skipping_lands_where_reading_does(tmp_path: Path) -> None:
    """A skip passes over so many bytes, at most to the end, in plain files by seeking."""
    for kind, pack in {"plain": bytes, **PACK}.items():
        path = tmp_path / kind
        path.write_bytes(pack(TEXT))
        for before in (0, 1, 3, 5, 700):
            for n in (0, 1, 2, 800, len(TEXT) - before, len(TEXT) + 5):
                with FileSource(path).open() as stream:
                    head = b""
                    while len(head) < before:
                        head += stream.read(before - len(head))
                    assert stream.skip(n) == min(n, len(TEXT) - before)
                    rest = b"".join(iter(lambda: stream.read(999), b""))
                    assert head + TEXT[before : before + n] + rest == TEXT


def test_the_stored_position_ends_at_the_stored_size(tmp_path: Path) -> None:
    """Percent is told by stored bytes, so it ends at 100 whatever the compression."""
    for kind, pack in {"plain": bytes, **PACK}.items():
        path = tmp_path / kind
        path.write_bytes(pack(TEXT))
        source = FileSource(path)
        with source.open() as stream:
            while stream.read(100):
                assert 0 < stream.stored_position() <= path.stat().st_size
            assert stream.stored_position() == source.size() == path.stat().st_size


class Breaking(io.BytesIO):
    """A file whose disk fails at some byte."""

    def __init__(self, data: bytes, at: int) -> None:
        super().__init__(data)
        self._at = at

    def read(self, n: int | None = -1, /) -> bytes:
        if self.tell() >= self._at:
            raise OSError(5, "Input/output error")
        return super().read(n)


@pytest.mark.parametrize("kind", ["plain", *PACK])
def test_a_failing_disk_is_an_error(kind: str) -> None:
    """EIO while reading is LocalIOError in every codec."""
    data = PACK.get(kind, bytes)(os.urandom(600_000))
    stream = open_stream(Breaking(data, 300_000), "x")
    with pytest.raises(LocalIOError):
        while stream.read(100_000):
            pass


# --- names ------------------------------------------------------------------------------------------


def test_two_ways_to_name_a_file_are_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute and through a link: one URI, so one checkpoint."""
    path = tmp_path / "a b.csv"
    path.write_bytes(TEXT)
    (tmp_path / "link.csv").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    names = ["a b.csv", "./a b.csv", str(path), "link.csv", f"../{tmp_path.name}/a b.csv"]
    assert {source.uri for name in names for source in sources_named(name)} == {path.as_uri()}


def test_a_pattern_names_its_files_in_order(tmp_path: Path) -> None:
    """Folders that match are passed over; a name that exists is no pattern."""
    for name in ("b.csv", "a.csv", "c[1].csv", "x.txt"):
        (tmp_path / name).write_bytes(TEXT)
    (tmp_path / "d.csv").mkdir()
    assert [Path(source.uri).name for source in sources_named(f"{tmp_path}/[ab].csv")] == ["a.csv", "b.csv"]
    assert len(sources_named(f"{tmp_path}/*.csv")) == 3
    (one,) = sources_named(f"{tmp_path}/c[1].csv")
    assert everything(one) == TEXT
    with pytest.raises(SourceNotFound, match="No file matches"):
        sources_named(f"{tmp_path}/*.tsv")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file is SourceNotFound (and FileNotFoundError); a folder and an unknown scheme say what to do."""
    for name in ("none.csv", "none.zip#a.csv"):
        with pytest.raises(SourceNotFound, match="There is no file") as missing:
            sources_named(f"{tmp_path}/{name}")
        assert isinstance(missing.value, FileNotFoundError)
    with pytest.raises(SourceNotFound, match="There is no file"):
        FileSource(tmp_path / "none.csv").open()
    assert FileSource(tmp_path / "none.csv").size() is None
    with pytest.raises(SourceNotFound, match="is a folder"):
        sources_named(str(tmp_path))[0].open()
    with pytest.raises(UsageError, match="gopher"):
        sources_named("gopher://x/y.csv")


# --- zip --------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data/ratings.csv", TEXT)
        file.writestr("data/packed.csv.gz", gzip.compress(TEXT))
        file.writestr("data/sub/twice.csv", b"a")
        file.writestr("data/twice.csv", b"b")
        file.writestr("../up.csv", TEXT)
        file.writestr("/absolute.csv", TEXT)
        link = zipfile.ZipInfo("data/link.csv")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    return path


@pytest.mark.parametrize("member", ["data/ratings.csv", "ratings.csv", "data/packed.csv.gz"])
def test_a_member_is_streamed(archive: Path, member: str) -> None:
    """By its whole path or by its name alone, and unpacked once more if it is compressed itself."""
    (source,) = sources_named(f"{archive}#{member}")
    assert isinstance(source, ZipMemberSource)
    assert everything(source) == TEXT


@pytest.mark.parametrize("member", ["../up.csv", "up.csv", "/absolute.csv", "absolute.csv", "data/link.csv"])
def test_members_that_lead_elsewhere_are_refused(archive: Path, member: str) -> None:
    """Links and paths that leave the archive are LocalIOError."""
    with pytest.raises(LocalIOError, match="refused"):
        ZipMemberSource(archive, member).open()


def test_an_encrypted_member_is_refused(archive: Path) -> None:
    """A member whose flags say encrypted is refused rather than read as rubbish."""
    data = archive.read_bytes()
    # The flags stand 6 bytes into each local header and 8 bytes into each entry of the directory (APPNOTE 4.3).
    local, central = data.find(b"PK\3\4"), data.find(b"PK\1\2")
    changed = bytearray(data)
    changed[local + 6] |= 1
    changed[central + 8] |= 1
    archive.write_bytes(changed)
    with pytest.raises(LocalIOError, match="refused"):
        ZipMemberSource(archive, "data/ratings.csv").open()


@pytest.mark.parametrize("member", ["none.csv", "twice.csv", "", "data", "data/"])
def test_a_member_must_be_there_once(archive: Path, member: str) -> None:
    """No such member, or two of that name, is SourceNotFound."""
    with pytest.raises(SourceNotFound, match="members named"):
        ZipMemberSource(archive, member).open()


def test_a_damaged_archive_is_an_error(archive: Path) -> None:
    """Cut off anywhere, or with a changed byte in its data, an archive is LocalIOError and never a short file."""
    data = archive.read_bytes()
    for length in range(0, len(data), 97):
        archive.write_bytes(data[:length])
        with pytest.raises(LocalIOError):
            everything(ZipMemberSource(archive, "data/ratings.csv"))
    start = data.find(b"ratings.csv") + len("ratings.csv")
    for index in range(start, start + 300, 7):
        archive.write_bytes(data[:index] + bytes([data[index] ^ 8]) + data[index + 1 :])
        with pytest.raises(LocalIOError):
            everything(ZipMemberSource(archive, "data/ratings.csv"))
    archive.write_bytes(TEXT)
    with pytest.raises(LocalIOError, match="not a zip archive"):
        ZipMemberSource(archive, "data/ratings.csv").open()


# --- standard input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", *PACK])
def test_standard_input_is_read_to_its_end(kind: str) -> None:
    """A pipe that gives its bytes in pieces, compressed or not, comes out whole."""
    script = (
        "import sys; from ingest_service.sources import sources_named; (source,) = sources_named('-');\n"
        "assert not source.resumable and source.size() is None\n"
        "with source.open() as stream:\n"
        "    sys.stdout.buffer.write(b''.join(iter(lambda: stream.read(777), b'')))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    data = PACK.get(kind, bytes)(TEXT)
    for start in range(0, len(data), 500):
        process.stdin.write(data[start : start + 500])
        process.stdin.flush()
    output, _ = process.communicate()
    assert process.returncode == 0
    assert output == TEXT


def test_a_silent_pipe_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that waits for a pipe returns soon after `interrupt`, from another thread."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as stdin, os.fdopen(write_end, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", stdin)
        writer.write(b"user,item,timestamp\n")
        source = StdinSource()
        stream = source.open()
        assert stream.read(100) + stream.read(100) == b"user,item,timestamp\n"
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(stream.read(100)))
        reader.start()
        source.interrupt()
        reader.join()
        assert found == [b""]
        stream.close()
