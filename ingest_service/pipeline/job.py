"""What to load: one source, and how."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ingest_service.datasets.base import Dataset
from ingest_service.formats.base import Reader
from ingest_service.formats.memory import BLOCK_BYTES, block_bytes_without
from ingest_service.formats.opening import open_reader
from ingest_service.pipeline.mirror import Mirror
from ingest_service.pipeline.plan import Shard
from ingest_service.pipeline.rejects import RejectLimit
from ingest_service.sources.base import Source

_SHARDS = "shards-"


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
    max_rejects: RejectLimit = field(default_factory=RejectLimit)
    block_bytes: int = BLOCK_BYTES
    restart: bool = False
    shard: Shard | None = None
    mirror: Mirror | None = None  # of the state folder

    def beside(self, mb: int) -> "Job":
        """The same, where so much of its memory is taken by something else."""
        return replace(self, block_bytes=block_bytes_without(self.block_bytes, mb))

    @property
    def folder(self) -> Path:
        """Where the dead letters of the stream are, and what else is noted of it."""
        return self.state_dir / self.stream

    def part(self, shard: Shard) -> "Job":
        """The same for one shard: a stream of its own, with its own dead letters."""
        folder = self.shards_folder(shard.plan)
        return replace(self, stream=shard.stream_of(self.stream), state_dir=folder, shard=shard, restart=False)

    def shards_folder(self, plan: str) -> Path:
        """Where the shards of a plan keep their dead letters, and what else they note."""
        return self.folder / f"{_SHARDS}{plan}"

    def shards_folders(self) -> list[Path]:
        """Those of all plans, here and in the mirror. Blocks the caller."""
        folder = self.folder
        there = self.mirror.folders_in(folder) if self.mirror is not None else []
        return sorted({*folder.glob(f"{_SHARDS}*"), *(one for one in there if one.name.startswith(_SHARDS))})

    def open_reader(self, *, limit: int | None = None, keeps_past: bool = False) -> Reader[Any]:
        """A reader of the source, before its first row; of a shard it ends with that. Blocks the caller.

        keeps_past: beside the dead letters, what features need of the rows before.
        """
        past = self.folder if keeps_past and self.source.resumable else None
        reader = open_reader(
            self.source, self.dataset, columns=self.columns, limit=limit, block_bytes=self.block_bytes, past=past
        )
        if self.shard is not None and self.shard.end is not None:
            reader.until(self.shard.end)
        return reader

    @property
    def starts_again(self) -> bool:
        """Whether earlier runs do not count. Standard input cannot be read again, so each run of it is a new one."""
        return self.restart or not self.source.resumable
