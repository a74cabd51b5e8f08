"""Runs at work: whatever their process says, or is, the service and the other runs go on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ingest_service.pipeline.progress import Progress, SinkProgress, StepProgress
from ingest_service.pipeline.report import SinkReport, StreamReport
from ingest_service.pipeline.tracker import Counts
from ingest_service.runtime.process import EVENTS_FD, Reason
from ingest_service.service.commands import Commands
from ingest_service.service.forks import Forks
from ingest_service.service.heard import understood
from ingest_service.service.live import Live
from ingest_service.service.runs import STATES, Run, Runs, Task
from ingest_service.service.workers import Workers
from ingest_service.telemetry.prometheus import Exposition

PROGRESS = (
    '{"source": "s", "offset": 1, "size": 2, "percent": 50.0, "rows_read": 1,'
    ' "rows_rejected": 0,'
    ' "rows_per_s": 1, "eta_s": null, "queue_depth": {}, "rss_mb": 1.5, "sinks": {},'
    ' "rows_filtered": 0, "event": "progress",'
    ' "timestamp": ""}'
)
NO_EVENTS = (
    "",
    "text",
    "5",
    "[]",
    "{}",
    '{"event": 5}',
    '{"event": ["progress"]}',
    '{"event": "progress"}',
    '{"event": "nothing"}',
    '{"event": "progress", "source": "s"}',
    PROGRESS.replace('"sinks": {}', '"sinks": {"a": {}}'),
    PROGRESS.replace('"offset": 1', '"offset": "1"'),
    PROGRESS.replace('"offset": 1', '"offset": -1'),
    PROGRESS.replace("1.5", "NaN"),
    PROGRESS.replace('"s"', "null"),
    '{"event": "report", "source": "s", "balanced": true, "sinks": [], "timestamp": ""}',
    '{"event": "progress", "step": "movies", "timestamp": ""}',
    '{"event": "reason", "timestamp": ""}',
    '{"event": "reason", "reason": 5, "timestamp": ""}',
    "[" * 100_000,
)


@pytest.mark.parametrize("line", NO_EVENTS, ids=range(len(NO_EVENTS)))
def test_what_is_no_event_is_not_understood(line: str) -> None:
    """A ValueError, which says nothing of the line; what is one comes back whole."""
    with pytest.raises(ValueError, match=r"^[A-Za-z ]*$"):
        understood(line.encode())
    told = understood(PROGRESS.encode())
    assert isinstance(told.event, Progress)
    assert {**told.event.as_json(), "event": "progress", "timestamp": told.at} == json.loads(PROGRESS)


def test_what_a_run_tells_is_heard_as_it_was() -> None:
    """Each kind of event comes back equal, and again as the same JSON in the same order."""
    sink = SinkProgress(9, 1, 0, 3, 2, 1, 8, "growing", None, 2.5, 100)
    counts = Counts(11, 10, 1, 9, 1, 0)
    report = StreamReport("s", "s-1", 1.5, "/d", {"a": SinkReport(counts, 100, True, 11, 2, 1, ["w"])}, ["v"])
    events: list[tuple[str, Progress | StepProgress | StreamReport]] = [
        ("progress", Progress("s", 120, None, 12.5, 11, 1, 9, 3.5, {"a": 1}, 80.5, {"a": sink})),
        ("progress", StepProgress("movies", "movies", 3, 9, 33.3, 2, None)),
        ("progress", StepProgress("download", "bytes", 0, 0, None, 0, None)),
        ("report", report),
    ]
    for kind, event in events:
        text = json.dumps({**event.as_json(), "event": kind, "timestamp": "t"})
        told = understood(text.encode())
        assert (told.event, told.at) == (event, "t")
        assert not isinstance(told.event, Reason)
        assert json.dumps({**told.event.as_json(), "event": kind, "timestamp": "t"}) == text


class Scripts(Commands):
    """Runs whose process is a script of the test's."""

    def __init__(self, script: str) -> None:
        super().__init__({}, None)
        self._script = script

    def arguments(self, run: Run) -> list[str]:
        return [self._script]


@dataclass
class Floor:
    runs: Runs
    live: Live
    workers: Workers

    async def ended(self, run: Run) -> Run:
        async with asyncio.timeout(60):
            while (found := self.runs.get(run.number)) is None or found.state in ("queued", "running"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found


@asynccontextmanager
async def working(folder: Path, commands: Commands) -> AsyncIterator[Floor]:
    runs, live = Runs(folder, keep=100), Live()
    async with Forks(command="tests.service.scripts") as forks:
        workers = Workers(runs, live, Exposition(), commands, forks, 1)
        work = asyncio.create_task(workers.work())
        try:
            yield Floor(runs, live, workers)
        finally:
            workers.stop()
            await work
            runs.close()


def announced(runs: Runs, name: str) -> Run:
    return runs.announce(Task("run", f"file:///{name}", f"/{name}"), name, STATES)[0]


async def test_only_events_of_the_pipe_are_heard(tmp_path: Path) -> None:
    """Neither what the log looks like, nor lines that are no events, nor one without an end."""
    script = f"""
import os, sys
pipe = int(os.environ[{EVENTS_FD!r}])
progress = {PROGRESS!r}
sys.stderr.write(progress.replace('"s"', '"forged"') + "\\ningest-service: forged\\nError: forged\\n\\x1b[31m\\n")
for line in {NO_EVENTS[:-1]!r}:
    os.write(pipe, line.encode() + b"\\n")
os.write(pipe, progress.encode() + b"\\n" + b'{{"event": "reason", "reason": "true", "timestamp": ""}}\\n')
for _ in range(40):
    os.write(pipe, b"x" * (1 << 16))
sys.exit(78)
"""
    with capture_logs() as logs:
        async with working(tmp_path, Scripts(script)) as floor:
            ended = await floor.ended(announced(floor.runs, "a.csv"))
    assert (ended.state, ended.exit_code, ended.reason) == ("failed", 78, "true")
    assert ended.progress is not None and ended.progress["source"] == "s"
    said = [entry["line"] for entry in logs if entry["event"] == "run says"]
    assert said[1:] == ["ingest-service: forged", "Error: forged", "\x1b[31m"]
    dropped = [entry for entry in logs if entry["event"] == "event dropped"]
    assert len(dropped) >= len(NO_EVENTS) - 1


async def test_a_run_that_meets_a_bug_of_the_service_fails_alone(tmp_path: Path) -> None:
    """It is failed with a reason that names the kind; the next one is done."""

    class Broken(Scripts):
        def environment(self, run: Run) -> dict[str, str]:
            return {} if run.task.name == "/good.csv" else {"": str(1 // 0)}

    async with working(tmp_path, Broken("")) as floor:
        bad, good = announced(floor.runs, "bad.csv"), announced(floor.runs, "good.csv")
        failed, done = await floor.ended(bad), await floor.ended(good)
    assert (failed.state, failed.exit_code, done.state) == ("failed", 70, "done")
    assert failed.reason is not None and "ZeroDivisionError" in failed.reason


async def test_a_run_hands_its_pipe_to_nobody(tmp_path: Path) -> None:
    """The real program takes the pipe's number out of its environment, and what it starts does not have it."""
    script = f"""
import os, subprocess, sys
from ingest_service.runtime import process
pipe = int(os.environ[{EVENTS_FD!r}])
process.end_with_parent()
assert {EVENTS_FD!r} not in os.environ
found = subprocess.run(["test", "-e", f"/proc/self/fd/{{pipe}}"], close_fds=False)
process.tell("reason", {{"reason": f"child: {{found.returncode}}"}})
sys.exit(78)
"""
    async with working(tmp_path, Scripts(script)) as floor:
        ended = await floor.ended(announced(floor.runs, "a.csv"))
    assert ended.reason == "child: 1"
