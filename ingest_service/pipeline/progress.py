"""How far something is: the events that a command tells, each defined here once (`report` is in report.py).

JSON on stderr, Prometheus, OpenTelemetry, the service's view and the table in docs/COMMANDS.md are made of these.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import quantiles
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from ingest_service.pipeline.lane import Lane
from ingest_service.pipeline.load import State
from ingest_service.pipeline.report import StreamReport
from ingest_service.pipeline.tracker import Count
from ingest_service.runtime.process import rss_mb

Share: TypeAlias = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class SinkProgress:
    """One sink, as far as its rows are settled."""

    rows_written: Annotated[Count, Field(description="rows that it has stored")]
    merged: Annotated[Count, Field(description="rows that fell on a key that a later row has too")]
    dead: Annotated[Count, Field(description="rows that it refused for good")]
    in_flight: Annotated[Count, Field(description="rows that are being written")]
    retries: Annotated[Count, Field(description="requests that were tried again")]
    throttled: Annotated[Count, Field(description="requests that it refused for now, or took in part")]
    concurrency: Annotated[Count, Field(description="requests that may be in flight at once")]
    concurrency_reason: Annotated[str, Field(description="why so many")]
    p50_ms: Annotated[Share | None, Field(description="how long half of the latest requests took at most")]
    p99_ms: Annotated[Share | None, Field(description="how long 99 in 100 of them took at most")]
    watermark: Annotated[Count, Field(description="the byte of the stream up to which every row is settled")]


@dataclass(frozen=True, slots=True)
class Progress:
    """A stream while it is loaded. Rows and offsets are those of the stream, so they go on after a resume."""

    source: Annotated[str, Field(description="its canonical address")]
    offset: Annotated[Count, Field(description="how far it was read, in bytes of the decompressed stream")]
    size: Annotated[
        Count | None, Field(description="bytes of it as it is stored, so of a compressed file as compressed")
    ]
    percent: Annotated[Share | None, Field(description="how much of it the slowest sink has")]
    rows_read: Annotated[Count, Field(description="rows read")]
    rows_rejected: Annotated[Count, Field(description="rows refused before any sink")]
    rows_per_s: Annotated[int, Field(description="rows read a second, since the event before")]
    eta_s: Annotated[Share | None, Field(description="when the slowest sink will have all of it, from now")]
    queue_depth: Annotated[dict[str, Count], Field(description="chunks that wait, by sink")]
    rss_mb: Annotated[Share, Field(description="resident memory of the process, in MB")]
    sinks: Annotated[dict[str, SinkProgress], Field(description="each sink by its name")]
    rows_filtered: Annotated[Count, Field(description="rows that filters of the data set passed over")] = 0
    shards: Annotated[Count | None, Field(description="of a source that workers have divided: its shards")] = None
    shards_complete: Annotated[Count | None, Field(description="how many of these are loaded")] = None

    def as_json(self) -> dict[str, Any]:
        """Shards only where there are any."""
        return {name: value for name, value in asdict(self).items() if value is not None or "shards" not in name}


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step that is no stream of rows: so many of its units are done."""

    step: str
    unit: str
    done: Count
    total: Count
    percent: Share | None
    per_s: Count
    eta_s: Share | None

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            f"{self.unit}_done": self.done,
            f"{self.unit}_total": self.total,
            "percent": self.percent,
            f"{self.unit}_per_s": self.per_s,
            "eta_s": self.eta_s,
        }

    @staticmethod
    def fields(told: Mapping[str, Any]) -> dict[str, Any]:
        """By their names here, as they stand in the JSON."""
        unit = next((name.removesuffix("_done") for name in told if name.endswith("_done")), "")
        return {name.removeprefix(f"{unit}_"): value for name, value in told.items()} | {"unit": unit}


Event: TypeAlias = Progress | StreamReport


@dataclass(slots=True)
class Meter:
    """Turns two looks at a state into rates."""

    _last_at: float = field(default_factory=time.monotonic)
    _last_row: int | None = None

    def measure(self, state: State) -> Progress:
        now = time.monotonic()
        row = state.read_to.row
        before = row if self._last_row is None else self._last_row
        started_at_row = min(lane.found.watermark.position.row for lane in state.lanes)
        if self._last_row is None:
            before, self._last_at = started_at_row, state.started
        rows_per_s = (row - before) / max(now - self._last_at, 1e-9)
        self._last_at, self._last_row = now, row
        percent, eta_s = _percent_and_eta(state, now)
        return Progress(
            source=state.job.source.uri,
            offset=state.read_to.offset,
            size=state.reader.source_size,
            percent=percent,
            rows_read=row,
            rows_rejected=state.rows_rejected,
            rows_per_s=round(rows_per_s),
            eta_s=eta_s,
            queue_depth={lane.sink.name: len(lane.queue) for lane in state.lanes},
            rss_mb=rss_mb(),
            sinks={lane.sink.name: _sink_progress(lane) for lane in state.lanes},
            rows_filtered=state.rows_filtered,
        )


def _percent_and_eta(state: State, now: float) -> tuple[float | None, float | None]:
    """How much of the source the slowest sink has, and when it will have all."""
    size = state.reader.source_size
    if not size or not state.read_to.offset:
        return None, None
    settled = min(_stored_to(lane, state.read_to.offset) for lane in state.lanes)
    position = state.reader.stored_position() * settled / state.read_to.offset
    elapsed_s, done = now - state.started, position - state.first_stored
    eta_s = (size - position) * elapsed_s / done if done > 0 else None
    return round(min(100.0, 100 * position / size), 1), None if eta_s is None else round(max(0.0, eta_s), 1)


def _stored_to(lane: Lane, read_to: int) -> float:
    """Up to where it is settled, and a part of what is in flight where so many of these rows are stored."""
    settled = lane.tracker.watermark.position.offset
    return settled + (read_to - settled) * min(1.0, lane.sink.stored_ahead / max(1, lane.in_flight_rows))


def _sink_progress(lane: Lane) -> SinkProgress:
    counts, retrier = lane.tracker.watermark.counts, lane.sink.retrier
    p50_ms, p99_ms = _percentiles_ms(list(retrier.latencies_s))
    return SinkProgress(
        rows_written=counts.written,
        merged=counts.merged,
        dead=counts.dead,
        in_flight=max(0, lane.in_flight_rows - lane.sink.stored_ahead),
        retries=retrier.retries,
        throttled=retrier.throttled,
        concurrency=lane.sink.limit.limit,
        concurrency_reason=lane.sink.limit.reason,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        watermark=lane.tracker.watermark.position.offset,
    )


def _percentiles_ms(latencies_s: list[float]) -> tuple[float | None, float | None]:
    if len(latencies_s) < 2:
        value = round(latencies_s[0] * 1e3, 2) if latencies_s else None
        return value, value
    cuts = quantiles(latencies_s, n=100, method="inclusive")
    return round(cuts[49] * 1e3, 2), round(cuts[98] * 1e3, 2)
