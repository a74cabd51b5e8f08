"""How a source says its rows: what a reader of `formats` must know of it."""

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """format: the name under which its reader is registered, by the entry-point group `ingest_service.formats`."""

    format: str
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True)
class Delimited(Form):
    """Delimited text.

    delimiter: empty where the header tells it. header: whether there is one; without, the data set's columns have
    places of `n_fields`. skip_lines: lines at the beginning that are passed over. comment: what a line before the
    header, or before the first row, begins with that is none. quotes: whether these enclose fields.
    """

    format: str = "delimited"
    delimiter: bytes = b""
    header: bool = True
    n_fields: int = 0
    skip_lines: int = 0
    comment: bytes = b"#"
    quotes: bool = True


def codec_name(name: str) -> str:
    """The usual name of an encoding that is read here: UTF-8, UTF-16, or one with a byte a character; "" for others."""
    try:
        known = codecs.lookup(name).name
        if known in ("utf-8", "utf-16", "utf-16-le", "utf-16-be"):
            return known
        texts = bytes(range(256)).decode(known, "replace")
    except (LookupError, UnicodeError):
        return ""
    is_single = len(texts) == 256 and texts[:128] == bytes(range(128)).decode("ascii") and known != "ascii"
    return known if is_single else ""
