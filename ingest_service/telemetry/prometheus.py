"""The numbers of `progress` and `report` events as Prometheus metrics, by Prometheus's naming conventions.

    exposition = Exposition()
    exposition.update(event)  # of any run, here or in another process
    exposition.render()       # what GET /metrics answers, of type CONTENT_TYPE

Needs the extra `serve`. Gauges of a source are there while it is loaded; its counters stay a while longer.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingest_service.errors import ConfigurationError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_SOURCES = 100  # whose series are kept: a service sees a new source with every file
HOST = "127.0.0.1"

COUNTERS = {
    "rows": "Rows of a source that a sink has settled, by what became of them: written, merged or dead.",
    "rows_read": "Rows of a source that were read.",
    "rows_rejected": "Rows of a source that were refused before any sink.",
    "retries": "Requests to a sink that were tried again.",
    "throttled": "Requests that a sink refused for now, or took in part.",
}
SOURCE_GAUGES = {  # name: help, field of the event, units of the field in one of the metric's
    "read_offset_bytes": ("How far a source was read, in bytes of the decompressed stream.", "offset", 1.0),
    "progress_ratio": ("How much of a source its slowest sink has, from 0 to 1.", "percent", 100.0),
    "eta_seconds": ("When the slowest sink will have all of a source, from now.", "eta_s", 1.0),
    "resident_memory_bytes": ("Resident memory of the process that loads a source.", "rss_mb", 1e-6),
}
SINK_GAUGES = {
    "in_flight_rows": ("Rows that are being written to a sink.", "in_flight", 1.0),
    "concurrency": ("Requests to a sink that may be in flight at once.", "concurrency", 1.0),
    "watermark_bytes": ("The byte of a source up to which a sink has settled every row.", "watermark", 1.0),
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
    now: Mapping[str, Any] | None = None

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

    def update(self, event: Mapping[str, Any]) -> None:
        """Take in a `progress` or `report` event; one that is of no source, as of a step of MovieLens, says nothing."""
        source = event.get("source")
        if source is None:
            return
        with self._lock:
            stream = self._streams[source] = self._streams.pop(source, _Stream())
            if "balanced" in event:
                _count_report(stream, event)
                stream.now = None
            else:
                _count_progress(stream, event)
                stream.now = event
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
        labels = {"rows": ("source", "sink", "outcome"), "rows_read": ("source",), "rows_rejected": ("source",)}
        families = {
            name: CounterMetricFamily(f"ingest_{name}", text, labels=labels.get(name, ("source", "sink")))
            for name, text in COUNTERS.items()
        }
        for source, stream in self._streams.items():
            for (name, *values), count in stream.counts.items():
                families[name].add_metric((source, *values), count.total)
        return families.values()


def _count_progress(stream: _Stream, event: Mapping[str, Any]) -> None:
    stream.count(event["rows_read"], "rows_read")
    stream.count(event["rows_rejected"], "rows_rejected")
    for sink, numbers in event["sinks"].items():
        _count_sink(stream, sink, numbers, numbers["rows_written"])


def _count_report(stream: _Stream, event: Mapping[str, Any]) -> None:
    sinks = event["sinks"]
    stream.count(max((numbers["read"] for numbers in sinks.values()), default=0), "rows_read")
    stream.count(max((numbers["rejected"] for numbers in sinks.values()), default=0), "rows_rejected")
    for sink, numbers in sinks.items():
        _count_sink(stream, sink, numbers, numbers["written"])


def _count_sink(stream: _Stream, sink: str, numbers: Mapping[str, Any], written: int) -> None:
    stream.count(written, "rows", sink, "written")
    stream.count(numbers["merged"], "rows", sink, "merged")
    stream.count(numbers["dead"], "rows", sink, "dead")
    stream.count(numbers["retries"], "retries", sink, from_zero=True)
    stream.count(numbers["throttled"], "throttled", sink, from_zero=True)


def _gauges_of_sources(events: list[Mapping[str, Any]]) -> Iterator[Metric]:
    for name, (text, key, per_unit) in SOURCE_GAUGES.items():
        gauge = GaugeMetricFamily(f"ingest_{name}", text, labels=("source",))
        for event in events:
            if event[key] is not None:
                gauge.add_metric((event["source"],), event[key] / per_unit)
        yield gauge


def _gauges_of_sinks(events: list[Mapping[str, Any]]) -> Iterator[Metric]:
    sinks = [(event["source"], sink, numbers) for event in events for sink, numbers in event["sinks"].items()]
    for name, (text, key, per_unit) in SINK_GAUGES.items():
        gauge = GaugeMetricFamily(f"ingest_{name}", text, labels=("source", "sink"))
        for source, sink, numbers in sinks:
            gauge.add_metric((source, sink), numbers[key] / per_unit)
        yield gauge
    depth = GaugeMetricFamily("ingest_queue_depth", QUEUE_DEPTH, labels=("source", "sink"))
    for event in events:
        for sink, chunks in event["queue_depth"].items():
            depth.add_metric((event["source"], sink), chunks)
    yield depth
    latency = GaugeMetricFamily("ingest_request_latency_seconds", LATENCY, labels=("source", "sink", "quantile"))
    for source, sink, numbers in sinks:
        for quantile, key in (("0.5", "p50_ms"), ("0.99", "p99_ms")):
            if numbers[key] is not None:
                latency.add_metric((source, sink, quantile), numbers[key] / 1e3)
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
