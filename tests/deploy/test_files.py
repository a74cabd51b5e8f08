"""What lies in deploy/ and docker-compose.yml: valid by the makers' own schemas, and about things that there are."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ingest_service.cli.app import app
from ingest_service.config import load_settings
from ingest_service.telemetry.prometheus import Exposition
from tests.servers import ROOT

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "ingest.json"
BIN = Path(sys.executable).parent
OPERATE = ROOT / "docs" / "OPERATE.md"


def accepted(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_clean() -> None:
    """hadolint finds nothing."""
    accepted(BIN / "hadolint", "Dockerfile")


def test_the_compose_file_is_one() -> None:
    """By the Compose specification's schema; every image has a version, nothing is published beyond this machine."""
    accepted(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        assert "build" in service or re.search(r":v?\d+\.\d+(\.\d+|-)", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    own = services["service"]
    assert own["read_only"] and own["cap_drop"] == ["ALL"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            host = volume.partition(":")[0]
            assert not host.startswith("./") or host == "./inbox" or (ROOT / host).exists(), host


def test_the_manifest_asks_for_nothing_that_the_image_does_not_need() -> None:
    """No root, no capability, nothing to write to but the volume; probes where the service answers them.

    By hand, as its schemas are 108 MB: `kubernetes-validate --strict deploy/kubernetes.yml` (on PyPI) takes it.
    """
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text()))
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert set(container["resources"]) == {"requests", "limits"}


@pytest.mark.parametrize("name", ["kubernetes-job.yml", "kuberay-job.yml"])
def test_the_jobs_run_commands_that_there_are(name: str) -> None:
    """Their arguments are understood, as many workers as pods, and what waiting cannot mend ends the job.

    By hand: `kubernetes-validate --strict deploy/kubernetes-job.yml`, and KubeRay's own schema of a RayJob.
    """
    jobs = {one["kind"]: one["spec"] for one in yaml.safe_load_all((DEPLOY / name).read_text())}
    if "Job" in jobs:
        job = jobs["Job"]
        pod = job["template"]["spec"]
        (container,) = pod["containers"]
        arguments, n = container["args"], job["parallelism"]
        assert arguments[arguments.index("--share") + 1] == str(n) == str(job["completions"])
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
        (rule,) = job["podFailurePolicy"]["rules"]
        assert rule["onExitCodes"]["values"] == sorted({2, 65, 66, 78})
    else:
        program, *arguments = jobs["RayJob"]["entrypoint"].split()
        (group,) = jobs["RayJob"]["rayClusterSpec"]["workerGroupSpecs"]
        assert program == "ingest-service"
        assert arguments[arguments.index("--workers") + 1] == str(group["replicas"])
    command: Any = typer.main.get_command(app)
    with command.commands[arguments[0]].make_context(arguments[0], arguments[1:]) as context:
        assert context.params["sources"] == ["s3://bucket/pairs.csv"]


def test_prometheus_takes_its_configuration(promtool: str) -> None:
    """promtool takes the rules and the configuration that names them."""
    accepted(promtool, "check", "rules", RULES)
    accepted(promtool, "check", "config", "--syntax-only", DEPLOY / "prometheus" / "prometheus.yml")


def metrics() -> set[str]:
    """The names of all metrics, by the collectors themselves."""
    names = {family.name + ("_total" if family.type == "counter" else "") for family in Exposition(350).collect()}
    service = (ROOT / "ingest_service" / "service" / "gauges.py").read_text()
    return names | set(re.findall(r'"(ingest_[a-z_]+)"', service))


def expressions() -> Iterator[tuple[str, str]]:
    """All that rules and dashboard ask for: where it is asked, and the query."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_every_query_is_about_metrics_that_there_are(where: str, expression: str) -> None:
    """Each name in a query is one of ours, or Prometheus's own `up`."""
    names = set(re.findall(r"\bingest_[a-z_]+\b", expression))
    assert names <= metrics(), where
    assert names or re.search(r"\bup\b", expression)


def test_every_metric_is_on_the_dashboard() -> None:
    """Whatever is measured can be looked at."""
    shown = " ".join(target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"]
                     for target in panel["targets"])  # fmt: skip
    assert {name for name in metrics() if not re.search(rf"\b{name}\b", shown)} == set()


def test_every_query_of_the_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    """promtool parses each, as the expression of a rule."""
    records: list[dict[str, Any]] = [
        {"record": f"shown:{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": records}]}))
    accepted(promtool, "check", "rules", rules)


def test_every_alert_is_documented() -> None:
    """docs/OPERATE.md says of each what it means and what to do."""
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    assert alerts == set(re.findall(r"^\| `(Ingest\w+)` \|", OPERATE.read_text(), re.MULTILINE))


def test_the_configuration_of_compose_fits_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its sinks are services of the compose file, its secret and its inbox are mounted where it looks for them."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(file=ROOT / "configs" / "compose.toml")
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name in settings.sinks:
        address = re.search(r"(?:endpoint=http://|://)(?:[a-z]+@)?([a-z]+):\d+", settings.sink_url(name))
        assert address and address[1] in compose["services"]
    (secret,) = compose["secrets"]
    assert str(settings.serve.token_file) == f"/run/secrets/{secret}"
    mounted = [volume.split(":")[1] for volume in compose["services"]["service"]["volumes"]]
    assert all(inbox.url in mounted for inbox in settings.serve.inbox)
    assert str(settings.state_dir) in mounted
