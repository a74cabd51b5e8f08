"""The numbers of a run, taken from its state: the `progress` event, and what the progress bar shows."""

import time
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from ingest_service.pipeline.load import Lane, State
from ingest_service.runtime.process import rss_mb


@dataclass(slots=True)
class Meter:
    """Turns two looks at a state into rates."""

    _last_at: float = field(default_factory=time.monotonic)
    _last_row: int | None = None

    def measure(self, state: State) -> dict[str, Any]:
        """One `progress` event. Rows and offsets are those of the stream, so they go on after a resume."""
        now = time.monotonic()
        row = state.read_to.row
        before = row if self._last_row is None else self._last_row
        started_at_row = min(lane.found.watermark.position.row for lane in state.lanes)
        if self._last_row is None:
            before, self._last_at = started_at_row, state.started
        rows_per_s = (row - before) / max(now - self._last_at, 1e-9)
        self._last_at, self._last_row = now, row
        percent, eta_s = _percent_and_eta(state, now)
        return {
            "source": state.job.source.uri,
            "offset": state.read_to.offset,
            "size": state.reader.source_size,
            "percent": percent,
            "rows_read": row,
            "rows_rejected": state.rows_rejected,
            "rows_per_s": round(rows_per_s),
            "eta_s": eta_s,
            "queue_depth": {lane.sink.name: len(lane.queue) for lane in state.lanes},
            "rss_mb": rss_mb(),
            "sinks": {lane.sink.name: _sink_numbers(lane) for lane in state.lanes},
        }


def _percent_and_eta(state: State, now: float) -> tuple[float | None, float | None]:
    """How much of the source the slowest sink has, and when it will have all."""
    size = state.reader.source_size
    if not size or not state.read_to.offset:
        return None, None
    settled = min(lane.tracker.watermark.position.offset for lane in state.lanes)
    position = state.reader.stored_position() * settled / state.read_to.offset
    elapsed_s, done = now - state.started, position - state.first_stored
    eta_s = (size - position) * elapsed_s / done if done > 0 else None
    return round(min(100.0, 100 * position / size), 1), None if eta_s is None else round(max(0.0, eta_s), 1)


def _sink_numbers(lane: Lane) -> dict[str, Any]:
    counts, retrier = lane.tracker.watermark.counts, lane.sink.retrier
    p50_ms, p99_ms = _percentiles_ms(list(retrier.latencies_s))
    return {
        "rows_written": counts.written,
        "merged": counts.merged,
        "dead": counts.dead,
        "in_flight": lane.in_flight_rows,
        "retries": retrier.retries,
        "throttled": retrier.throttled,
        "concurrency": lane.sink.limit.limit,
        "concurrency_reason": lane.sink.limit.reason,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "watermark": lane.tracker.watermark.position.offset,
    }


def _percentiles_ms(latencies_s: list[float]) -> tuple[float | None, float | None]:
    if len(latencies_s) < 2:
        value = round(latencies_s[0] * 1e3, 2) if latencies_s else None
        return value, value
    cuts = quantiles(latencies_s, n=100, method="inclusive")
    return round(cuts[49] * 1e3, 2), round(cuts[98] * 1e3, 2)
