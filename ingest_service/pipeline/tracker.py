"""Which spans of the source one sink has settled, and how far it may be checkpointed. Pure: no I/O, no clock.

Spans are expected in source order, without gaps, and settled in any order. The watermark is the end of the longest
unbroken run of settled spans from the start; everything before it is stored, kept as a dead letter, or refused.
"""

from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Annotated, TypeAlias

from pydantic import Field

from ingest_service.rows.chunk import Position

Count: TypeAlias = Annotated[int, Field(ge=0, strict=True)]


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of rows: read = accepted + rejected + filtered, and accepted = written + merged + dead.

    `records`: where a row may be several records, or none, how many the accepted rows are; these are then what is
    written, merged or dead. None where each is one.
    """

    read: Count = 0
    accepted: Count = 0
    rejected: Count = 0
    written: Count = 0
    merged: Count = 0
    dead: Count = 0
    records: Count | None = None
    filtered: Count = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.read + other.read,
            self.accepted + other.accepted,
            self.rejected + other.rejected,
            self.written + other.written,
            self.merged + other.merged,
            self.dead + other.dead,
            None if self.records is other.records is None else self.n_records + other.n_records,
            self.filtered + other.filtered,
        )

    @property
    def n_records(self) -> int:
        return self.accepted if self.records is None else self.records

    @property
    def balanced(self) -> bool:
        is_all_told = self.read == self.accepted + self.rejected + self.filtered
        return is_all_told and self.n_records == self.written + self.merged + self.dead

    def as_json(self) -> dict[str, int]:
        """`filtered` only where rows were: checkpoints of data sets without a filter are as ever."""
        told = {name: value for name, value in asdict(self).items() if value is not None}
        return told if self.filtered else {name: value for name, value in told.items() if name != "filtered"}


@dataclass(frozen=True, slots=True)
class Watermark:
    """A position, and what became of all rows before it.

    `unended`: where the last of them are rows only because the source ended there, the watermark before these.
    """

    position: Position
    counts: Counts = Counts()
    unended: "Watermark | None" = None


@dataclass(slots=True)
class _Span:
    start: Position
    end: Position
    is_unended: bool
    counts: Counts | None = None  # None until it is settled


class Tracker:
    """The spans of one sink from its first watermark on."""

    def __init__(self, start: Watermark) -> None:
        self._watermark = start
        self._expected_to = start.position.offset
        self._spans: deque[_Span] = deque()
        self._open: dict[int, _Span] = {}

    @property
    def watermark(self) -> Watermark:
        return self._watermark

    @property
    def outstanding(self) -> int:
        """Spans that are expected and not settled."""
        return len(self._open)

    def expect(self, start: Position, end: Position, *, is_unended: bool = False) -> None:
        """The next span. ValueError unless it begins where the last one ended, and is not empty."""
        if start.offset != self._expected_to or end.offset <= start.offset:
            raise ValueError(f"span {start.offset}-{end.offset} does not follow {self._expected_to}")
        span = _Span(start, end, is_unended)
        self._spans.append(span)
        self._open[start.offset] = span
        self._expected_to = end.offset

    def settle(self, start: Position, counts: Counts) -> None:
        """Every row of the span that begins at `start` has its fate, durably.

        Settling it again changes nothing. ValueError for a span that was never expected, or counts that do not add up.
        """
        if not counts.balanced:
            raise ValueError(f"counts do not add up: {counts}")
        span = self._open.pop(start.offset, None)
        if span is None:
            settled = start.offset < self._watermark.position.offset
            if settled or any(span.start.offset == start.offset for span in self._spans):
                return
            raise ValueError(f"span at {start.offset} was never expected")
        span.counts = counts
        while self._spans and (done := self._spans[0].counts) is not None:
            span, before = self._spans.popleft(), replace(self._watermark, unended=None)
            self._watermark = Watermark(span.end, before.counts + done, before if span.is_unended else None)
