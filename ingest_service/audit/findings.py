"""What `verify` found out, as numbers, text and JSON. Of a row it names the place and the key, never its content."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["missing", "altered", "extra"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not as it should be. An extra one has no place in the source."""

    kind: Kind
    user_id: str
    event_key: str
    source: str = ""
    line: int = 0
    offset: int = 0

    def __str__(self) -> str:
        place = f"line {self.line}, offset {self.offset}: " if self.source else ""
        return f"{self.kind}: {place}user {self.user_id}, event {self.event_key}"


@dataclass(slots=True)
class SinkFindings:
    """One sink: how many rows it should hold, and how many of what it holds differ. `first` are some of these.

    `expired` rows may be gone by now, and `users_without_rows` miss all of theirs. `complete`: the sink has all of the
    sources by its checkpoints.
    """

    compared: int = 0
    missing: int = 0
    altered: int = 0
    extra: int = 0
    expired: int = 0
    users_without_rows: int = 0
    complete: bool = True
    first: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not (self.missing or self.altered or self.extra)


@dataclass(frozen=True, slots=True)
class LetterDifference:
    """A refused row without its dead letter, or a dead letter without its row or that is there twice."""

    kind: Kind
    source: str
    offset: int


@dataclass(slots=True)
class LetterFindings:
    """The dead letters against the refused rows, of which `compared` were read."""

    compared: int = 0
    missing: int = 0
    extra: int = 0
    first: list[LetterDifference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra)


@dataclass(slots=True)
class Findings:
    """All sinks against all the sources."""

    rows_read: int = 0
    sinks: dict[str, SinkFindings] = field(default_factory=dict)
    dead_letters: LetterFindings = field(default_factory=LetterFindings)

    @property
    def equal(self) -> bool:
        return self.dead_letters.equal and all(sink.equal for sink in self.sinks.values())

    def as_json(self) -> dict[str, Any]:
        return {"equal": self.equal, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """For a reader."""
        yield f"{self.rows_read:,} rows read"
        for name, sink in self.sinks.items():
            numbers = ", ".join(f"{getattr(sink, kind):,} {kind}" for kind in ("missing", "altered", "extra"))
            yield f"{name}: {sink.compared:,} rows compared, {numbers}"
            yield from (f"  {difference}" for difference in sink.first)
            yield from (f"  note: {name} {note}" for note in sink.notes)
        letters = self.dead_letters
        yield f"dead letters: {letters.compared:,} compared, {letters.missing:,} missing, {letters.extra:,} extra"
        yield from (f"  {one.kind}: offset {one.offset} of {one.source}" for one in letters.first)
        yield "all as it should be" if self.equal else "DIFFERENT"
