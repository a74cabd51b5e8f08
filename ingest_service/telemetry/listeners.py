"""Who takes in the events of a command besides its observer: Prometheus, a collector of OpenTelemetry, or nobody."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog

from ingest_service.config import Settings
from ingest_service.errors import ConfigurationError
from ingest_service.runtime import tracing
from ingest_service.runtime.process import is_supervised
from ingest_service.telemetry.show import Listener

NO_PROMETHEUS = "--metrics-port needs an extra; install it with: pip install 'ingest-service[serve]'."
NO_OTEL = "OpenTelemetry's variables are set, but nothing is sent; install it with: pip install 'ingest-service[otel]'."


@contextmanager
def listening(command: str, settings: Settings) -> Iterator[list[Listener]]:
    """As the settings and the environment say, until this is left. The command's spans begin below one of its name."""
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if settings.metrics_port is not None and not is_supervised():  # the service answers for its runs
            try:
                from ingest_service.telemetry.prometheus import Exposition, served
            except ModuleNotFoundError:
                raise ConfigurationError(NO_PROMETHEUS) from None
            exposition = Exposition(settings.memory_mb)
            stack.enter_context(served(exposition, settings.metrics_port))
            listeners.append(exposition.update)
        if tracing.is_wanted():
            try:
                from ingest_service.telemetry.otlp import exported
            except ModuleNotFoundError:
                structlog.get_logger().warning("telemetry", reason=NO_OTEL)
            else:
                listeners += stack.enter_context(exported(command))
        yield listeners
