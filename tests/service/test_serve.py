"""The whole service: crashes, stops and cancellations of it and of its runs. All with the real command."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest_service.config import load_settings
from ingest_service.errors import ConfigurationError
from ingest_service.service.runs import FILE_NAME
from ingest_service.service.serve import checked
from tests.helpers import Cli, Pairs, expected_sets, redis_sets, sqlite_rows, write_pairs
from tests.service.conftest import Service

SLOW = "rate=1000"  # rows a second: a file of 12,000 is met in its middle, however slow the machine


def config(folder: Path, redis_url: str, *options: str, more: str = "") -> str:
    """Two sinks, Redis and SQLite, the first with options."""
    redis = f"{redis_url}?{'&'.join(options)}"
    return (
        f'to = ["cache", "lite"]\n[sinks]\ncache = "{redis}"\nlite = "sqlite:///lite.db?{"&".join(options)}"\n'
        f'[serve]\nroots = ["{folder}"]\n{more}'
    )


def pids_of_runs(parent: int) -> list[int]:
    """The children of what it has started to fork them."""
    forks = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for one in forks for pid in Path(f"/proc/{one}/task/{one}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pairs, Pairs]:
    folder = tmp_path_factory.mktemp("two")
    return tuple(write_pairs(folder / f"{seed}.csv", 12_000, blocks=8, seed=seed) for seed in (1, 2))  # type: ignore[return-value]


def test_a_run_divides_its_source(
    service: Service, two: tuple[Pairs, Pairs], redis_db_url: str, tmp_path: Path
) -> None:
    """With workers: its progress counts shards, a kill of the service ends them all, and nothing is lost or doubled."""
    folder = two[0].path.parent
    service.start(config(folder, redis_db_url, SLOW, more="workers = 2\n"))
    run = service.submit(two[0].path)
    service.until_event(
        run, lambda name, data: name == "progress" and (data.get("shards") or 0) > 2 and data["rows_read"] > 0
    )
    (child,) = pids_of_runs(service.pid)
    workers = pids_of_runs(child)
    assert len(workers) == 2
    service.kill()
    while any(map(is_alive, workers)):
        time.sleep(0.05)
    service.start(config(folder, redis_db_url, more="workers = 2\n"))
    report = service.until(run, "done", "failed")["report"]["sources"][0]
    assert report["complete"] and report["sinks"]["lite"]["read"] == two[0].rows
    rows = sqlite_rows(service.folder / "lite.db")
    assert redis_sets(redis_db_url) == expected_sets(rows) and len(rows) > 10_000


def test_a_killed_service_goes_on_by_itself(
    service: Service, two: tuple[Pairs, Pairs], redis_db_url: str, tmp_path: Path
) -> None:
    """kill -9 in the middle of two runs: they stop too, and the next start leaves what one clean run would have."""
    folder = two[0].path.parent
    service.start(config(folder, redis_db_url, SLOW, more="runs_at_once = 2\n"))
    runs = [service.submit(pairs.path) for pairs in two]
    for run in runs:
        service.until_event(run, lambda name, data: name == "progress" and data["sinks"]["cache"]["rows_written"] > 0)
    children = pids_of_runs(service.pid)
    assert len(children) == 2
    service.kill()
    service.start(config(folder, redis_db_url, more="runs_at_once = 2\n"))
    ended = [service.until(run, "done", "failed") for run in runs]
    assert [run["state"] for run in ended] == ["done", "done"], ended
    assert not any(is_alive(pid) for pid in children)
    assert all(run["attempt"] >= 2 and run["report"]["balanced"] for run in ended)
    assert {run["id"] for run in service.get("/v1/runs")["runs"]} == {run["id"] for run in runs}

    clean = Cli(tmp_path)
    clean.load(*(pairs.path for pairs in two), "--to", "sqlite:///clean.db")
    rows = sqlite_rows(tmp_path / "clean.db")
    assert sqlite_rows(tmp_path / "lite.db") == rows
    assert redis_sets(redis_db_url) == expected_sets(rows)
    bad = [letter["offset"] for letter in clean.dead_letters]
    assert sorted(bad) == sorted(offset for pairs in two for _, offset, _ in pairs.bad)


def test_a_stopped_service_drains_and_goes_on(
    service: Service, pairs: Pairs, redis_db_url: str, tmp_path: Path
) -> None:
    """SIGTERM: its run saves how far it is, the exit code says that there is more to do, and the next start does it."""
    service.start(config(pairs.path.parent, redis_db_url, SLOW))
    run = service.submit(pairs.path)
    service.until_event(run, lambda name, data: name == "progress" and data["offset"] > 0)
    waiting = service.submit(pairs.path, sinks=["lite"], limit=5)
    assert service.stop() == 75
    assert "go on at the next start" in service.log.splitlines()[-1]
    with sqlite3.connect(tmp_path / ".ingest" / FILE_NAME) as db:
        assert db.execute("SELECT state FROM runs").fetchall() == [("queued",), ("queued",)]
    db.close()
    service.start(config(pairs.path.parent, redis_db_url))
    ended = service.until(run, "done", "failed")
    assert ended["state"] == "done"
    assert 0 < ended["report"]["sources"][0]["rows_now"] < pairs.rows
    assert service.until(waiting, "done")["limit"] == 5
    assert service.stop() == 0


def test_a_cancelled_run_can_be_taken_up_again(service: Service, pairs: Pairs, redis_db_url: str) -> None:
    """Cancel lets the run drain; retry goes on where it stopped; what waits is cancelled at once."""
    service.start(config(pairs.path.parent, redis_db_url, SLOW))
    run = service.submit(pairs.path)
    queued = service.submit(pairs.path, limit=7)
    assert service.ask("POST", f"/v1/runs/{queued['id']}/cancel").content["state"] == "cancelled"
    service.until_event(run, lambda name, data: name == "progress" and data["sinks"]["lite"]["rows_written"] > 0)
    assert service.ask("POST", f"/v1/runs/{run['id']}/cancel").status == 202
    cancelled = service.until(run, "cancelled", "failed", "done")
    assert (cancelled["state"], cancelled["exit_code"]) == ("cancelled", 75)
    assert cancelled["progress"]["offset"] > 0
    checkpoints = service.get("/v1/checkpoints")["checkpoints"]
    offset = next(line["offset"] for line in checkpoints if line["sink"] == "lite")
    assert 0 < offset < pairs.path.stat().st_size
    assert service.ask("POST", f"/v1/runs/{run['id']}/retry").status == 202
    done = service.until(run, "done", "failed")
    assert (done["state"], done["attempt"]) == ("done", 2)
    assert done["report"]["sources"][0]["rows_now"] < pairs.rows


def test_a_killed_run_is_tried_again(service: Service, pairs: Pairs, redis_db_url: str) -> None:
    """A run whose process was killed is queued again with its reason, and goes on by itself; the service lives on."""
    service.start(config(pairs.path.parent, redis_db_url, SLOW))
    run = service.submit(pairs.path)
    service.until_event(run, lambda name, data: name == "progress")
    (pid,) = pids_of_runs(service.pid)
    os.kill(pid, signal.SIGKILL)
    again = service.until(run, "queued", "failed")
    assert (again["state"], again["exit_code"]) == ("queued", -9)
    assert "signal 9" in again["reason"]
    assert service.until(run, "running", "done")["attempt"] == 2


def test_a_hopeless_run_fails_with_its_reason(service: Service, tmp_path: Path) -> None:
    """What no second try can mend waits for a user, with the sentence that the command would have said."""
    (tmp_path / "bad.csv").write_text("who,what\n1,2\n")
    service.start('[serve]\nroots = ["."]\n')
    run = service.until(service.submit("bad.csv"), "failed", "done")
    assert (run["state"], run["exit_code"], run["attempt"]) == ("failed", 78, 1)
    assert run["reason"].endswith(".") and run["finished_at"]
    again = service.submit("bad.csv")
    assert again["id"] != run["id"]


def test_a_folder_and_a_port_of_its_own(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second service of the state folder is refused in a sentence, and so is one of the port."""
    service.start("")
    second = Cli(tmp_path).here("serve", "--port", "0")
    assert second.code == 73
    assert "state folder" in second.message
    port = service.url.rpartition(":")[2]
    monkeypatch.setenv("INGEST_STATE_DIR", "other")
    other = Cli(tmp_path).here("serve", "--port", port)
    assert other.code == 78
    assert port in other.message


def test_a_sink_that_is_no_longer_configured(service: Service, pairs: Pairs, tmp_path: Path) -> None:
    """A queued run whose sink is gone from the configuration fails with that reason; it never loads into fewer."""
    text = 'to = ["a"]\n[sinks]\na = "sqlite:///a.db"\nb = "sqlite:///b.db?rate=500"\n[serve]\nroots = ["/"]\n'
    service.start(text)
    run = service.submit(pairs.path, sinks=["a", "b"])
    service.until(run, "running")
    service.kill()
    service.start(text.replace("b = ", "c = "))
    failed = service.until(run, "failed", "done")
    assert failed["state"] == "failed" and "'b'" in failed["reason"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[serve]\nhost = "0.0.0.0"\n', "token"),
        ('[serve]\nhost = "0.0.0.0"\ntoken = "short"\n', "too short"),
        ('[serve]\ntoken_file = "missing"\n', "missing"),
        ('[serve]\nallowed_urls = ["http://169.254.169.254/"]\n', "never read"),
        ('[[serve.schedule]]\nname = "x"\ncron = "61 * * * *"\nrun = "movielens popular"\n', "cron"),
        ('[[serve.schedule]]\nname = "x"\ncron = "* * * * *"\nrun = "rm -rf /"\n', "rm"),
        ('[[serve.inbox]]\nname = "x"\nurl = "https://data.example/in/"\n', "inbox"),
        ('[[serve.inbox]]\nname = "x"\nurl = "in"\nsinks = ["nowhere"]\n', "nowhere"),
        ("[serve]\nhorst = 1\n", "horst"),
        ('to = ["redis://a", "redis://b"]\n', "name="),
        ('to = ["nothing://a"]\n', "nothing"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(text: str, named: str, tmp_path: Path) -> None:
    """A wrong setting is one sentence, before anything is served."""
    file = tmp_path / "ingest.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=named) as caught:
        checked(load_settings(file=file))
    assert str(caught.value).endswith((".", ")"))


def test_any_other_address_needs_a_token(tmp_path: Path) -> None:
    """Exit code 78 and a sentence."""
    outcome = Cli(tmp_path).here("serve", "--port", "0", "--host", "0.0.0.0")
    assert outcome.code == 78
    assert "token" in outcome.message


def test_a_schedule_runs_its_step(service: Service) -> None:
    """A step is announced at its times, and not again while the last one is not over."""
    step = '[[serve.schedule]]\nname = "often"\ncron = "* * * * * *"\nrun = "movielens popular --dais 7"\n'
    service.start(step)
    while not (runs := service.get("/v1/runs")["runs"]):
        time.sleep(0.05)
    run = runs[-1]
    assert (run["kind"], run["source"], run["origin"]) == ("movielens", "popular --dais 7", "schedule:often")
    failed = service.until(run, "failed")
    assert failed["exit_code"] == 2 and "--dais" in failed["reason"]


@pytest.fixture
def canary() -> Iterator[str]:
    yield "canary-password-canary"


def test_no_secret_is_told(service: Service, pairs: Pairs, canary: str, tmp_path: Path) -> None:
    """Neither passwords of sinks nor the token are in any answer, log or in the store."""
    urls = f'to = ["a"]\n[sinks]\na = "redis://user:{canary}@127.0.0.1:1/0?retry_budget_s=0.2"\n'
    service.start(f'{urls}[serve]\nroots = ["/"]\ntoken = "{canary}"\n')
    service.headers = {"Authorization": f"Bearer {canary}"}
    run = service.submit(pairs.path)
    service.until(run, "queued")
    told = [service.ask("GET", path).content for path in ("/v1/sinks", "/v1/checkpoints", "/v1/runs", "/metrics")]
    told.append(service.ask("GET", "/readyz").content)
    told.append(service.ask("POST", "/v1/runs", {"source": f"s3://key:{canary}@bucket/a.csv"}).content)
    told.append(service.ask("POST", "/v1/runs", {"source": "x", canary: canary}).status)
    told.append(service.ask("POST", "/v1/runs", {"source": "x", "sinks": 5, "dataset": {"a": canary}}).content)
    service.ask("POST", f"/v1/runs/{run['id']}/cancel")
    service.stop()
    assert canary not in json.dumps(told) + service.log
    stored = b"".join(path.read_bytes() for path in (tmp_path / ".ingest").iterdir() if path.is_file())
    assert canary.encode() not in stored
