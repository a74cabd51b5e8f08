"""How a source says its rows: what a reader of `formats` must know of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delimited:
    """Delimited text.

    delimiter: empty where the header tells it. header: whether there is one; without, the data set's columns have
    places of `n_fields`. skip_lines: lines at the beginning that are passed over. comment: what a line before the
    header, or before the first row, begins with that is none. quotes: whether these enclose fields.
    """

    delimiter: bytes = b""
    header: bool = True
    n_fields: int = 0
    skip_lines: int = 0
    comment: bytes = b"#"
    quotes: bool = True
    encoding: str = "utf-8"
