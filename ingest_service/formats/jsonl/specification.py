"""What one line of JSON says: the specification, row by row.

A row is a JSON object (RFC 8259); of a name that is there twice the last counts, as in Python's json and most readers.
A value is taken as the text that a file of delimited text would have: a string's content, a number as it stands (whole
ones without a leading minus before zero), `true`, `false`, and nothing for null or a name that is not there.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from ingest_service.datasets.base import Column
from ingest_service.errors import RowError, declare_codes
from ingest_service.formats.base import RowValues
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.formats.paths import Paths

declare_codes({"bad_json": "no JSON object on the line"})

MAX_DEPTH = 100
_BAD_JSON = "The line is not a JSON object."
_TOO_DEEP = f"The line is nested more than {MAX_DEPTH} deep."


class Fraction(str):
    """A number that is not whole, as it stands in the source."""

    __slots__ = ()


def specify(
    raw: bytes, columns: Sequence[Column], paths: Paths, parse: Callable[[bytes], dict[str, Any]]
) -> RowValues | RowError:
    """The records of one line, which `parse` makes an object of, or why it is refused."""
    if len(raw) > MAX_RECORD_BYTES:
        return RowError("parse", "record_too_long", f"The record is longer than {MAX_RECORD_BYTES} bytes.")
    try:
        return values_of(parse(raw), columns, paths)
    except RowError as error:
        return error


def decoded(raw: bytes) -> str:
    """A line as text; RowError if it is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise RowError("parse", "invalid_utf8", "The record is not valid UTF-8.") from None


def parsed(raw: bytes) -> dict[str, Any]:
    """The object on a line; RowError if there is none."""
    text = decoded(raw)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise RowError("parse", "bad_json", _TOO_DEEP)
    try:
        row = json.loads(text, parse_float=Fraction, parse_int=_whole, parse_constant=_refuse)
    except ValueError:
        raise RowError("parse", "bad_json", _BAD_JSON) from None
    if not isinstance(row, dict):
        raise RowError("parse", "bad_json", _BAD_JSON)
    return row


def _depth(text: str) -> int:
    """How deep the brackets outside of strings are nested."""
    depth = deepest = 0
    is_string = is_escaped = False
    for character in text:
        if is_string:
            is_string = is_escaped or character != '"'
            is_escaped = not is_escaped and character == "\\"
        elif character == '"':
            is_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _whole(digits: str) -> Any:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return Fraction(digits)


def _refuse(constant: str) -> Any:
    raise RowError("parse", "bad_json", _BAD_JSON)


def values_of(row: Any, columns: Sequence[Column], paths: Paths) -> RowValues:
    """The records of a row that is an object. RowError says what is wrong with it."""
    if paths.each is None:
        return [[_value(row, path, column) for column, path in zip(columns, paths.of, strict=True)]]
    elements = _at(row, paths.each)
    name = ".".join(paths.each)
    if elements is None:
        raise RowError("validate", "missing_value", f"{name} is missing.")
    if not isinstance(elements, list):
        raise RowError("validate", "bad_value", f"{name} is not a list.")
    fields = list(zip(columns, paths.of, paths.is_inner, strict=True))
    return [
        [_value(element if is_inner else row, path, column) for column, path, is_inner in fields]
        for element in elements
    ]


def _value(row: Any, path: Sequence[str], column: Column) -> Any:
    return column.kind.one(text_of(_at(row, path), column.role), column.role)


def _at(row: Any, path: Sequence[str]) -> Any:
    """What stands there; None for null, and for a name that is not there."""
    for name in path:
        if row is None:
            return None
        if not isinstance(row, dict):
            raise RowError("validate", "bad_value", f"What holds {name} is not an object.")
        row = row.get(name)
    return row


def text_of(value: Any, column: str) -> str:
    """A value as the text that delimited text would have. RowError for an object or a list."""
    if isinstance(value, str):
        text = str(value)
        if "\0" in text:
            raise RowError("parse", "nul_byte", "The record holds a NUL byte.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise RowError("parse", "invalid_utf8", "The record holds half a pair of surrogates.")
        return text
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise RowError("validate", "bad_value", f"{column} is an object or a list.")
