"""The HTTP API of a service that runs: what is asked for, and how wrong requests are told so."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ingest_service.service.http import gate
from tests.helpers import Cli
from tests.service.conftest import Service

ROWS = "user,item,timestamp\n1,2,1583366400000\n1,x,1583366400000\n3,4,1583366400000\n5,y,1583366400000\n"

OWN = """
name: own
dialect: {header: false, delimiter: "|"}
schema: {fields: [{name: u, x-role: owner}, {name: i, x-role: item}, {name: at, type: integer, x-role: time}]}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for the tests that leave it as it is, or only add runs."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "in").mkdir()
    (folder / "own.yaml").write_text(OWN)
    found = Service(folder)
    yield found.start(
        'to = ["a"]\n[sinks]\na = "sqlite:///a.db"\nb = "sqlite:///b.db"\n[serve]\nroots = ["in"]\n'
        'allowed_urls = ["https://data.example/in/"]\n[datasets]\nown = "own.yaml"\n'
    )
    found.close()


def file(served: Service, name: str, content: str = ROWS) -> Path:
    path = served.folder / "in" / name
    path.write_text(content)
    return path


def is_problem(content: object, status: int) -> bool:
    return isinstance(content, dict) and set(content) == {"type", "title", "status", "detail"} and (
        content["status"] == status and content["title"].endswith(".") and content["detail"].endswith((".", "?", ")"))
    )  # fmt: skip


def test_a_data_set_of_the_configuration_is_loaded_by_its_name(served: Service) -> None:
    """A request cannot name a schema file: it is none of what the service may read."""
    path = file(served, "own.txt", "u1|i1|1583366400000\nu2|i2|1583366400001\n")
    done = served.until(served.submit(path, dataset="own", sinks=["a"]), "done", "failed")
    assert (done["state"], done["report"]["sources"][0]["sinks"]["a"]["written"]) == ("done", 2)
    for named in ("own.yaml", "/etc/passwd.json", "in/../own.yaml"):
        answer = served.ask("POST", "/v1/runs", {"source": str(path), "dataset": named})
        assert (answer.status, "under [datasets]" in answer.content["detail"]) == (422, True), answer.content


def test_a_run_from_its_submission_to_its_report(served: Service) -> None:
    """201 for a new one; the same one again with 200, until the file is another one or a restart is asked for."""
    path = file(served, "a.csv")
    answer = served.ask("POST", "/v1/runs", {"source": str(path), "sinks": ["b", "a"], "limit": 3})
    assert answer.status == 201
    run = answer.content
    assert (run["state"], run["sinks"], run["limit"], run["dataset"]) == ("queued", ["a", "b"], 3, "microlens")
    done = served.until(run, "done", "failed")
    assert done["state"] == "done" and done["report"]["sources"][0]["sinks"]["b"]["written"] == 2
    again = served.ask("POST", "/v1/runs", {"source": "in/a.csv", "sinks": ["a", "b"], "limit": 3})
    assert (again.status, again.content["id"]) == (200, run["id"])
    assert served.submit(path, sinks=["a"], limit=3)["id"] != run["id"]
    restarted = served.submit(path, sinks=["a", "b"], limit=3, restart=True)
    assert restarted["id"] != run["id"]
    assert served.until(restarted, "done", "failed")["report"]["sources"][0]["rows_now"] == 3
    os.utime(path, (1, 1))
    assert served.submit(path, sinks=["a", "b"], limit=3)["id"] not in (run["id"], restarted["id"])
    assert served.get(f"/v1/runs/{run['id']}") == done


def test_pages_of_runs(served: Service) -> None:
    """Newest first, page by page, by state; with the counts of all states."""
    runs = [served.submit(file(served, f"page-{number}.csv")) for number in range(3)]
    served.until(runs[-1], "done")
    page = served.get("/v1/runs?limit=2")
    assert [run["id"] for run in page["runs"]] == [runs[2]["id"], runs[1]["id"]]
    following = served.get(f"/v1/runs?limit=2&cursor={page['next']}")
    assert following["runs"][0]["id"] == runs[0]["id"]
    assert set(page["counts"]) == {"queued", "running", "done", "failed", "cancelled"}
    assert served.get("/v1/runs?state=cancelled") == {"runs": [], "next": None, "counts": page["counts"]}


def test_dead_letters_are_paged_mended_and_replayed(served: Service) -> None:
    """A stream's letters come in pages; a replay takes out those that land now."""
    run = served.until(served.submit(file(served, "letters.csv")), "done")
    stream = run["report"]["sources"][0]["stream"]
    about = next(one for one in served.get("/v1/dead-letters")["streams"] if one["stream"] == stream)
    assert (about["letters"], about["source"]) == (2, run["source"])
    first = served.get(f"/v1/dead-letters/{stream}?limit=1")
    second = served.get(f"/v1/dead-letters/{stream}?limit=1&cursor={first['next']}")
    assert [letter["raw"] for page in (first, second) for letter in page["letters"]] == [
        "1,x,1583366400000",
        "5,y,1583366400000",
    ]
    assert second["next"] is None
    path = served.folder / ".ingest" / stream / "dead-letters.jsonl"
    path.write_text(path.read_text().replace("1,x,", "1,9,"))
    replay = served.ask("POST", f"/v1/dead-letters/{stream}/replay")
    assert (replay.status, replay.content["kind"], replay.content["sinks"]) == (201, "replay", ["a"])
    assert served.until(replay.content, "done", "failed")["report"] == {
        "letters": 2,
        "landed": 1,
        "left": 1,
        "other": 0,
    }
    assert [letter["raw"] for letter in served.get(f"/v1/dead-letters/{stream}")["letters"]] == ["5,y,1583366400000"]


def test_events_of_all_runs(served: Service) -> None:
    """A run's states come as they change, each a whole run."""
    path = file(served, "events.csv")
    states = []
    for data in served.watch_all(then=lambda: served.submit(path)):
        if data["source"].endswith("events.csv"):
            states.append(data["state"])
        if states[-1:] == ["done"]:
            break
    assert states == ["queued", "running", "done"]


def test_health(served: Service) -> None:
    """Alive, ready, the sinks' findings, checkpoints and metrics."""
    served.until(served.submit(file(served, "health.csv")), "done")
    assert served.get("/healthz") == {"status": "alive"}
    assert served.get("/readyz") == {"status": "ready"}
    sinks = served.get("/v1/sinks")["sinks"]
    assert [(sink["name"], sink["kind"], sink["healthy"]) for sink in sinks] == [
        ("a", "sqlite", True),
        ("b", "sqlite", True),
    ]
    assert any(
        line["source"].endswith("/a.csv") or line["sink"] == "a"
        for line in served.get("/v1/checkpoints")["checkpoints"]
    )
    metrics = served.ask("GET", "/metrics")
    assert 'ingest_runs{state="done"}' in metrics.content and 'ingest_sink_up{sink="a"} 1.0' in metrics.content
    assert 'outcome="written"' in metrics.content


def test_a_sink_that_is_down(service: Service) -> None:
    """503 with its name at /readyz, its finding at /v1/sinks; what else the service does goes on."""
    service.start('to = ["gone"]\n[sinks]\ngone = "redis://127.0.0.1:1/0?retry_budget_s=0.1"\n')
    ready = service.ask("GET", "/readyz")
    assert ready.status == 503 and is_problem(ready.content, 503) and "gone" in ready.content["detail"]
    assert service.get("/v1/sinks")["sinks"][0]["healthy"] is False
    assert service.get("/v1/checkpoints")["unreadable"][0]["sink"] == "gone"
    assert service.get("/healthz") == {"status": "alive"}
    assert 'ingest_sink_up{sink="gone"} 0.0' in service.ask("GET", "/metrics").content


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/runs/999999", None, 404),
        ("GET", "/v1/runs/x", None, 422),
        ("GET", "/v1/runs?state=x", None, 422),
        ("GET", "/v1/runs?limit=0", None, 422),
        ("GET", "/v1/runs/999999/events", None, 404),
        ("POST", "/v1/runs/999999/cancel", None, 404),
        ("GET", "/v1/dead-letters/none", None, 404),
        ("GET", "/v1/dead-letters/..", None, 404),
        ("GET", "/v1/dead-letters/%2e%2e%2f%2e%2e", None, 404),
        ("GET", "/static/..%2fapi.py", None, 404),
        ("GET", "/nothing", None, 404),
        ("DELETE", "/v1/runs", None, 405),
        ("POST", "/v1/runs", "no JSON", 422),
        ("POST", "/v1/runs", {}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "extra": 1}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "sinks": ["nowhere"]}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "dataset": "nothing"}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "limit": 0}, 422),
        ("POST", "/v1/runs", {"source": "in/missing.csv"}, 422),
        ("POST", "/v1/runs", {"source": "../served/ingest.toml"}, 403),
        ("POST", "/v1/runs", {"source": "/etc/passwd"}, 403),
        ("POST", "/v1/runs", {"source": "-"}, 403),
        ("POST", "/v1/runs", {"source": "https://other.example/in/a.csv"}, 403),
        ("POST", "/v1/runs", {"source": "http://169.254.169.254/latest"}, 403),
        ("POST", "/v1/runs", {"source": "a\u0000b"}, 403),
        ("POST", "/v1/runs", {"source": f"in/{'x' * 300}"}, 422),
        ("POST", "/v1/runs", {"source": f"in/{'x' * 300}#a.csv"}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "limit": True}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "limit": "5"}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "limit": 5.0}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "restart": "yes"}, 422),
        ("POST", "/v1/runs", {"source": "in/a.csv", "restart": 1}, 422),
        ("POST", "/v1/runs", "[" * 50_000, 422),
        ("POST", "/v1/runs", {"source": "https://data.example/in/..;/secret"}, 403),
        ("POST", "/v1/runs", {"source": "https://data.example/in/..%5csecret"}, 403),
        ("POST", "/v1/runs", {"source": "https://data.example/in/%252e%252e/secret"}, 403),
        ("HEAD", "/v1/events", None, 405),
        ("POST", "/v1/runs", {"source": "x" * (gate.MAX_BODY_BYTES + 1)}, 413),
    ],
)
def test_a_wrong_request_is_a_problem(served: Service, method: str, path: str, body: object, status: int) -> None:
    """Of the right status, as application/problem+json, in sentences; and nothing was queued."""
    before = served.get("/v1/runs")["counts"]
    answer = served.ask(method, path, body)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert method == "HEAD" or is_problem(answer.content, status), answer
    assert served.get("/v1/runs")["counts"] == before


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/v1/runs", "/static/main.js"])
def test_head_is_get_without_the_body(served: Service, path: str) -> None:
    """As load balancers and link checkers ask: the same status and length, and nothing after it."""
    head, get = served.ask("HEAD", path), served.ask("GET", path)
    assert (head.status, head.content) == (get.status, "")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_a_request_under_one_key_is_one_run(served: Service) -> None:
    """Sent twice, with `restart`, it is the run of the first time; under another key, or none, it is another one."""
    path = file(served, "key.csv")
    wanted = {"source": str(path), "restart": True}
    first = served.ask("POST", "/v1/runs", wanted, Idempotency_Key="one")
    again = served.ask("POST", "/v1/runs", wanted, Idempotency_Key="one")
    assert (first.status, again.status) == (201, 200)
    assert first.content["id"] == again.content["id"]
    served.until(first.content, "done")
    assert served.ask("POST", "/v1/runs", wanted, Idempotency_Key="one").content["id"] == first.content["id"]
    other = served.ask("POST", "/v1/runs", wanted, Idempotency_Key="two")
    assert (other.status, other.content["id"] != first.content["id"]) == (201, True)
    refused = served.ask("POST", "/v1/runs", {"source": str(path)}, Idempotency_Key="one")
    assert refused.status == 422 and "Idempotency-Key" in refused.content["detail"]
    assert served.ask("POST", "/v1/runs", wanted, Idempotency_Key="x" * 256).status == 422


def test_a_body_without_a_length_is_limited_too(served: Service) -> None:
    """Chunked, it is refused as soon as it is too long."""
    with socket.create_connection(urlsplit(served.url).netloc.split(":"), timeout=10) as connection:  # type: ignore[arg-type]
        connection.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%s\r\n" % (1 << 15, b"x" * (1 << 15))
        connection.sendall(piece * 3)
        assert b" 413 " in connection.recv(100)


def test_every_answer_has_the_headers_that_protect_a_page(served: Service) -> None:
    """Also problems: no inline script, no frame, no sniffing, nothing cached."""
    for path in ("/", "/v1/runs", "/nothing", "/v1/openapi.json"):
        headers = served.ask("GET", path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_api_keeps_what_it_promises(served: Service) -> None:
    """Whatever is sent to any operation: no 500, and no answer that the API's own description does not know."""
    described = served.get("/v1/openapi.json")
    for path in ("/v1/events", "/v1/runs/{number}/events"):
        del described["paths"][path]  # streams have no end
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=served.url)
    tried = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)

        @given(case=found.ok().as_strategy())
        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def keeps(case: schemathesis.Case[Any]) -> None:
            # A sink or data set that is not there is a 422 too, whatever form its name has.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        keeps()
        tried += 1
    assert tried == len([method for methods in described["paths"].values() for method in methods])


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    """`serve --help` is there without the extra's libraries."""
    assert Cli(tmp_path).here("serve", "--help").code == 0


def test_what_a_user_did_is_read_back(served: Service) -> None:
    """By his id as in the files: the newest, a time, and all of it in pages, with several rows of one moment."""
    rows = [f"77,{number},{1583366400000 + number // 3}" for number in range(10)]
    path = file(served, "read-back.csv", "user,item,timestamp\n" + "\n".join(rows) + "\n")
    assert served.until(served.submit(path, sinks=["a"]), "done", "failed")["state"] == "done"
    whole = served.get("/v1/users/77/history?sink=a&limit=500")
    assert (whole["sink"], len(whole["interactions"]), whole["next"]) == ("a", 10, None)
    newest = served.get("/v1/users/77/recent?limit=3")["interactions"]
    assert newest == whole["interactions"][:-4:-1]
    assert served.get(f"/v1/users/{whole['user_id']}/recent?limit=3")["interactions"] == newest
    for limit in (1, 2, 3, 4, 9, 10):
        paged: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = served.get(f"/v1/users/77/history?limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
            paged += page["interactions"]
            cursor = page["next"]
        assert paged == whole["interactions"]
    between = served.get("/v1/users/77/history?since=2020-03-05T00:00:00.001Z&until=2020-03-05T00:00:00.002Z")
    assert between["interactions"] == whole["interactions"][3:6]
    assert served.get("/v1/users/78/recent")["interactions"] == []


@pytest.mark.parametrize(
    "path",
    [
        "77/history?cursor=nonsense",
        "77/recent?sink=c",
        "77/history?since=2020-03-05",
        "77/recent?dataset=none",
        "77/recent?dataset=own.yaml",
    ],
)
def test_a_wrong_question_about_a_user_is_told(served: Service, path: str) -> None:
    """422, in a sentence."""
    answer = served.ask("GET", f"/v1/users/{path}")
    assert is_problem(answer.content, 422), answer


def test_what_may_be_loaded_is_listed(served: Service) -> None:
    """Folders and files below the roots, without links; nothing of what lies elsewhere, nor whether it is there."""
    inside = served.folder / "in" / "browse"
    (inside / "more").mkdir(parents=True)
    (inside / "a.csv").write_text(ROWS)
    (inside / ".hidden").write_text("")
    (inside / "out").symlink_to("/etc")
    (inside / "passwd").symlink_to("/etc/passwd")
    assert served.get("/v1/files")["folders"] == [str(served.folder / "in")]
    found = served.get("/v1/files?folder=in/browse")
    assert found["files"] == [{"path": str(inside / "a.csv"), "size": len(ROWS)}]
    assert (found["folders"], found["is_whole"]) == ([str(inside / "more")], True)
    answers = [
        served.ask("GET", f"/v1/files?folder={place}")
        for place in ("/etc", "/none", "in/../..", "in/browse/out", "in/browse/a.csv", "%00")
    ]
    assert {answer.status for answer in answers} == {403}
    assert len({answer.content["detail"] for answer in answers}) == 1
    assert {"microlens", "movielens", "own"} <= set(served.get("/v1/datasets")["datasets"])
