"""Rows that are objects, of JSON Lines or Parquet, as a table: a column for each path, also into lists."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ingest_service.datasets.base import EACH
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats.jsonl.specification import parsed, text_of
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.formats.parquet.columns import object_at
from ingest_service.formats.parquet.file import ParquetFile
from ingest_service.inference.found import Sampled, Table
from ingest_service.sources.base import Source

MAGIC: Final = b"PAR1"
_MAX_ROWS: Final = 2_000
_MAX_COLUMNS, _MAX_DEPTH = 1_000, 5
_MAX_VALUES = 400_000
_BATCH_BYTES = 1 << 20
_MOST = 0.9
_JSON_DOCUMENT = (
    "The source is JSON, and not an object a line; write its rows so, for example with: jq -c '.[]' (for a list)."
)


def is_json(head: bytes) -> bool:
    """Or what others take for it."""
    return head.lstrip(b" \t\r\n").startswith((b"{", b"["))


def table_of_lines(head: bytes, later: Sequence[bytes]) -> Table:
    """ConfigurationError if the lines are not objects."""
    rows: list[dict[str, Any]] = []
    n_bad = 0
    for line in _lines(head, later):
        try:
            rows.append(parsed(line))
        except RowError:
            n_bad += 1
    if head.lstrip().startswith((b"{'", b"{u'")):
        raise ConfigurationError("The source's lines are literals of Python, and no JSON; write them with json.dumps.")
    if len(rows) < _MOST * (len(rows) + n_bad) or not rows:
        raise ConfigurationError(_JSON_DOCUMENT)
    doubts = [f"{n_bad:,} of {len(rows) + n_bad:,} lines looked at are no JSON objects"] if n_bad else []
    return Table("jsonl", "JSON Lines", _columns(rows), len(rows), doubts=doubts)


def _lines(head: bytes, later: Sequence[bytes]) -> Iterator[bytes]:
    for piece, limit in ((head, _MAX_ROWS), *((piece, _MAX_ROWS // 4) for piece in later)):
        lines = (line for line in piece.split(b"\n", limit)[:limit] if line.strip(b" \t\r"))
        yield from (line for line in lines if len(line) <= MAX_RECORD_BYTES)


def table_of_parquet(source: Source) -> Table:
    """Of the first rows, and of some in the middle. ConfigurationError or LocalIOError if it cannot be read."""
    with source.open_at_random() as stored:
        if stored.read(len(MAGIC)) != MAGIC:
            raise ConfigurationError("The source is a packed Parquet file; unpack it, for Parquet is read at random.")
    file = ParquetFile(source)
    try:
        import pyarrow as pa

        plain = [field.name for field in file.schema if not pa.types.is_map(field.type) and "." not in field.name]
        names = plain[:_MAX_COLUMNS]
        if not names or len(set(names)) < len(names):
            raise ConfigurationError("The source has no columns, or two of one name; write it with a name for each.")
        rows: list[dict[str, Any]] = []
        limit = max(20, min(_MAX_ROWS, _MAX_VALUES // len(names)))
        middle = file.group_of(file.n_rows // 2)[1] if file.n_rows else 0
        for first in dict.fromkeys((0, middle)):
            rows += _some(file, first, names, limit)
    finally:
        file.close()
    if not rows:
        raise ConfigurationError("The source has no rows; it takes some to tell what its columns hold.")
    return Table("parquet", "Parquet", _columns(rows), len(rows))


def _some(file: ParquetFile, first: int, names: Sequence[str], limit: int) -> Iterator[dict[str, Any]]:
    for _, batch in file.batches(first, names, _BATCH_BYTES):
        yield from (object_at(batch, row) for row in range(min(limit, batch.num_rows)))
        return


class _Paths:
    """Values by path, as many of each path as there are rows, or elements of the list that it goes into."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, ...], list[str]] = {}
        self._counts: dict[tuple[str, ...], int] = {(): 0}  # by the path of the list
        self._holders: set[tuple[str, ...]] = set()  # paths of objects and lists, which are no columns
        self._n_values = 0

    @property
    def is_full(self) -> bool:
        return self._n_values > _MAX_VALUES

    def add(self, row: dict[str, Any]) -> None:
        self._object(row, (), ())
        self._counts[()] += 1

    def columns(self) -> list[Sampled]:
        found = []
        for path, texts in self._texts.items():
            if (
                path not in self._holders
                and not self._is_list_as_well(path)
                and not any("\ud800" <= one <= "\udfff" for name in path for one in name)
            ):
                lacking = self._counts[Sampled("", [], path).each] - len(texts)
                found.append(Sampled(path[-1].removesuffix(EACH), texts + [""] * lacking, path))
        return found

    def _is_list_as_well(self, path: tuple[str, ...]) -> bool:
        """Whether what is on the way there is a list in other rows."""
        return any((*path[:place], path[place] + EACH) in self._counts for place in range(len(path)))

    def _object(self, value: dict[str, Any], path: tuple[str, ...], each: tuple[str, ...]) -> None:
        for name, inner in value.items():
            if name and not name.endswith(EACH):
                self._value(inner, (*path, name), each)

    def _value(self, value: Any, path: tuple[str, ...], each: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            self._holders.add(path)
            if len(path) < _MAX_DEPTH:
                self._object(value, path, each)
        elif isinstance(value, list):
            self._holders.add(path)
            if not each and len(path) < _MAX_DEPTH:
                inner = (*path[:-1], path[-1] + EACH)
                self._counts.setdefault(inner, 0)
                for element in value[:_MAX_ROWS]:
                    self._value(element, inner, inner)
                    self._counts[inner] += 1
        elif path in self._texts or len(self._texts) < _MAX_COLUMNS:
            texts = self._texts.setdefault(path, [])
            texts += [""] * (self._counts[each] - len(texts))
            try:
                texts.append(text_of(value, ""))
            except RowError:  # no text can hold it; whatever it is, it is none of an id or a time
                texts.append("\ufffd")
            self._n_values += 1


def _columns(rows: Iterable[dict[str, Any]]) -> list[Sampled]:
    paths = _Paths()
    for row in rows:
        if paths.is_full:
            break
        paths.add(row)
    return paths.columns()
