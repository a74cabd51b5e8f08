"""What is asked before a load: the commands' own answers, about what the service may read, within bounds."""

import json
import os
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ingest_service.runtime.escaped import escaped
from ingest_service.service.questions import MOST_AT_ONCE
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, Cli
from tests.service.conftest import Service, eventually

ROWS = f"{HEADER}\n7,1,{FIRST_MS}\n7,x,{FIRST_MS}\n8,2,{FIRST_MS}\n"
CONFIG = """
to = ["lite"]
[sinks]
lite = "sqlite:///lite.db"
other = "sqlite:///other.db"
[serve]
roots = ["in"]
"""
QUESTIONS = ("preview", "estimate", "infer")


@pytest.fixture
def served(service: Service, tmp_path: Path) -> Service:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "clicks.csv").write_text(ROWS)
    return service.start(CONFIG)


def children(service: Service) -> set[int]:
    """The processes that are at work for the service: what the one that forks has forked."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
            found.add((int(name.split()[0]), int(rest.split()[1])))
        except OSError:  # gone since
            continue
    forking = {pid for pid, parent in found if parent == service.pid}
    return {pid for pid, parent in found if parent in forking}


def hold_reading(path: Path) -> Path:
    """A file that takes long to look at."""
    with path.open("w") as file:
        file.write(f"{HEADER}\n")
        for first in range(0, 6_000_000, 100_000):
            file.write("".join(f"{i % 99_991},{i},{FIRST_MS}\n" for i in range(first, first + 100_000)))
    return path


def test_the_answers_are_those_of_the_commands(served: Service, cli: Cli, tmp_path: Path) -> None:
    """Line by line, for the sinks and the data set that are asked for; nothing is written."""
    source = str(tmp_path / "in" / "clicks.csv")
    for what in QUESTIONS:
        answer = served.ask("POST", f"/v1/{what}", {"source": source})
        assert answer.status == 200, answer
        printed = cli.run(what, source, "--config", tmp_path / "ingest.toml")
        assert answer.content["lines"] == printed.stdout.splitlines()
        assert answer.content["notes"] == (printed.stderr.splitlines() if what == "infer" else [])
    both = served.ask("POST", "/v1/preview", {"source": source, "sinks": ["other", "lite"]}).content["lines"]
    assert [line for line in both if not line.startswith(" ")][:2] == ["lite:", "other:"]
    assert any(line.startswith("refused: line 3") for line in both)
    tags = served.ask("POST", "/v1/preview", {"source": source, "dataset": "movielens"})
    assert tags.status == 422 and tags.content["detail"].endswith(".")
    assert not (tmp_path / "lite.db").exists() and not (tmp_path / "other.db").exists()
    assert served.get("/v1/runs")["runs"] == []


@pytest.mark.parametrize("what", QUESTIONS)
def test_only_what_may_be_read_is_looked_at(served: Service, tmp_path: Path, what: str) -> None:
    """Neither another path, nor a link or a name that leads there; nor a URL that is not listed."""
    (tmp_path / "secret.csv").write_text(ROWS)
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "secret.csv")
    names = ("secret.csv", "in/link.csv", "in/../secret.csv", "/etc/passwd", "http://127.0.0.1:9/a.csv", "s3://b/a.csv")
    for name in names:
        assert served.ask("POST", f"/v1/{what}", {"source": name}).status == 403, name
    for name in ("in/missing.csv", "in", "-", "in/*.csv"):
        assert served.ask("POST", f"/v1/{what}", {"source": name}).status in (403, 422), name
    assert "root:" not in served.log


@pytest.mark.parametrize("what", QUESTIONS)
def test_the_process_itself_is_held_to_what_may_be_read(tmp_path: Path, cli: Cli, what: str) -> None:
    """A file that becomes another's after the service has looked is refused where it is opened."""
    (tmp_path / "in").mkdir()
    (tmp_path / "ingest.toml").write_text(CONFIG)
    (tmp_path / "secret.csv").write_text(ROWS)
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "secret.csv")
    for name in ("secret.csv", "in/link.csv"):
        ended = cli.run(what, tmp_path / name, INGEST_PARENT_PID=str(os.getpid()))
        assert (ended.code, "serve.roots" in ended.stderr) == (78, True)


def test_what_makes_no_sense_is_told(served: Service, tmp_path: Path) -> None:
    """As the command says it, or before it is started."""
    (tmp_path / "in" / "empty.csv").write_text("")
    for body in (
        {},
        {"source": "in/clicks.csv", "sinks": ["none"]},
        {"source": "in/clicks.csv", "dataset": "none"},
        {"source": "in/clicks.csv", "measure": True},
        {"source": "in/empty.csv"},
    ):
        answer = served.ask("POST", "/v1/preview", body)
        assert answer.status == 422 and answer.content["detail"].endswith("."), body
    assert served.ask("POST", "/v1/infer", {"source": "in/clicks.csv", "dataset": "microlens"}).status == 422


def test_an_answer_stays_text(served: Service, tmp_path: Path) -> None:
    """Names and rows with characters that act on the eye come escaped, also in what infer finds."""
    path = tmp_path / "in" / "odd\x1b\u202e.csv"
    path.write_text(f"user,item,timestamp,\u202e\n7,1,{FIRST_MS},x\n7,\u202e,{FIRST_MS},x\n")
    for what in QUESTIONS:
        answer = served.ask("POST", f"/v1/{what}", {"source": str(path)})
        assert answer.status == 200
        for line in (*answer.content["lines"], *answer.content["notes"]):
            assert escaped(line) == line or (what == "infer" and line in answer.content["lines"])  # a file, exactly


def test_so_many_are_answered_at_once_and_who_goes_ends_his(served: Service, tmp_path: Path) -> None:
    """One more is refused (503); when those who asked are gone, their processes are, and there is room again."""
    source = hold_reading(tmp_path / "in" / "long.csv")
    body = json.dumps({"source": str(source)})
    held = [HTTPConnection(urlsplit(served.url).netloc, timeout=60) for _ in range(MOST_AT_ONCE)]
    for connection in held:
        connection.request("POST", "/v1/estimate", body, {"Content-Type": "application/json"})
    eventually(lambda: children(served), lambda found: len(found) == MOST_AT_ONCE)
    assert served.ask("POST", "/v1/preview", {"source": "in/clicks.csv"}).status == 503
    assert served.until(served.submit("in/clicks.csv"), "done", "failed")["state"] == "done", "runs have their own room"
    for connection in held:
        connection.close()
    eventually(lambda: children(served), lambda found: not found)
    assert served.ask("POST", "/v1/preview", {"source": "in/clicks.csv"}).status == 200


def test_a_service_that_stops_waits_for_no_answer(served: Service, tmp_path: Path) -> None:
    """What looks at a source ends with it, asked or killed."""
    source = hold_reading(tmp_path / "in" / "long.csv")
    for end in (served.stop, served.kill):
        asking = threading.Thread(target=ask_in_vain, args=(served, str(source)))
        asking.start()
        before = eventually(lambda: children(served))
        end()
        asking.join()
        while any(Path(f"/proc/{pid}").exists() for pid in before):
            asking.join(0.05)
        served.start()


def ask_in_vain(service: Service, source: str) -> None:
    with closing(HTTPConnection(urlsplit(service.url).netloc, timeout=60)) as connection:
        try:
            connection.request(
                "POST", "/v1/estimate", json.dumps({"source": source}), {"Content-Type": "application/json"}
            )
            connection.getresponse().read()
        except OSError:
            pass
