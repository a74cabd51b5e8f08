"""Which alerts of deploy/prometheus/rules.yml fire, by promtool, given what was scraped from a real service."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import ROOT

Scrape = dict[str, float]  # by the series' names as PromQL writes them

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
STEP_S = 10
BEFORE_S, AFTER_S = 1_200, 1_300  # the rules look back 15 minutes, and wait for 15 more
TARGET = {"job": "ingest", "instance": "service:8080"}


def scraped(text: str) -> Scrape:
    """What Prometheus makes of an answer to GET /metrics."""
    series = {
        series_of(sample.name, **sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return {**series, series_of("up"): 1.0}


def series_of(name: str, **labels: str) -> str:
    """A series of the service, as PromQL writes it."""
    labels |= TARGET
    return name + "{" + ",".join(f"{label}={json.dumps(value)}" for label, value in sorted(labels.items())) + "}"


def about(run: dict[str, Any], scrape: Scrape) -> Scrape:
    """Without what is about other sources than that of the run."""
    source = f"source={json.dumps(run['source'])}"
    return {name: value for name, value in scrape.items() if "source=" not in name or source in name}


def values(before: Scrape, then: Sequence[Scrape], name: str, after_s: int) -> str:
    """One series in promtool's notation: as it was for a while, as seen, and on like that.

    What counts rows, requests or bytes settled goes on rising by what it rose between the last two scrapes.
    """
    seen = [scrape.get(name) for scrape in then]
    goes_on = len(seen) > 1 and name.partition("{")[0].endswith(("_total", "_watermark_bytes"))
    rises = (seen[-1] or 0) - (seen[-2] or 0) if goes_on else 0
    first, last = before.get(name), seen[-1]
    steps = BEFORE_S // STEP_S, after_s // STEP_S
    parts = [f"_x{steps[0]}" if first is None else f"{first}+0x{steps[0]}"]
    parts += ["_" if value is None else str(value) for value in seen]
    parts.append(f"_x{steps[1]}" if last is None else f"{last}+{rises}x{steps[1]}")
    return " ".join(parts)


def fire(promtool: str, folder: Path, before: Scrape, *then: Scrape, alerts: set[str], after_s: int = AFTER_S) -> None:
    """Assert that these alerts fire, and no other, where `before` was so for long, then these scrapes, and so on."""
    names = sorted(set(before).union(*then))
    fired = f'max_over_time(ALERTS{{alertstate="firing"}}[{after_s}s])'
    test = {
        "interval": f"{STEP_S}s",
        "input_series": [{"series": name, "values": values(before, then, name, after_s)} for name in names],
        "promql_expr_test": [
            {
                "expr": f"count by (alertname) (count by (alertname) ({fired}))",
                "eval_time": f"{BEFORE_S + len(then) * STEP_S + after_s}s",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(alerts)],
            }
        ],
    }
    content = {"rule_files": [str(RULES)], "evaluation_interval": f"{STEP_S}s", "tests": [test]}
    file = folder / "alerts.yml"
    file.write_text(json.dumps(content))  # JSON is YAML
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
