"""Traces and metrics to an OpenTelemetry collector, by OTLP over HTTP. Needs the extra `otel`.

Endpoint, headers, compression, sampling and so on are set by OpenTelemetry's own variables, OTEL_….
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Self

import structlog
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ingest_service.errors import Stopped
from ingest_service.runtime import tracing
from ingest_service.telemetry.prometheus import Exposition
from ingest_service.telemetry.show import Listener

NAME = "ingest-service"
SHUTDOWN_S = 1.0  # for the last spans; a collector that is away must not keep a stopped run from its end


class TracedSpan(tracing.Span):
    """A span of OpenTelemetry, the current one while it is entered."""

    __slots__ = ("_span", "_token")

    def __init__(self, tracer: trace.Tracer, name: str, attributes: Mapping[str, str | int]) -> None:
        self._span = tracer.start_span(name)
        self.set(**attributes)

    def set(self, **attributes: str | int) -> None:
        self._span.set_attributes({f"ingest.{name}": value for name, value in attributes.items()})

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context.detach(self._token)
        if kind is not None:
            self._span.set_attribute("error.type", kind.__name__)
            if issubclass(kind, Exception) and not issubclass(kind, Stopped):
                self._span.set_status(StatusCode.ERROR)
        self._span.end()


@contextmanager
def exported(command: str) -> Iterator[list[Listener]]:
    """Send spans and metrics meanwhile, all below one span of that name; yields who must be shown the events."""
    _speak_as_we_do()
    resource = Resource.create({"service.name": NAME}).merge(OTELResourceDetector().detect())
    shutdowns: list[Callable[[], None]] = []
    with ExitStack() as stack:
        stack.callback(_shut_down, shutdowns)
        listeners: list[Listener] = []
        if _is_set(tracing.METRICS_ENDPOINT):
            exposition = Exposition()
            shutdowns.append(_send_metrics(exposition, resource).shutdown)
            listeners.append(exposition.update)
        if _is_set(tracing.TRACES_ENDPOINT):
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            shutdowns.append(provider.shutdown)
            stack.enter_context(_traced(provider.get_tracer(NAME)))
            stack.enter_context(_below_caller())
            stack.enter_context(tracing.span(command))
        yield listeners


def _is_set(endpoint: str) -> bool:
    return bool(os.environ.get(endpoint) or os.environ.get(tracing.ENDPOINT))


@contextmanager
def _traced(tracer: trace.Tracer) -> Iterator[None]:
    tracing.begin = partial(TracedSpan, tracer)
    try:
        yield
    finally:
        tracing.begin = None


@contextmanager
def _below_caller() -> Iterator[None]:
    """TRACEPARENT in the environment names the span that this process is a part of (W3C Trace Context)."""
    carrier = {"traceparent": os.environ.get("TRACEPARENT", "")}
    token = context.attach(TraceContextTextMapPropagator().extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


def _send_metrics(exposition: Exposition, resource: Resource) -> MeterProvider:
    """The metrics of telemetry/prometheus.py, under the same names."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = MeterProvider((reader,), resource, shutdown_on_exit=False)
    meter = provider.get_meter(NAME)
    for family in exposition.collect():
        counts = family.type == "counter"
        create = meter.create_observable_counter if counts else meter.create_observable_gauge
        create(family.name, [_observations(exposition, family.name)], description=family.documentation)
    return provider


def _observations(exposition: Exposition, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for family in exposition.collect():
            if family.name == name:
                yield from (Observation(sample.value, sample.labels) for sample in family.samples)

    return observe


def _shut_down(shutdowns: Sequence[Callable[[], None]]) -> None:
    """Send the last ones, in threads that are left behind if they take too long."""
    threads = [Thread(target=shutdown, daemon=True) for shutdown in shutdowns]
    for thread in threads:
        thread.start()
    until = monotonic() + SHUTDOWN_S
    for thread in threads:
        thread.join(max(0.0, until - monotonic()))


class _OneLine(logging.Handler):
    """OpenTelemetry's complaints as an event of our own, without their texts, at most once a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if monotonic() >= self._next:
            self._next = monotonic() + 60
            structlog.get_logger().warning("telemetry", reason="The collector does not take what it is sent.")


def _speak_as_we_do() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers = [_OneLine()]
    logger.propagate = False
