"""The service's own numbers for Prometheus, beside those of its runs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingest_service.errors import LocalIOError
from ingest_service.service.health import Health
from ingest_service.service.inbox import Inbox
from ingest_service.service.runs import Runs

RUNS = "Runs that the service knows, by their state."
OLDEST_QUEUED = "How long the oldest queued run has waited; 0 if none is queued."
STORE_UP = "Whether runs could be stored, and looked up, some seconds ago."
SINK_UP = "Whether a sink could be reached and written some seconds ago."
INBOX_UP = "Whether an inbox could be read at the last look."


class ServiceMetrics(Collector):
    """Collected in a thread, for it asks the store."""

    def __init__(self, runs: Runs, health: Health, inboxes: Sequence[Inbox]) -> None:
        self._runs = runs
        self._health = health
        self._inboxes = inboxes

    def describe(self) -> Iterable[Metric]:
        return ()  # without it, all would be collected when this is registered

    def collect(self) -> Iterator[Metric]:
        is_up = not self._health.store.last and self._runs.fault is None
        with suppress(LocalIOError):
            counts, oldest = self._runs.counts(), self._runs.oldest_queued_at()
            runs = GaugeMetricFamily("ingest_runs", RUNS, labels=("state",))
            for state, n in counts.items():
                runs.add_metric((state,), n)
            yield runs
            yield GaugeMetricFamily("ingest_oldest_queued_seconds", OLDEST_QUEUED, _age_s(oldest))
        yield GaugeMetricFamily("ingest_store_up", STORE_UP, is_up and self._runs.fault is None)
        sinks = GaugeMetricFamily("ingest_sink_up", SINK_UP, labels=("sink",))
        for sink in self._health.sinks.last or ():
            sinks.add_metric((sink["name"],), sink["healthy"])
        yield sinks
        inboxes = GaugeMetricFamily("ingest_inbox_up", INBOX_UP, labels=("inbox",))
        for inbox in self._inboxes:
            inboxes.add_metric((inbox.name,), not inbox.failing)
        yield inboxes


def _age_s(at: str | None) -> float:
    return 0.0 if at is None else max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())
