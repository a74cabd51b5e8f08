"""What several workers tell of one source, as if one run did it all."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from ingest_service.pipeline.checkpoint import Checkpoint
from ingest_service.pipeline.plan import Plan
from ingest_service.pipeline.progress import Progress, SinkProgress
from ingest_service.pipeline.report import StreamReport
from ingest_service.pipeline.tracker import Counts


@dataclass(slots=True)
class _Part:
    """A shard: the rows read of it, how far it is settled, and what its sinks have."""

    rows: int = 0
    rejected: int = 0
    filtered: int = 0
    settled_to: int = 0
    sinks: dict[str, SinkProgress] = field(default_factory=dict)
    is_done: bool = False


class Combined:
    """One divided source. `length` is where it ended when it was divided, in its offsets."""

    def __init__(self, plan: Plan, length: int, parts: Mapping[str, Sequence[Checkpoint | None]]) -> None:
        """parts: the checkpoints of its shards, by sink, as they were found."""
        self._plan = plan
        self._length = length
        self._offsets = [start.offset for start in plan.starts]
        self._parts = {number: _Part(settled_to=start.offset) for number, start in enumerate(plan.starts)}
        self._rows_at, self._rows_s = 0, monotonic()
        for sink, found in parts.items():
            for number, checkpoint in enumerate(found):
                if checkpoint is not None:
                    self._note(number, sink, checkpoint)
        self._rows_at = self._rows

    def progressed(self, event: Progress, others: Sequence[Progress]) -> Progress:
        """What a worker says of its shard, put together with what is known of the others.

        others: the latest events of the other workers, for what each process has of its own.
        """
        number = bisect_right(self._offsets, event.offset - 1) - 1 if event.offset > self._offsets[0] else 0
        start = self._plan.starts[number]
        part = self._parts[number]
        part.rows, part.rejected, part.filtered = event.rows_read - start.row, event.rows_rejected, event.rows_filtered
        part.settled_to = max(part.settled_to, min((sink.watermark for sink in event.sinks.values()), default=0))
        part.sinks = dict(event.sinks)
        now = monotonic()
        rows, settled = self._rows, self._settled
        per_s = (rows - self._rows_at) / max(now - self._rows_s, 1e-9)
        if now - self._rows_s >= 1:
            self._rows_at, self._rows_s = rows, now
        parts = self._parts.values()
        left = self._length - self._offsets[0] - settled
        bytes_per_row = settled / rows if rows else 0.0
        return replace(
            event,
            offset=self._offsets[0] + settled,
            percent=round(min(100.0, 100 * settled / max(1, self._length - self._offsets[0])), 1),
            rows_read=self._plan.starts[0].row + rows,
            rows_rejected=sum(one.rejected for one in parts),
            rows_filtered=sum(one.filtered for one in parts),
            shards=len(parts),
            shards_complete=sum(one.is_done for one in parts),
            rows_per_s=max(0, round(per_s)),
            eta_s=round(left / (per_s * bytes_per_row), 1) if per_s > 0 and bytes_per_row else None,
            queue_depth={name: n + sum(o.queue_depth.get(name, 0) for o in others)
                         for name, n in event.queue_depth.items()},
            rss_mb=round(event.rss_mb + sum(other.rss_mb for other in others), 1),
            sinks={name: self._sink(name, sink, others) for name, sink in event.sinks.items()},
        )  # fmt: skip

    def reported(self, stream: str, report: StreamReport) -> bool:
        """A shard is loaded. Whether it is one of these, by the name of its stream."""
        number = next((shard.number for shard in self._plan if report.stream == shard.stream_of(stream)), None)
        if number is None:
            return False
        part = self._parts[number]
        counts = [sink.counts for sink in report.sinks.values()]
        part.rows, part.rejected, part.filtered = _most(counts)
        part.settled_to = self._end_of(number)
        for name, sink in report.sinks.items():
            part.sinks[name] = _settled(part.sinks.get(name), sink.counts)
        part.is_done = True
        return True

    def _note(self, number: int, sink: str, checkpoint: Checkpoint) -> None:
        part, mark = self._parts[number], checkpoint.watermark
        part.rows, part.rejected, part.filtered = _most(
            [Counts(part.rows, 0, part.rejected, filtered=part.filtered), mark.counts]
        )
        part.settled_to = max(part.settled_to, mark.position.offset)
        part.sinks[sink] = _settled(None, mark.counts)
        part.is_done = checkpoint.complete

    def _end_of(self, number: int) -> int:
        return self._offsets[number + 1] if number + 1 < len(self._offsets) else self._length

    @property
    def _rows(self) -> int:
        return sum(part.rows for part in self._parts.values())

    @property
    def _settled(self) -> int:
        return sum(part.settled_to - self._offsets[number] for number, part in self._parts.items())

    def _sink(self, name: str, latest: SinkProgress, others: Sequence[Progress]) -> SinkProgress:
        mine = [part.sinks[name] for part in self._parts.values() if name in part.sinks]
        theirs = [other.sinks[name] for other in others if name in other.sinks]
        return replace(
            latest,
            rows_written=sum(sink.rows_written for sink in mine),
            merged=sum(sink.merged for sink in mine),
            dead=sum(sink.dead for sink in mine),
            in_flight=latest.in_flight + sum(sink.in_flight for sink in theirs),
            retries=latest.retries + sum(sink.retries for sink in theirs),
            throttled=latest.throttled + sum(sink.throttled for sink in theirs),
            concurrency=latest.concurrency + sum(sink.concurrency for sink in theirs),
            watermark=self._offsets[0] + self._settled,
        )


def _most(counts: Sequence[Counts]) -> tuple[int, int, int]:
    """Rows read, rejected and filtered, as the sink has them that is the furthest."""
    furthest = max(counts, key=lambda one: one.read, default=Counts())
    return furthest.read, furthest.rejected, furthest.filtered


def _settled(before: SinkProgress | None, counts: Counts) -> SinkProgress:
    base = before or SinkProgress(0, 0, 0, 0, 0, 0, 0, "", None, None, 0)
    return replace(base, rows_written=counts.written, merged=counts.merged, dead=counts.dead, in_flight=0)
