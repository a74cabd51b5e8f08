"""How a source is divided: into shards that are loaded each by itself, in any order, by any number of workers.

Where the cuts are depends on the source's bytes and the shard size alone. The plan is kept in the checkpoint of the
stream, and each shard has a checkpoint of its own, so whoever can reach the sinks can take a shard or take one over.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

from ingest_service.rows.chunk import Position

_SHARD_BYTES: Final = range(8 << 20, 64 << 20)  # of a short source and of a long one
_SHARDS: Final = 16  # of one between these: so many workers may share it
_MAX_SHARDS: Final = 1_000  # their starts are one text, and DynamoDB keeps no more than 400 KB of it
_TRIES: Final = 8  # places in a shard that are tried for a cut, before it is left as long as it is


def part_of(stream: str, number: int) -> str:
    """The stream that a shard of this one is."""
    return f"{stream}.{number:04d}"


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of a source from `start` on, up to `end`; None for the last one, which ends with the source."""

    number: int
    plan: str
    start: Position
    end: Position | None

    def stream_of(self, stream: str) -> str:
        """What it is called in checkpoints, as a shard of this stream."""
        return part_of(stream, self.number)


def mark_of(sinks: Iterable[str]) -> str:
    """How ids of plans end that are for these sinks, by their names: what their shards note serves no others."""
    return blake2b("\n".join(sorted(sinks)).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards of one source. `id` tells it from other plans of the stream, so that their checkpoints differ."""

    id: str
    starts: tuple[Position, ...]

    def __iter__(self) -> Iterator[Shard]:
        ends = (*self.starts[1:], None)
        pairs = enumerate(zip(self.starts, ends, strict=True))
        return (Shard(number, self.id, start, end) for number, (start, end) in pairs)

    def __len__(self) -> int:
        return len(self.starts)

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "starts": [list(asdict(start).values()) for start in self.starts]}

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> "Plan":
        return cls(told["id"], tuple(Position(*start) for start in told["starts"]))


def shard_bytes_of(size: int, shard_mb: int | None) -> int:
    """How long the shards of a source are: as the user says, or by its size alone."""
    if shard_mb is not None:
        return shard_mb << 20
    return min(_SHARD_BYTES.stop, max(_SHARD_BYTES.start, size // _SHARDS))


def starts_within(
    first: Position, length: int, shard_length: int, cut: Callable[[int], Position | None]
) -> tuple[Position, ...]:
    """Where the shards of a source begin; just `first` where it is no longer than one.

    length, shard_length: in the source's offsets. A shard is longer where there would be too many.
    """
    shard_length = max(shard_length, (length - first.offset) // _MAX_SHARDS + 1)
    starts = [first]
    for goal in range(first.offset + shard_length, length, shard_length):
        places = range(goal, goal + shard_length, max(1, shard_length // _TRIES))
        found = next((found for place in places if (found := cut(place)) is not None), None)
        if found is not None and starts[-1].offset < found.offset < length:
            starts.append(found)
    return tuple(starts)
