"""What the first bytes of a source say that it is, where it is no text of rows."""

_PACKED = "packed twice; unpack it once, and name what comes out"
_PARQUET_ADVICE = "write its rows as CSV, for example with DuckDB or polars"

_DESCRIBED = "describe it by a schema file (--dataset), which ingest-service infer FILE writes"

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", _PACKED),
    (b"\x28\xb5\x2f\xfd", _PACKED),
    (b"\xfd7zXZ\0", _PACKED),
    (b"BZh91AY&SY", _PACKED),
    (b"PK\x03\x04", "a zip archive in a pipe or in another archive; unpack it, or name a file as archive.zip#member"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x9d", "packed with compress; unpack it with: uncompress"),
    (b"\x04\x22\x4d\x18", "packed with lz4; unpack it with: lz4 -d"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it, and name the file in it"),
    (b"Rar!\x1a\x07", "a rar archive; unpack it, and name the file in it"),
    (b"PAR1", f"a Parquet file; {_DESCRIBED}"),
    (b"PARE", f"an encrypted Parquet file; {_PARQUET_ADVICE}"),
    (b"ORC\x00", f"an ORC file; {_PARQUET_ADVICE}"),
    (b"ARROW1", f"an Arrow file; {_PARQUET_ADVICE}"),
    (b"Obj\x01", f"an Avro file; {_PARQUET_ADVICE}"),
    (b"SQLite format 3\0", "a SQLite database; write its table as CSV with: sqlite3 -header -csv"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file; {_PARQUET_ADVICE}"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or other Office document; save its sheet as CSV UTF-8"),
    (b"%PDF-", "a PDF; its rows are wanted as CSV"),
    (b"\xff\xfe\0\0", "UTF-32; write it as UTF-8 with: iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32; write it as UTF-8 with: iconv -f UTF-32 -t UTF-8"),
)
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257  # POSIX.1, pax: the field magic of a header block


def is_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def binary_kind(head: bytes) -> str:
    """What a source that begins so is, and what to do; "" unless it is surely something else than rows."""
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[_TAR_MARK_AT:].startswith(_TAR_MARK):
        return "a tar archive; unpack it, and name the file in it"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in head[:64]:  # half the bytes of a header in ASCII
        return f"UTF-16; {_DESCRIBED}"
    for high, low in ((head[:64:2], head[1:64:2]), (head[1:64:2], head[:64:2])):
        if len(low) > 4 and not any(high) and all(low):
            return f"UTF-16; {_DESCRIBED}"
    return ""


def likely_kind(head: bytes) -> str:
    """The same for a source whose first line is no header: what it seems to be, or ""."""
    text = head.lstrip(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, maybe an error or a login in place of the file; look at it, and fetch the file itself"
    if text.startswith(b"<"):
        return "XML or HTML; its rows are wanted as CSV"
    if text.startswith((b"{", b"[")):
        return f"JSON; {_DESCRIBED}"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; fetch the file itself with: git lfs pull"
    return "binary, and no text of rows" if b"\0" in head else ""
