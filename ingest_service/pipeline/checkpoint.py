"""How far a sink has got, kept where only its one current writer can change it.

One JSON document a stream and sink holds the watermark, the source's fingerprint and the lease. All changes are
compare-and-swap on the whole text: whoever took the lease over has changed it, so a stale writer's next save fails.
A lease is judged dead by watching its heartbeat on this process's monotonic clock, never by comparing wall clocks.
"""

import asyncio
import hashlib
import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ingest_service.errors import CheckpointDamaged, ConfigurationError, LeaseHeld, RowsGone
from ingest_service.pipeline.plan import Plan
from ingest_service.pipeline.tracker import Counts, Watermark
from ingest_service.rows.chunk import Position
from ingest_service.runtime import fault
from ingest_service.sinks.checkpoints import CheckpointStore, Place

fault.declare(
    {
        "checkpoint-swap": "a checkpoint is about to be stored",
        "checkpoint-swapped": "the checkpoint is stored, the lease does not know yet",
        "checkpoint-saved": "the checkpoint is stored",
    }
)

VERSION = 1
LEASE_S = 15.0
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells one source from another, besides the watermark's `tail_hash`, and what its rows were made into."""

    uri: str
    header: str
    size: int | None
    etag: str
    steps: str = ""  # of the data set, if it has any

    def require_steps(self, steps: str) -> None:
        """ConfigurationError unless these are the steps that the rows so far were loaded with."""
        if steps != self.steps:
            raise ConfigurationError(
                f"The rows so far were loaded with {_named(self.steps)}, and the data set has {_named(steps)} now; "
                "put back what stood under x-transform and x-features, or [[transform]] and [[feature]], "
                "or use --restart to load all rows again."
            )

    def as_json(self) -> dict[str, Any]:
        """Without steps as it ever was."""
        told = asdict(self)
        return told if self.steps else {name: value for name, value in told.items() if name != "steps"}


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lease. `started` tells it from a later process of the same number."""

    host: str
    boot: str
    pid: int
    started: str
    id: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    stream: str
    sink: str
    source: Fingerprint
    watermark: Watermark
    complete: bool = False
    fence: int = 0
    beat: int = 0
    holder: Holder | None = None
    updated_at: str = ""
    epoch: str = ""  # of the place where the rows are, if the checkpoint is kept elsewhere
    place: Place | None = None  # that place; the first versions did not note it
    generation: int = 0  # how many other sources there were by this name before
    plan: Plan | None = None  # how the source is divided, until all shards are brought together
    of_plan: str = ""  # of a shard: the plan that it is one of

    @property
    def written_as(self) -> str:
        """The stream for a sink that keeps rows by where they stood: those of another source are not to be replaced."""
        return f"{self.stream}.{self.generation:04d}" if self.generation else self.stream


def encode(checkpoint: Checkpoint) -> str:
    """JSON with a checksum over all the rest."""
    position, unended = checkpoint.watermark.position, checkpoint.watermark.unended
    content = {
        "version": VERSION,
        "stream": checkpoint.stream,
        "sink": checkpoint.sink,
        "source": checkpoint.source.as_json(),
        **asdict(position),
        "counts": checkpoint.watermark.counts.as_json(),
        "complete": checkpoint.complete,
        "fence": checkpoint.fence,
        "beat": checkpoint.beat,
        "holder": asdict(checkpoint.holder) if checkpoint.holder else None,
        "updated_at": checkpoint.updated_at,
        "epoch": checkpoint.epoch,
        "place": asdict(checkpoint.place) if checkpoint.place else None,
    }
    if checkpoint.generation:
        content["generation"] = checkpoint.generation
    if checkpoint.plan is not None:
        content["plan"] = checkpoint.plan.as_json()
    if checkpoint.of_plan:
        content["of_plan"] = checkpoint.of_plan
    if unended is not None:  # whoever does not know it refuses a line that went on, as ever
        content["unended"] = {**asdict(unended.position), "counts": unended.counts.as_json()}
    return json.dumps({**content, "checksum": _checksum(content)}, separators=(",", ":"))


def decode(text: str, stream: str, sink: str) -> Checkpoint:
    """CheckpointDamaged unless the text is whole, of this version, and about this stream and sink."""
    where = f"The checkpoint of {stream} in {sink}"
    advice = "restore it, or use --restart to load the source again from its start."
    try:
        content = json.loads(text)
        checksum = content.pop("checksum")
        version = content.pop("version")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointDamaged(f"{where} is damaged; {advice}") from None
    if isinstance(version, int) and version > VERSION and checksum == _checksum({"version": version, **content}):
        raise CheckpointDamaged(f"{where} was written by a newer version of this program; upgrade, or {advice}")
    if version != VERSION or checksum != _checksum({"version": version, **content}):
        raise CheckpointDamaged(f"{where} is damaged; {advice}")
    if content["stream"] != stream or content["sink"] != sink:
        raise CheckpointDamaged(f"{where} belongs to {content['stream']} in {content['sink']}; {advice}")
    unended = _watermark(content["unended"]) if content.get("unended") else None
    return Checkpoint(
        stream,
        sink,
        Fingerprint(**content["source"]),
        replace(_watermark(content), unended=unended),
        content["complete"],
        content["fence"],
        content["beat"],
        Holder(**content["holder"]) if content["holder"] else None,
        content["updated_at"],
        content.get("epoch", ""),  # the first checkpoints had none
        Place(**content["place"]) if content.get("place") else None,
        content.get("generation", 0),
        Plan.of_json(content["plan"]) if content.get("plan") else None,
        content.get("of_plan", ""),
    )


def _named(steps: str) -> str:
    return f"the steps {steps}" if steps else "no steps"


def _watermark(content: dict[str, Any]) -> Watermark:
    position = Position(content["offset"], content["row"], content["line"], content["tail_hash"])
    return Watermark(position, Counts(**content["counts"]))


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint's text, and since when it was the same, on this process's monotonic clock."""

    text: str | None
    since: float = field(default_factory=lambda: time.monotonic())  # noqa: PLW0108 - as the clock is then


class Lease:
    """The right to write one stream into one sink, and the checkpoint that it found.

    `epoch` and `place` are those of the sink, where it could lose its rows without the checkpoint.
    """

    def __init__(
        self, store: CheckpointStore, stream: str, sink: str, epoch: str = "", place: Place | None = None
    ) -> None:
        self._store = store
        self._stream = stream
        self._sink = sink
        self._epoch = epoch
        self._place = place
        self._text: str | None = None
        self._current: Checkpoint | None = None

    @property
    def is_released(self) -> bool:
        return self._current is not None and self._current.holder is None

    async def acquire(
        self,
        source: Fingerprint,
        start: Watermark,
        *,
        restart: bool,
        is_another: bool = False,
        of_plan: str = "",
        lease_s: float = LEASE_S,
        seen: Seen | None = None,
    ) -> Checkpoint:
        """Take the lease and return the checkpoint to go on from; `start` is for a stream without one.

        is_another: whether the source is another one by the same name, so that what was loaded of it stays.
        of_plan: of a shard; what is there of another plan's does not count.
        seen: the checkpoint as it was met before this, whose holder is judged by that, too.

        LeaseHeld if another runner is alive. CheckpointDamaged and RowsGone unless `restart`, which begins again at
        `start`.
        """
        watched = seen
        while True:
            text = await self._store.read(self._stream)
            found = self._decode(text, restart=restart)
            holder = found.holder if found else None
            if holder is not None and not is_dead(holder):
                if watched is not None and text != watched.text:
                    raise LeaseHeld(f"{holder} is loading this source into {self._sink}; wait for it or stop it.")
                watched = watched or Seen(text)
                if time.monotonic() - watched.since < lease_s:
                    await asyncio.sleep(_POLL_S)
                    continue
            if found is None or restart or found.of_plan != of_plan:
                fence, generation = (found.fence, found.generation + is_another) if found else (0, 0)
                mine = Checkpoint(
                    self._stream, self._sink, source, start, fence=fence, generation=generation, of_plan=of_plan
                )
            else:
                mine = found
                if found.epoch:
                    self.require_epoch(found.epoch)
            epoch, place = self._epoch or mine.epoch, self._place or mine.place
            mine = replace(mine, fence=mine.fence + 1, beat=0, holder=_this_process(), epoch=epoch, place=place)
            if await self._swap(text, mine):
                return mine

    def divide(self, plan: Plan | None) -> None:
        """What the next save says of the source's division; None once its shards are brought together."""
        assert self._current is not None, "acquire comes first"
        self._current = replace(self._current, plan=plan)

    def require_epoch(self, epoch: str) -> None:
        """RowsGone if the rows are, or were, in another place than that of this lease."""
        if self._epoch and epoch != self._epoch:
            raise RowsGone(
                f"{self._sink} is not what it was when the checkpoint was written, so rows are gone; "
                "restore them, or use --restart to load the source again from its start."
            )

    def _decode(self, text: str | None, *, restart: bool) -> Checkpoint | None:
        if text is None:
            return None
        try:
            return decode(text, self._stream, self._sink)
        except CheckpointDamaged:
            if restart:
                return None
            raise

    async def save(
        self,
        source: Fingerprint,
        watermark: Watermark,
        *,
        complete: bool,
        release: bool = False,
        takes_back: bool = False,
    ) -> None:
        """Store the watermark, which also is the heartbeat. It never falls, unless rows were taken back.

        LeaseHeld if another runner has taken over; RowsGone if there is no checkpoint any more, nor what lay beside it.
        """
        assert self._current is not None, "acquire comes first"
        if watermark.position.offset < self._current.watermark.position.offset and not takes_back:
            raise ValueError("a watermark never falls")
        new = replace(
            self._current,
            source=source,
            watermark=watermark,
            complete=complete,
            beat=self._current.beat + 1,
            holder=None if release else self._current.holder,
        )
        while not await self._swap(self._text, new):
            text = await self._store.read(self._stream)
            if text is None:
                raise RowsGone(
                    f"{self._sink} has lost the checkpoint of this source, so rows may be gone too; "
                    "run the same command again to load it from its start."
                )
            if not self._is_mine(text):
                raise LeaseHeld(
                    f"Another runner has taken this source over in {self._sink}; this one stopped writing, "
                    "and what it had stored is safe."
                )
            self._text = text  # an earlier save of ours, whose reply was lost or not waited for
        fault.point("checkpoint-saved", self._sink, watermark.position.row, watermark.position.row)

    async def assure(self) -> None:
        """LeaseHeld if another runner has taken over by now."""
        text = await self._store.read(self._stream)
        if text is not None and not self._is_mine(text):
            raise LeaseHeld(f"Another runner has taken this source over in {self._sink}; what was stored is safe.")

    async def give_back(self) -> None:
        """End the lease, and leave the checkpoint as it was saved last."""
        assert self._current is not None, "acquire comes first"
        saved = self._current
        await self.save(saved.source, saved.watermark, complete=saved.complete, release=True)

    def _is_mine(self, text: str) -> bool:
        assert self._current is not None
        found = decode(text, self._stream, self._sink)
        return (found.fence, found.holder) == (self._current.fence, self._current.holder)

    async def _swap(self, old: str | None, new: Checkpoint) -> bool:
        new = replace(new, updated_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        text = encode(new)
        fault.point("checkpoint-swap")
        # A reply may get lost after the swap was made: then the text is ours all the same.
        if not await self._store.swap(self._stream, old, text) and await self._store.read(self._stream) != text:
            return False
        fault.point("checkpoint-swapped")
        self._text, self._current = text, new
        return True


@cache
def _this_process() -> Holder:
    return Holder(socket.gethostname(), _boot_id(), os.getpid(), _started(os.getpid()), uuid.uuid4().hex)


def is_dead(holder: Holder) -> bool:
    """Surely dead: it ran on this very host since its last boot, and no such process is there any more."""
    here = _this_process()
    if (holder.host, holder.boot) != (here.host, here.boot) or not here.boot:
        return False
    return _started(holder.pid) != holder.started


@cache
def _boot_id() -> str:
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + f"/{namespace}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot (proc(5), stat field 22); "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
