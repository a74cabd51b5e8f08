"""Metrics for Prometheus: made of a run's events, and answered while it lasts."""

import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingest_service.pipeline.progress import Progress, SinkProgress
from ingest_service.pipeline.report import SinkReport, StreamReport
from ingest_service.pipeline.tracker import Counts
from ingest_service.sinks.testing.rows import FIRST_MS
from ingest_service.telemetry.prometheus import CONTENT_TYPE, MOST_SOURCES, Exposition
from tests.helpers import HEADER, Cli, finish, wait_for_event
from tests.servers import free_port

LATENCY = "ingest_request_latency_seconds"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by metric and the values of its labels, which stand in order of the labels' names."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(exposition: Exposition) -> dict[tuple[str, ...], float]:
    return samples(exposition.render().decode())


def progress(source: str = "a.csv", rows: int = 100, retries: int = 0) -> Progress:
    sink = SinkProgress(
        rows_written=rows - 4, merged=3, dead=1, in_flight=7, retries=retries, throttled=retries,
        concurrency=8, concurrency_reason="growing", p50_ms=2.0, p99_ms=40.0, watermark=rows * 10,
    )  # fmt: skip
    return Progress(
        source=source, offset=rows * 12, size=None, percent=25.0, rows_read=rows + 5, rows_rejected=5,
        rows_per_s=9, eta_s=None, queue_depth={"redis": 1}, rss_mb=80.5, sinks={"redis": sink},
    )  # fmt: skip


def report(source: str = "a.csv", rows: int = 100) -> StreamReport:
    counts = Counts(rows + 5, rows, 5, rows - 4, 3, 1)
    return StreamReport(source, "a", 1.0, "", {"redis": SinkReport(counts, rows * 10, True, rows + 5, 0, 0)})


def test_an_event_becomes_metrics_in_base_units() -> None:
    """Names, labels, and values in seconds, bytes and ratios; what an event does not know is no sample."""
    exposition = Exposition(memory_mb=350)
    exposition.update(progress())
    assert shown(exposition) == {
        ("ingest_rows_total", "written", "redis", "a.csv"): 96,
        ("ingest_rows_total", "merged", "redis", "a.csv"): 3,
        ("ingest_rows_total", "dead", "redis", "a.csv"): 1,
        ("ingest_rows_read_total", "a.csv"): 105,
        ("ingest_rows_rejected_total", "a.csv"): 5,
        ("ingest_rows_filtered_total", "a.csv"): 0,
        ("ingest_retries_total", "redis", "a.csv"): 0,
        ("ingest_throttled_total", "redis", "a.csv"): 0,
        ("ingest_read_offset_bytes", "a.csv"): 1200,
        ("ingest_progress_ratio", "a.csv"): 0.25,
        ("ingest_resident_memory_bytes", "a.csv"): 80_500_000,
        ("ingest_in_flight_rows", "redis", "a.csv"): 7,
        ("ingest_concurrency", "redis", "a.csv"): 8,
        ("ingest_watermark_bytes", "redis", "a.csv"): 1000,
        ("ingest_queue_depth", "redis", "a.csv"): 1,
        (LATENCY, "0.5", "redis", "a.csv"): 0.002,
        (LATENCY, "0.99", "redis", "a.csv"): 0.04,
        ("ingest_memory_limit_bytes",): 350_000_000,
    }


def test_a_report_is_the_last_word() -> None:
    """The gauges of its source go, the counters stand at its counts; a source that broke off loses its gauges too."""
    exposition = Exposition()
    for source in ("a.csv", "b.csv"):
        exposition.update(progress(source))
    exposition.update(report("a.csv", rows=200))
    exposition.ended("b.csv")
    found = shown(exposition)
    rows = ("rows", "rows_read", "rows_rejected", "rows_filtered")
    assert {name for name, *_ in found} == {f"ingest_{name}_total" for name in (*rows, "retries", "throttled")}
    assert found["ingest_rows_total", "written", "redis", "a.csv"] == 196
    assert found["ingest_rows_read_total", "a.csv"] == 205
    exposition.forget("a.csv")
    assert not any("a.csv" in key for key in shown(exposition))


def test_counters_never_fall() -> None:
    """A run that repeats a little, or starts again, adds only what it does from there; retries count from its zero."""
    exposition = Exposition()
    written, retries = ("ingest_rows_total", "written", "redis", "a.csv"), ("ingest_retries_total", "redis", "a.csv")
    seen = []
    for rows, tries in ((100, 5), (90, 2), (120, 3), (10, 0), (40, 4)):
        exposition.update(progress(rows=rows, retries=tries))
        found = shown(exposition)
        seen.append((found[written], found[retries]))
    assert seen == [(96, 5), (96, 7), (126, 8), (126, 8), (156, 12)]


def test_the_number_of_series_is_bounded() -> None:
    """Sources that were not heard of for long are forgotten."""
    exposition = Exposition()
    for number in range(MOST_SOURCES + 3):
        exposition.update(progress(f"{number}.csv"))
        exposition.update(progress("0.csv"))
    sources = {key[-1] for key in shown(exposition) if key[0] == "ingest_rows_read_total"}
    assert len(sources) == MOST_SOURCES
    assert {"0.csv", f"{MOST_SOURCES + 2}.csv"} <= sources
    assert "1.csv" not in sources


def test_a_run_is_scraped(cli: Cli) -> None:
    """GET /metrics during `run --metrics-port` tells what the events tell; after a signal the run drains as ever."""
    cli.file("pairs.csv", HEADER + "\n" + "bad\n" + "".join(f"{i},1,{FIRST_MS}\n" for i in range(300_000)))
    port = free_port()
    options = ("--memory", "182", "--metrics-port", str(port), "--to", "sqlite:///interactions.db?rate=50000")
    process = cli.start("run", "pairs.csv", *options)
    first = wait_for_event(process, lambda event: event["event"] == "progress" and event["rows_read"] > 0)
    with urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        assert reply.headers["Content-Type"] == CONTENT_TYPE
        text = reply.read().decode()
    found = samples(text)
    source = first["source"]
    assert found["ingest_rows_read_total", source] >= first["rows_read"] > 0
    assert found["ingest_rows_rejected_total", source] == 1
    assert ("ingest_rows_total", "written", "sqlite", source) in found
    assert found["ingest_concurrency", "sqlite", source] == 1
    assert 0 < found["ingest_resident_memory_bytes", source] < found["ingest_memory_limit_bytes",] == 182e6
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 75
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_is_named(cli: Cli) -> None:
    """It is one sentence and exit code 78, before anything is loaded."""
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = cli.here("run", "pairs.csv", "--metrics-port", str(port))
    assert (outcome.code, cli.folder.joinpath("interactions.db").exists()) == (78, False)
    assert f"The port {port} cannot be opened for metrics (Address already in use)" in outcome.stderr


def test_the_extra_that_is_missing_is_named(cli: Cli) -> None:
    """Without prometheus-client the option says what to install."""
    cli.file("pairs.csv", f"{HEADER}\n1,2,{FIRST_MS}\n")
    script = (
        "import sys; sys.modules['prometheus_client'] = None; sys.argv = ['ingest-service', 'run', 'pairs.csv', "
        "'--metrics-port', '9100']; from ingest_service.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=cli.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert done.stderr.endswith("install it with: pip install 'ingest-service[serve]'.\n")
