"""Traces and metrics as a collector gets them."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, UNREACHABLE, Cli
from tests.servers import find_redis

CELL = "canarycell"
PASSWORD = "canarypassword"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


@dataclass
class Collector:
    """What came in, as bytes and as messages."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        if path == "/v1/traces":
            for traced in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += (span for scope in traced.scope_spans for span in scope.spans)
        else:
            assert path == "/v1/metrics"
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics += (metric for scope in measured.scope_metrics for metric in scope.metrics)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver of OTLP over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def attributes(pairs: "Iterator[KeyValue] | list[KeyValue]") -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}


def test_a_run_is_a_trace(cli: Cli, collector: Collector) -> None:
    """Below the caller's span: the run, its sources, and in each what was read, parsed, written and checkpointed."""
    redis_folder = cli.folder / "redis"
    redis_folder.mkdir()
    cli.file("pairs.csv", f"{HEADER}\n{CELL},1,{FIRST_MS}\n" + "".join(f"{i},77,{FIRST_MS}\n" for i in range(500)))
    with find_redis(redis_folder, "--requirepass", PASSWORD) as server:
        url = urlsplit(server.url)._replace(netloc=f":{PASSWORD}@127.0.0.1:{server.port}").geturl()
        outcome = cli.run(
            "run", "pairs.csv", "--to", url, "--to", "sqlite:///interactions.db", "--json",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, TRACEPARENT=f"00-{TRACE}-{CALLER}-01",
        )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    names = {span.span_id: span.name for span in collector.spans}
    tree = {(names.get(span.parent_span_id, span.parent_span_id.hex()), span.name) for span in collector.spans}
    assert tree == {
        (CALLER, "run"), ("run", "open sink"), ("run", "load"), ("load", "open source"),
        ("load", "read"), ("load", "parse"), ("load", "write"), ("load", "checkpoint"),
    }  # fmt: skip
    (parse,) = collector.named("parse")
    assert attributes([*parse.attributes]) == {"ingest.offset": 20, "ingest.rows": 501, "ingest.rejected": 1}
    writes = [attributes([*span.attributes]) for span in collector.named("write")]
    assert {str(write.pop("ingest.sink")): write for write in writes} == {
        sink: {"ingest.offset": 20, "ingest.rows": 500, "ingest.written": 500, "ingest.merged": 0, "ingest.dead": 0}
        for sink in ("redis", "sqlite")
    }
    assert all(span.status.code == Status.STATUS_CODE_UNSET for span in collector.spans)
    for body in collector.bodies:
        assert CELL.encode() not in body
        assert PASSWORD.encode() not in body


def test_the_metrics_are_those_of_prometheus(cli: Cli, collector: Collector) -> None:
    """With only an endpoint for metrics there are no spans; what a run counted comes in at its end."""
    cli.file("pairs.csv", f"{HEADER}\nbad\n1,2,{FIRST_MS}\n3,4,{FIRST_MS}\n")
    cli.run_with("pairs.csv", OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{collector.url}/v1/metrics")
    counted = {
        (metric.name, *sorted(str(value) for value in attributes([*point.attributes]).values())): point.as_double
        or point.as_int
        for metric in collector.metrics
        for point in metric.sum.data_points
    }
    source = str(cli.folder / "pairs.csv")
    uri = next(value for name, *values in counted for value in values if value.endswith(source))
    assert counted["ingest_rows", uri, "sqlite", "written"] == 2
    assert counted["ingest_rows_rejected", uri] == 1
    assert collector.spans == []


def test_a_failed_run_says_its_error_by_class(cli: Cli, collector: Collector) -> None:
    """The spans that it passed through are in error; its text, which names the host, is in none."""
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    outcome = cli.run(
        "run", "pairs.csv", "--to", f"redis://:{PASSWORD}@{UNREACHABLE}/0?retry_budget_s=0.1",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
    )  # fmt: skip
    assert outcome.code == 69
    for name in ("run", "open sink"):
        (span,) = collector.named(name)
        assert attributes([*span.attributes])["error.type"] == "SinkUnavailable"
        assert (span.status.code, span.status.message, [*span.events]) == (Status.STATUS_CODE_ERROR, "", [])
    assert not any(text in body for body in collector.bodies for text in (PASSWORD.encode(), b"did not recover"))


def test_a_collector_that_is_away_costs_a_line(cli: Cli) -> None:
    """The run ends as ever, within its time; its log stays JSON and says it once."""
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    outcome = cli.run("run", "pairs.csv", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://user:{PASSWORD}@{UNREACHABLE}")
    assert outcome.code == 0
    assert [event["event"] for event in outcome.events] == ["report", "telemetry"]
    assert PASSWORD not in outcome.stderr


def test_the_extra_that_is_missing_is_named(cli: Cli) -> None:
    """One line says what to install, and the run is as ever; where nothing is asked for, nothing is imported."""
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    script = (
        "import os, sys; {}; sys.argv = ['ingest-service', 'run', 'pairs.csv', '--json']; "
        "from ingest_service.cli.app import main; main()"
    )
    for first in (
        "sys.modules['opentelemetry'] = None; os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = 'http://localhost'",
        "sys.modules['opentelemetry'] = sys.modules['prometheus_client'] = None",
    ):
        done = subprocess.run(
            [sys.executable, "-c", script.format(first)], cwd=cli.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("'ingest-service[otel]'" in done.stderr) == ("OTLP" in first)
