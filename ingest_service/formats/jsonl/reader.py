"""JSON Lines: an object a line."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats.base import Rows, RowValues
from ingest_service.formats.chunks import Plain, TextBlock
from ingest_service.formats.jsonl.columns import JsonColumns
from ingest_service.formats.jsonl.specification import parsed, specify
from ingest_service.formats.lines import Lines, lines_of
from ingest_service.formats.paths import Paths, paths_of
from ingest_service.formats.text import AHEAD_BYTES, BOM, TextReader
from ingest_service.rows.chunk import DeadRow

_BLANKS = np.isin(np.arange(256), list(b" \t\r"))


@dataclass(frozen=True, slots=True)
class JsonRows(Rows):
    """A data set bound to objects: at which path each column stands. The recipe are the paths."""

    dataset: Dataset
    paths: Paths

    @classmethod
    def of(cls, dataset: Dataset, names: Mapping[str, str] | None = None) -> "JsonRows":
        return cls(dataset, paths_of(dataset, names))

    @property
    def recipe(self) -> str:  # type: ignore[override]
        return self.paths.recipe

    def row(self, raw: bytes) -> RowValues | RowError:
        return specify(raw, self.dataset.columns, self.paths, parsed)

    def advice(self, refused: DeadRow) -> str:
        if refused.code == "bad_json":
            return "Each line must be an object by itself; jq -c '.[]' makes such of a list."
        return self.dataset.advice(refused.code)


class JsonLinesReader(TextReader):
    """Reads JSON Lines. Blank lines are none."""

    rows: JsonRows
    _recipe_is_another = "columns are not those that were ingested"

    @classmethod
    def rows_of(cls, dataset: Dataset, recipe: str, columns: Mapping[str, str] | None = None) -> JsonRows:
        return JsonRows.of(dataset, columns)

    def _begin(self) -> tuple[JsonRows, int]:
        self._fill(len(BOM), ahead=AHEAD_BYTES)
        if not self._buffer:
            raise ConfigurationError("The source is empty.")
        self._refuse_what_is_no_text()
        return self.rows_of(self._dataset, "", self._columns), self._mark_bytes()

    def _split(self, text: bytes, *, eof: bool) -> Lines:
        buffer = np.frombuffer(text, np.uint8)[: len(text) if eof else text.rfind(b"\n") + 1]
        starts, ends, next_starts = lines_of(buffer, eof=eof)
        keep = ends > starts
        for line in np.flatnonzero(keep & _BLANKS[buffer[np.minimum(starts, len(buffer) - 1)]]).tolist():
            keep[line] = bool(text[starts[line] : ends[line]].strip(b" \t\r"))
        rows = np.flatnonzero(keep)
        consumed = int(next_starts[-1]) if len(next_starts) else 0
        lines_consumed = len(next_starts) - int(consumed > 0 and text[consumed - 1] != ord("\n"))
        return Lines(starts[rows], ends[rows], rows, consumed, lines_consumed)

    def _plain(self, block: TextBlock) -> Plain | None:
        return self._json_columns.plain(block) if self._json_columns.can_be_slots else None

    def _specify(self, block: TextBlock, index: int) -> RowValues | RowError:
        return self.rows.row(block.raw(index))

    @cached_property
    def _json_columns(self) -> JsonColumns:
        return JsonColumns(self._dataset.columns, self.rows.paths)
