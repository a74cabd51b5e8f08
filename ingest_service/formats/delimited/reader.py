"""Delimited text: its header, and its rows as columns."""

import re
from collections.abc import Mapping
from itertools import count
from typing import cast

import numpy as np

from ingest_service.datasets.base import Dataset
from ingest_service.errors import ConfigurationError, RowError
from ingest_service.formats.base import RowValues
from ingest_service.formats.chunks import Plain, TextBlock
from ingest_service.formats.delimited.layout import Layout, bind, bind_by_place, form_of, specify
from ingest_service.formats.delimited.records import BLANKS, Records, scan_record, split
from ingest_service.formats.text import TextReader
from ingest_service.rows.columns import taken

_SEPARATOR_LINE = re.compile(rb"\"?sep=.\"?[\s,;|]*", re.IGNORECASE | re.DOTALL)


class DelimitedReader(TextReader):
    """Reads delimited text."""

    rows: Layout

    @classmethod
    def rows_of(cls, dataset: Dataset, recipe: str, columns: Mapping[str, str] | None = None) -> Layout:
        has_header = form_of(dataset).header
        return bind(dataset, recipe.encode(), columns) if has_header else bind_by_place(dataset, columns)

    def _begin(self) -> tuple[Layout, int]:
        """What stands before the header is passed over; where there is none, what stands before the first row."""
        form = form_of(self._dataset)
        start = 0
        for number in count():
            line, end = self._line(start)
            if not start:
                self._refuse_what_is_no_text()
            if number < form.skip_lines:
                start = end
                continue
            if not form.header and not (form.comment and line.startswith(form.comment)):
                return bind_by_place(self._dataset, self._columns), start or self._mark_bytes()
            if form.header and not stands_before_a_header(line):
                layout = self._bind(line)
                if layout is not None:
                    return layout, end
            start = end
        raise AssertionError("a source ends")

    def _bind(self, line: bytes) -> Layout | None:
        """None for a comment. Some mark their header like one, so a line that can be a header is one."""
        comment = form_of(self._dataset).comment
        is_comment = bool(comment) and line.startswith(comment)
        try:
            return bind(self._dataset, line, self._columns, by_position=not is_comment)
        except ConfigurationError:
            if is_comment:
                return None
            self._refuse_what_is_no_text(likely=True)
            raise

    def _split(self, text: bytes, *, eof: bool) -> Records:
        return split(text, self.rows.dialect, eof=eof)

    def _next_start(self, text: bytes, start: int) -> int | None:
        record = scan_record(text, start, self.rows.dialect, eof=False)
        return None if record is None else record.next_start

    def _plain(self, block: TextBlock) -> Plain | None:
        records = cast(Records, block.lines)
        if not len(records.plain):
            return None
        rows, values, valid = self.rows.plain(block.data, records)
        is_right = np.zeros(len(records), np.bool_)
        is_right[records.plain] = valid
        if not valid.all():
            keep = np.flatnonzero(valid[rows])
            rows, values = rows[keep], [taken(one, keep) for one in values]
        is_all = len(records.plain) == len(records)  # then a row's place among the plain ones is its own
        return Plain(rows if is_all else records.plain[rows], values, is_right)

    def _specify(self, block: TextBlock, index: int) -> RowValues | RowError:
        return specify(self._fields_of(block, index), self.rows)

    def _fields_of(self, block: TextBlock, index: int) -> list[str] | RowError:
        """The fields of one row as text, by the specification; or why it is refused."""
        scanned = cast(Records, block.lines).scanned
        if index in scanned:
            return scanned[index]
        # With its line end again: without, a CR that ends the last field would be taken for one.
        record = scan_record(block.raw(index) + b"\r\n", 0, self.rows.dialect, eof=True)
        assert record is not None and record.fields is not None, "a plain record is whole and not blank"
        return record.fields


def stands_before_a_header(line: bytes) -> bool:
    """Whether a line is blank, or says the delimiter as Excel wants it."""
    return not line.strip(BLANKS) or _SEPARATOR_LINE.fullmatch(line) is not None
