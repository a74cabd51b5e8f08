"""What a place for checkpoints must be able to do; what they say is `pipeline.checkpoint`'s business."""

import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

EPOCH = "epoch"  # no stream has this name: theirs end in a hash


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows are, without secrets: a table or collection by `name`, at a `server`, which is a host or a file.

    The same place may be reached by another server's name tomorrow, but never by another name of its own.
    """

    name: str = ""
    server: str = ""

    def is_still_there(self) -> bool:
        """Whether it is a file that exists, so that another one is at best its copy."""
        return self.server.startswith("/") and Path(self.server).exists()


class CheckpointStore(ABC):
    """Where a sink's checkpoints live: one text a stream, changed by compare-and-swap."""

    @abstractmethod
    async def read(self, stream: str) -> str | None: ...

    @abstractmethod
    async def swap(self, stream: str, old: str | None, new: str) -> bool:
        """Store `new` if the text is still `old` (None: if there is none), durably. Whether it was."""

    @abstractmethod
    async def streams(self) -> list[str]:
        """The streams that have a checkpoint here, and `EPOCH` where it has one."""

    async def epoch(self) -> str:
        """A text that is made once, and lives and dies with what is kept here."""
        while (found := await self.read(EPOCH)) is None:
            await self.swap(EPOCH, None, uuid.uuid4().hex)
        return found
