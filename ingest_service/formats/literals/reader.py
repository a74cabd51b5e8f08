"""Python literals: a dictionary a line, as `repr` writes it. Some data sets of reviews are published so.

Rows are read one by one, by `ast.literal_eval`, which runs no code. JSON Lines are several times as fast.
"""

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from ingest_service.datasets.base import Dataset
from ingest_service.errors import RowError, declare_codes
from ingest_service.formats.base import RowValues
from ingest_service.formats.chunks import Plain, TextBlock
from ingest_service.formats.jsonl.reader import JsonLinesReader, JsonRows
from ingest_service.formats.jsonl.specification import Fraction, decoded, specify
from ingest_service.formats.paths import paths_of
from ingest_service.rows.chunk import DeadRow

declare_codes({"bad_literal": "no dictionary of Python on the line"})

# A backslash that begins no escape stands for itself; Python warns of it, or refuses it where warnings are errors.
_ESCAPE = "invalid escape sequence"
warnings.filterwarnings("ignore", f".*{_ESCAPE}", module="<unknown>")
_filtering = Lock()  # the filters of warnings are the process's


@dataclass(frozen=True, slots=True)
class LiteralRows(JsonRows):
    """A data set bound to dictionaries: at which path each column stands, as in JSON."""

    @classmethod
    def of(cls, dataset: Dataset, names: Mapping[str, str] | None = None) -> "LiteralRows":
        return cls(dataset, paths_of(dataset, names))

    def row(self, raw: bytes) -> RowValues | RowError:
        return specify(raw, self.dataset.columns, self.paths, _parsed)

    def advice(self, refused: DeadRow) -> str:
        if refused.code == "bad_literal":
            return "Each line must be a dictionary as Python writes it; JSON is read by format: jsonl."
        return self.dataset.advice(refused.code)


class LiteralsReader(JsonLinesReader):
    """Reads a dictionary a line. Blank lines are none."""

    rows: LiteralRows

    @classmethod
    def rows_of(cls, dataset: Dataset, recipe: str, columns: Mapping[str, str] | None = None) -> LiteralRows:
        return LiteralRows.of(dataset, columns)

    def _plain(self, block: TextBlock) -> Plain | None:
        return None


def _parsed(raw: bytes) -> dict[str, Any]:
    """The dictionary on a line; RowError if there is none."""
    text = decoded(raw)
    try:
        row = _evaluated(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the last two of what is nested deep
        row = None
    if not isinstance(row, dict):
        raise RowError("parse", "bad_literal", "The line is not a dictionary of Python.")
    return {name: _as_json(value) for name, value in row.items()}


def _evaluated(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except SyntaxError as error:
        if _ESCAPE not in str(error):
            raise
    with _filtering, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.literal_eval(text)


def _as_json(value: Any) -> Any:
    """Numbers that are not whole as texts, as JSON's are; tuples as lists."""
    if isinstance(value, float):
        return Fraction(repr(value))
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    return {name: _as_json(one) for name, one in value.items()} if isinstance(value, dict) else value
