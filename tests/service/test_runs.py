"""The store of runs."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_service.service.runs import FILE_NAME, LIVE, STATES, Run, Runs, State, Task

TASK = Task("run", "file:///data/a.csv", "/data/a.csv", ("redis",), "microlens")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    found = Runs(tmp_path, keep=100)
    yield found
    found.close()


def task(number: int) -> Task:
    return replace(TASK, source=f"file:///data/{number}.csv")


def announced(runs: Runs, number: int) -> Run:
    return runs.announce(task(number), str(number), STATES)[0]


def ended(runs: Runs, run: Run, state: State, code: int = 0) -> Run:
    return runs.finish(run.number, state, exit_code=code, reason=None, progress=None, report={"balanced": True})


def test_the_same_work_is_one_run(runs: Runs) -> None:
    """While it is queued, running or done, another announcement of it is the same run; `same` says when it is not."""
    first, is_new = runs.announce(TASK, "one", STATES)
    assert is_new
    assert runs.announce(TASK, "one", LIVE) == (first, False)
    running = runs.take()
    assert running is not None and runs.announce(TASK, "one", LIVE) == (running, False)
    done = ended(runs, running, "done")
    assert runs.announce(TASK, "one", STATES) == (done, False)
    again, is_new = runs.announce(TASK, "one", LIVE)
    assert is_new and again.number != first.number
    assert runs.announce(TASK, "two", STATES)[1]


def test_what_was_announced_outlives_the_process(tmp_path: Path, runs: Runs) -> None:
    """Another connection, as after a crash, finds every run with all that is known of it."""
    run = announced(runs, 1)
    other = Runs(tmp_path, keep=100)
    assert other.get(run.number) == run
    assert other.get(run.number + 1) is None
    other.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_the_oldest_goes_first(runs: Runs) -> None:
    """Runs start in the order of their announcement; a retried one keeps its age."""
    one, two = announced(runs, 1), announced(runs, 2)
    taken = runs.take()
    assert taken is not None and taken.number == one.number
    assert (taken.state, taken.attempt) == ("running", 1)
    ended(runs, one, "failed", 65)
    assert runs.retry(one.number) is not None
    again = runs.take()
    assert again is not None and (again.number, again.attempt) == (one.number, 2)
    last = runs.take()
    assert last is not None and last.number == two.number
    assert runs.take() is None


def test_one_source_is_read_by_one_run_at_a_time(runs: Runs) -> None:
    """A second run of a source waits for the first; other sources go ahead of it."""
    first, _ = runs.announce(task(1), "a", ())
    second, _ = runs.announce(task(1), "b", ())
    other, _ = runs.announce(task(2), "c", ())
    numbers = [run.number for run in (runs.take(), runs.take()) if run]
    assert numbers == [first.number, other.number]
    assert runs.take() is None
    ended(runs, first, "done")
    taken = runs.take()
    assert taken is not None and taken.number == second.number


def test_a_failed_run_waits_for_its_time(runs: Runs) -> None:
    """A run that is to be tried again later is not taken before."""
    run = announced(runs, 1)
    runs.take()
    waits = {"exit_code": 69, "reason": "down", "progress": {"offset": 5}}
    requeued = runs.requeue(run.number, not_before="9999-01-01", **waits)  # type: ignore[arg-type]
    assert (requeued.state, requeued.failures, requeued.progress) == ("queued", 1, {"offset": 5})
    assert runs.take() is None
    runs.requeue(run.number, not_before="2000-01-01", **waits)  # type: ignore[arg-type]
    assert runs.take() is not None


def test_after_a_crash_what_ran_is_queued_again(runs: Runs) -> None:
    """What was running goes back to the queue; what was to be cancelled is cancelled; the rest is as it was."""
    running, to_cancel, queued = (announced(runs, number) for number in range(3))
    runs.take()
    runs.take()
    assert runs.cancel(to_cancel.number).state == "running"  # type: ignore[union-attr]
    assert runs.recover() == 2
    states = [runs.get(run.number).state for run in (running, to_cancel, queued)]  # type: ignore[union-attr]
    assert states == ["queued", "cancelled", "queued"]


def test_cancel_and_retry_change_nothing_where_they_cannot(runs: Runs) -> None:
    """A queued run is cancelled at once, an ended one stays; a live one is not retried; an unknown one is None."""
    run = announced(runs, 1)
    assert runs.retry(run.number).state == "queued"  # type: ignore[union-attr]
    assert runs.cancel(run.number).state == "cancelled"  # type: ignore[union-attr]
    assert runs.take() is None
    assert runs.cancel(run.number).state == "cancelled"  # type: ignore[union-attr]
    assert runs.retry(run.number).state == "queued"  # type: ignore[union-attr]
    assert runs.cancel(99) is None and runs.retry(99) is None


def test_pages_of_many_runs_are_found_by_the_index(tmp_path: Path) -> None:
    """Of 10,000 past runs each page comes newest first, without a gap or a repetition, and none scans the table."""
    runs = Runs(tmp_path, keep=100_000)
    for number in range(3):
        announced(runs, number)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
            " INSERT INTO runs (identity, uri, task, state, created_at)"
            " SELECT i, i, (SELECT task FROM runs LIMIT 1), iif(i % 10, 'done', 'failed'), '' FROM n"
        )
    assert runs.counts() == {"queued": 3, "running": 0, "done": 9_000, "failed": 1_000, "cancelled": 0}
    for state, total in ((None, 10_003), ("failed", 1_000)):
        seen: list[int] = []
        while page := runs.page(state, 500, seen[-1] if seen else None):  # type: ignore[arg-type]
            seen += [run.number for run in page]
        assert seen == sorted(set(seen), reverse=True) and len(seen) == total
    plans = (
        "SELECT * FROM runs WHERE number < 9 ORDER BY number DESC LIMIT 50",
        "SELECT * FROM runs WHERE state = 'done' AND number < 9 ORDER BY number DESC LIMIT 50",
        "SELECT * FROM runs WHERE identity = 'x' ORDER BY number DESC LIMIT 1",
    )
    for plan in plans:
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {plan}")]
        assert all(step.startswith("SEARCH") for step in steps), steps
    db.close()
    runs.close()


def test_the_oldest_ended_runs_are_forgotten(runs: Runs) -> None:
    """No more than `keep` are kept; those that wait or run are never forgotten, and no number comes again."""
    for number in range(150):
        run = announced(runs, number)
        if number >= 20:
            ended(runs, run, "done")
    found = runs.page(None, 500, None)
    assert len(found) == 100
    assert {run.state for run in found[-20:]} == {"queued"}
    assert sum(runs.counts().values()) == 100
    assert found[0].number == 150
