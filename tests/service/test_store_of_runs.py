"""The file that runs are kept in: full, damaged, emptied, restored; and runs during which the service dies."""

import resource
import sqlite3
from pathlib import Path

import pytest

from ingest_service.errors import ConfigurationError, LocalIOError
from ingest_service.service.runs import FILE_NAME, MOST_DEATHS, STATES, Runs, Task
from ingest_service.service.store_file import StoreDamaged
from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER, Cli
from tests.service.conftest import Service, eventually

ROWS = f"{HEADER}\n1,2,{FIRST_MS}\n"
LITE = 'to = ["lite"]\n[sinks]\nlite = "sqlite:///lite.db"\n[serve]\nroots = ["."]\n'
TASK = Task("run", "file:///data/a.csv", "/data/a.csv", ("redis",), "microlens")


def filled(folder: Path, n: int = 300) -> Path:
    """A store of so many runs, closed."""
    runs = Runs(folder, keep=1_000)
    for number in range(n):
        runs.announce(TASK, str(number), STATES)
    runs.close()
    return folder / FILE_NAME


# --- full -----------------------------------------------------------------------------------------


@pytest.mark.fault(36)
def test_a_store_without_room_is_seen(service: Service, tmp_path: Path) -> None:
    """Not ready, by its name; a metric; submitting is 503; and all is well once there is room."""
    (tmp_path / "a.csv").write_text(ROWS)
    service.start(LITE)
    assert service.get("/readyz") == {"status": "ready"}
    assert "ingest_store_up 1.0" in service.ask("GET", "/metrics").content
    limits = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in (tmp_path / ".ingest").iterdir())
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (largest, limits[1]))  # no file may grow
    answer = eventually(lambda: service.ask("GET", "/readyz"), lambda found: found.status != 200)
    assert FILE_NAME in answer.content["detail"] and "make room" in answer.content["detail"]
    assert "ingest_store_up 0.0" in service.ask("GET", "/metrics").content
    assert service.get("/healthz") == {"status": "alive"}
    assert service.get("/v1/runs")["runs"] == []
    assert service.ask("POST", "/v1/runs", {"source": "a.csv"}).status == 503
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, limits)
    eventually(lambda: service.ask("GET", "/readyz").status == 200)
    assert "ingest_store_up 1.0" in service.ask("GET", "/metrics").content
    assert service.until(service.submit("a.csv"), "done", "failed")["state"] == "done"


# --- damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torn", "overwritten", "no database", "emptied", "only the journal"])
def test_a_damaged_store_is_refused(tmp_path: Path, kind: str) -> None:
    """By its name and with what to do: never as a full disk, nor as if there had never been a run."""
    path = filled(tmp_path)
    content = path.read_bytes()
    if kind == "torn":
        path.write_bytes(content[: len(content) // 2 + 100])
    elif kind == "overwritten":
        path.write_bytes(content[:8192] + b"\xa5" * 8192 + content[16384:])
    elif kind == "no database":
        path.write_bytes(b"x" * len(content))
    elif kind == "emptied":
        path.write_bytes(b"")
    else:
        path.rename(path.with_name(f"{FILE_NAME}-wal"))
    with pytest.raises(StoreDamaged, match=FILE_NAME) as caught:
        Runs(tmp_path, keep=100)
    assert "make room" not in str(caught.value) and str(caught.value).endswith(".")


def test_damage_beneath_an_open_store_is_told_too(tmp_path: Path) -> None:
    """A look that meets it says that it is damage, and what the service tells of itself knows it from then on."""
    path = filled(tmp_path)
    runs = Runs(tmp_path, keep=100)
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (path.stat().st_size - 8192))
    with pytest.raises(StoreDamaged):
        runs.page(None, 500, None)
    assert isinstance(runs.fault, StoreDamaged)
    runs.close()


def test_the_service_says_so_at_its_start(tmp_path: Path) -> None:
    """Exit code 74 and a sentence."""
    (tmp_path / ".ingest").mkdir()
    (tmp_path / ".ingest" / FILE_NAME).touch()
    outcome = Cli(tmp_path).here("serve", "--port", "0")
    assert outcome.code == LocalIOError.exit_code
    assert "empty" in outcome.message and "backup" in outcome.message


def test_a_backup_is_restored(service: Service, tmp_path: Path) -> None:
    """A copy that SQLite made while the service ran takes the place of a damaged file, and its runs are there again."""
    (tmp_path / "a.csv").write_text(ROWS)
    service.start(LITE)
    run = service.until(service.submit("a.csv"), "done", "failed")
    path = tmp_path / ".ingest" / FILE_NAME
    db = sqlite3.connect(path)
    db.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    db.close()
    service.stop()
    for left in path.parent.glob(f"{FILE_NAME}*"):
        left.unlink()
    (tmp_path / "backup.db").rename(path)
    service.start()
    assert service.get(f"/v1/runs/{run['id']}") == run
    assert service.submit("a.csv")["id"] == run["id"], "it is known to be done"


def test_a_store_of_version_0_1_goes_on(tmp_path: Path) -> None:
    """Its table lacks columns: they are added, and its runs stay."""
    path = filled(tmp_path, 3)
    with sqlite3.connect(path) as db:
        db.execute("DROP INDEX by_request_key")
        db.execute("ALTER TABLE runs DROP COLUMN deaths")
        db.execute("ALTER TABLE runs DROP COLUMN request_key")
        db.execute("DROP TABLE probe")
    db.close()
    runs = Runs(tmp_path, keep=100)
    assert runs.counts()["queued"] == 3
    assert runs.announce(TASK, "new", STATES, "a-key")[1]
    runs.probe()
    runs.close()


# --- runs that end the service --------------------------------------------------------------------


def test_a_run_during_which_the_service_dies_is_kept_apart(tmp_path: Path) -> None:
    """At the third start in a row it is failed with a reason; others go on, and a stop on request does not count."""
    runs = Runs(tmp_path, keep=100)
    run, _ = runs.announce(TASK, "poison", STATES)
    for died in (True, True, False, True, True):
        assert runs.take() is not None
        runs.recover(died=died)
        found = runs.get(run.number)
        assert found is not None and found.state == "queued"
    assert runs.take() is not None
    runs.recover()
    found = runs.get(run.number)
    assert found is not None and (found.state, found.exit_code) == ("failed", 70)
    assert found.reason is not None and str(MOST_DEATHS) in found.reason
    assert runs.take() is None
    retried = runs.retry(run.number)
    assert retried is not None and retried.state == "queued"
    assert runs.take() is not None
    runs.recover()
    found = runs.get(run.number)
    assert found is not None and found.state == "queued", "it has its chances again"
    runs.close()


def test_a_run_that_is_not_understood_is_failed_alone(tmp_path: Path) -> None:
    """What another version, or damage, left in one row neither stops the service nor hides the others."""
    runs = Runs(tmp_path, keep=100)
    bad, _ = runs.announce(TASK, "bad", STATES)
    good, _ = runs.announce(TASK, "good", STATES)
    runs._writer.execute("UPDATE runs SET task = '{\"kind\": 5' WHERE number = ?", (bad.number,))
    assert [run.number for run in runs.page(None, 10, None)] == [good.number, bad.number]
    taken = [runs.take(), runs.take()]
    assert [run.state for run in taken if run] == ["failed", "running"]
    runs.close()


def test_a_key_names_one_request(tmp_path: Path) -> None:
    """The same request under one key is one run, in whatever state that is; another request under it is refused."""
    runs = Runs(tmp_path, keep=100)
    first, is_new = runs.announce(TASK, "a", (), "key")
    assert is_new
    assert runs.announce(TASK, "b", (), "key") == (first, False)
    assert runs.announce(TASK, "a", (), "other key")[1]
    assert runs.announce(TASK, "a", ())[1]
    with pytest.raises(ConfigurationError, match="Idempotency-Key"):
        runs.announce(Task("run", "file:///b.csv", "/b.csv"), "c", (), "key")
    runs.close()
