"""The numbers of `progress` and `report` events as Prometheus metrics, by Prometheus's naming conventions.

    exposition = Exposition()
    exposition.update(event)  # of any run, here or in another process
    exposition.render()       # what GET /metrics answers, of type CONTENT_TYPE

Needs the extra `serve`. Gauges of a source are there while it is loaded; its counters stay a while longer.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingest_service.errors import ConfigurationError
from ingest_service.pipeline.progress import Event, Progress, SinkProgress
from ingest_service.pipeline.report import StreamReport

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_SOURCES = 100  # whose series are kept: a service sees a new source with every file
HOST = "127.0.0.1"

COUNTERS = {
    "rows": "Rows of a source that a sink has settled, by what became of them: written, merged or dead.",
    "rows_read": "Rows of a source that were read.",
    "rows_rejected": "Rows of a source that were refused before any sink.",
    "rows_filtered": "Rows of a source that filters of its data set passed over.",
    "retries": "Requests to a sink that were tried again.",
    "throttled": "Requests that a sink refused for now, or took in part.",
}
_OfSource = Callable[[Progress], float | None]
_OfSink = Callable[[SinkProgress], float]
SOURCE_GAUGES: dict[str, tuple[str, _OfSource, float]] = {  # name: help, value, units of it in one of the metric's
    "read_offset_bytes": (
        "How far a source was read, in bytes of the decompressed stream.",
        lambda event: event.offset,
        1.0,
    ),
    "progress_ratio": (
        "How much of a source its slowest sink has, from 0 to 1.",
        lambda event: event.percent,
        100.0,
    ),
    "eta_seconds": ("When the slowest sink will have all of a source, from now.", lambda event: event.eta_s, 1.0),
    "resident_memory_bytes": (
        "Resident memory of the process that loads a source.",
        lambda event: event.rss_mb,
        1e-6,
    ),
}
SINK_GAUGES: dict[str, tuple[str, _OfSink]] = {
    "in_flight_rows": ("Rows that are being written to a sink.", lambda sink: sink.in_flight),
    "concurrency": ("Requests to a sink that may be in flight at once.", lambda sink: sink.concurrency),
    "watermark_bytes": (
        "The byte of a source up to which a sink has settled every row.",
        lambda sink: sink.watermark,
    ),
}
QUEUE_DEPTH = "Chunks of a source that wait for a sink."
LATENCY = "How long the latest requests to a sink took, at two quantiles."
MEMORY_LIMIT = "The most memory that a run is to take."


@dataclass(slots=True)
class _Count:
    """What was added to a number since it was first seen, and before that: it never falls."""

    total: float = 0
    last: float = 0

    def see(self, value: float, *, from_zero: bool) -> None:
        """A smaller value than before is that of another process: one that counts from zero, or repeats a little."""
        added = value - self.last
        self.total += value if added < 0 and from_zero else max(0, added)
        self.last = value


@dataclass(slots=True)
class _Stream:
    """One source: its counters by name and further labels, and its latest `progress` while it is loaded."""

    counts: dict[tuple[str, ...], _Count] = field(default_factory=dict)
    now: Progress | None = None

    def count(self, value: float, *key: str, from_zero: bool = False) -> None:
        self.counts.setdefault(key, _Count()).see(value, from_zero=from_zero)


class Exposition(Collector):
    """Metrics of all sources whose events it is shown. May be rendered in another thread than it is updated in.

    Others may register collectors of their own in `registry`. memory_mb: what a run is allowed to take.
    """

    def __init__(self, memory_mb: int | None = None) -> None:
        self._memory_mb = memory_mb
        self._streams: dict[str, _Stream] = {}  # the one updated last is last
        self._lock = Lock()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def update(self, event: Event) -> None:
        """Take in what is told of a source."""
        with self._lock:
            stream = self._streams[event.source] = self._streams.pop(event.source, _Stream())
            if isinstance(event, Progress):
                _count_progress(stream, event)
                stream.now = event
            else:
                _count_report(stream, event)
                stream.now = None
            while len(self._streams) > MOST_SOURCES:
                del self._streams[next(iter(self._streams))]

    def ended(self, source: str) -> None:
        """The source is no longer loaded, though no report said so: its gauges go."""
        with self._lock:
            if source in self._streams:
                self._streams[source].now = None

    def forget(self, source: str) -> None:
        """The source's counters go too."""
        with self._lock:
            self._streams.pop(source, None)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            yield from self._counters()
            events = [stream.now for stream in self._streams.values() if stream.now is not None]
        yield from _gauges_of_sources(events)
        yield from _gauges_of_sinks(events)
        if self._memory_mb is not None:
            yield GaugeMetricFamily("ingest_memory_limit_bytes", MEMORY_LIMIT, self._memory_mb * 1e6)

    def _counters(self) -> Iterable[Metric]:
        labels: dict[str, tuple[str, ...]] = {"rows": ("source", "sink", "outcome")}
        labels.update(rows_read=("source",), rows_rejected=("source",), rows_filtered=("source",))
        families = {
            name: CounterMetricFamily(f"ingest_{name}", text, labels=labels.get(name, ("source", "sink")))
            for name, text in COUNTERS.items()
        }
        for source, stream in self._streams.items():
            for (name, *values), count in stream.counts.items():
                families[name].add_metric((source, *values), count.total)
        return families.values()


def _count_progress(stream: _Stream, event: Progress) -> None:
    stream.count(event.rows_read, "rows_read")
    stream.count(event.rows_rejected, "rows_rejected")
    stream.count(event.rows_filtered, "rows_filtered")
    for name, sink in event.sinks.items():
        _count_rows(stream, name, sink.rows_written, sink.merged, sink.dead)
        _count_requests(stream, name, sink.retries, sink.throttled)


def _count_report(stream: _Stream, report: StreamReport) -> None:
    counts = [sink.counts for sink in report.sinks.values()]
    stream.count(max((one.read for one in counts), default=0), "rows_read")
    stream.count(max((one.rejected for one in counts), default=0), "rows_rejected")
    stream.count(max((one.filtered for one in counts), default=0), "rows_filtered")
    for name, sink in report.sinks.items():
        _count_rows(stream, name, sink.counts.written, sink.counts.merged, sink.counts.dead)
        _count_requests(stream, name, sink.retries, sink.throttled)


def _count_rows(stream: _Stream, sink: str, written: int, merged: int, dead: int) -> None:
    stream.count(written, "rows", sink, "written")
    stream.count(merged, "rows", sink, "merged")
    stream.count(dead, "rows", sink, "dead")


def _count_requests(stream: _Stream, sink: str, retries: int, throttled: int) -> None:
    stream.count(retries, "retries", sink, from_zero=True)
    stream.count(throttled, "throttled", sink, from_zero=True)


def _gauges_of_sources(events: list[Progress]) -> Iterator[Metric]:
    for name, (text, value_of, per_unit) in SOURCE_GAUGES.items():
        gauge = GaugeMetricFamily(f"ingest_{name}", text, labels=("source",))
        for event in events:
            if (value := value_of(event)) is not None:
                gauge.add_metric((event.source,), value / per_unit)
        yield gauge


def _gauges_of_sinks(events: list[Progress]) -> Iterator[Metric]:
    sinks = [(event.source, name, sink) for event in events for name, sink in event.sinks.items()]
    for metric, (text, value_of) in SINK_GAUGES.items():
        gauge = GaugeMetricFamily(f"ingest_{metric}", text, labels=("source", "sink"))
        for source, name, sink in sinks:
            gauge.add_metric((source, name), value_of(sink))
        yield gauge
    depth = GaugeMetricFamily("ingest_queue_depth", QUEUE_DEPTH, labels=("source", "sink"))
    for event in events:
        for name, chunks in event.queue_depth.items():
            depth.add_metric((event.source, name), chunks)
    yield depth
    latency = GaugeMetricFamily("ingest_request_latency_seconds", LATENCY, labels=("source", "sink", "quantile"))
    for source, name, sink in sinks:
        for quantile, ms in (("0.5", sink.p50_ms), ("0.99", sink.p99_ms)):
            if ms is not None:
                latency.add_metric((source, name, quantile), ms / 1e3)
    yield latency


@contextmanager
def served(exposition: Exposition, port: int) -> Iterator[None]:
    """Answer GET /metrics on this loopback port meanwhile, from a thread. ConfigurationError if it is taken."""
    try:
        server, thread = start_http_server(port, HOST, exposition.registry)
    except OSError as error:
        raise ConfigurationError(
            f"The port {port} cannot be opened for metrics ({error.strerror}); choose another with --metrics-port."
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
