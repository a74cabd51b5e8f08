"""What to load: one source, and how."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ingest_service.datasets.base import Dataset
from ingest_service.formats.delimited.blocks import BLOCK_BYTES
from ingest_service.sources.base import Source


@dataclass(frozen=True, slots=True)
class RejectLimit:
    """How many rows may be refused: a number, or a share of the rows read."""

    rows: int | None = None
    percent: float | None = None
    MIN_ROWS: ClassVar[int] = 1_000  # a share of fewer rows says little; at the end it counts all the same

    @classmethod
    def parse(cls, text: str | None) -> "RejectLimit":
        """`100` rows or `1.5%`; None for no limit."""
        if text is None:
            return cls()
        return cls(percent=float(text[:-1])) if text.endswith("%") else cls(rows=int(text))

    def exceeded(self, refused: int, read: int, *, at_end: bool = False) -> bool:
        if self.rows is not None and refused > self.rows:
            return True
        judged = at_end or read >= self.MIN_ROWS
        return self.percent is not None and judged and refused * 100 > self.percent * read


@dataclass(frozen=True, slots=True)
class Job:
    """One source to load, and how. `stream` names its checkpoints and its folder of dead letters."""

    source: Source
    stream: str
    dataset: Dataset
    state_dir: Path
    columns: dict[str, str] = field(default_factory=dict)
    checkpoint_dir: Path | None = None
    limit: int | None = None
    max_rejects: RejectLimit = RejectLimit()
    block_bytes: int = BLOCK_BYTES
    restart: bool = False

    @property
    def starts_again(self) -> bool:
        """Whether earlier runs do not count. Standard input cannot be read again, so each run of it is a new one."""
        return self.restart or not self.source.resumable
