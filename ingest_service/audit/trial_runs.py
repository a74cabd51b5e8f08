"""The runs of a trial, as processes in places of their own, that are killed from outside or at a named place within.

A run with workers is several processes: the driver, which was started, one that forks, and the workers.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ingest_service.errors import Stopped, family_of
from ingest_service.runtime import fault

WHEN_STOPPED = "what the trial had made was removed"
ALONE = "random time"  # a run without workers
WITH_WORKERS = {  # how many of them are killed, and whether the run itself
    "a worker": (1, False),
    "two workers": (2, False),
    "the driver": (0, True),
    "the driver and all workers": (sys.maxsize, True),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one load goes: scratch sinks, a folder for its state, and a checkpoint setting."""

    urls: tuple[str, ...]
    folder: Path
    checkpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """The URLs go by the environment: a command line, where passwords show, is for all to see."""
        return {
            **os.environ,
            "INGEST_TO": " ".join(self.urls),
            "INGEST_STATE_DIR": str(self.folder / "state"),
            "INGEST_CHECKPOINT": self.checkpoint,
            "INGEST_TEST_JOURNAL": str(self.folder / "journal"),
        }

    def processes(self) -> list[int]:
        """Those at work here: they have its environment, or come of one that had it. Linux."""
        ours = f"INGEST_TEST_JOURNAL={self.folder / 'journal'}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if ours in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def journal(self) -> list["Passing"]:
        """What the last run noted."""
        path = self.folder / "journal"
        if not path.exists():
            return []  # killed before it came to any place
        # The last line may be torn: a kill may come at any moment.
        lines = [line.split() for line in path.read_text().split("\n")[:-1]]
        return [Passing(float(at), name, sink, int(start), int(end)) for at, name, sink, start, end in lines]


@dataclass(frozen=True, slots=True)
class Passing:
    """One passing of a place in fault.py."""

    at: float
    name: str
    sink: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Kill:
    """After `after_s` from outside, `name` being whom; without it at the place `name`, when it is passed so often."""

    name: str
    after_s: float | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: who was killed, or at which place; "" if nobody was. What it printed, if it came to its end."""

    killed: str
    output: bytes


async def run_once(arguments: Sequence[str], place: Place, stop: asyncio.Event, kill: Kill | None = None) -> Ended:
    """One `run`. IngestError unless it ended well or was killed; Stopped if we are."""
    environment = place.environment
    if kill is not None and kill.after_s is None:
        environment["INGEST_TEST_FAULT_POINT"] = f"{kill.name}:{kill.times}"
    (place.folder / "journal").unlink(missing_ok=True)
    async with _started(arguments, environment, place.folder / "log") as process:
        killed = ""
        stopping = asyncio.create_task(stop.wait())
        ending = asyncio.create_task(process.communicate())
        try:
            after_s = kill.after_s if kill else None
            await asyncio.wait((stopping, ending), timeout=after_s, return_when=asyncio.FIRST_COMPLETED)
            if kill is not None and after_s is not None and not ending.done() and not stop.is_set():
                killed = _strike(process.pid, kill.name)
                await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                raise Stopped.on_request(WHEN_STOPPED)
            output, _ = await ending
        finally:
            stopping.cancel()
            ending.cancel()
    assert process.returncode is not None
    if process.returncode not in (0, -signal.SIGKILL):
        raise _failed(process.returncode, place.folder / "log")
    if kill is not None and any(one.name == fault.KILLED for one in place.journal()):
        killed = kill.name
    return Ended(killed, output)


@asynccontextmanager
async def _started(
    arguments: Sequence[str], environment: dict[str, str], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that does not outlive this, nor do its workers."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ingest_service", "run", *arguments, "--json"),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # the terminal's Ctrl-C is for us
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            _strike(process.pid, "the driver and all workers")
            await process.wait()


def _failed(code: int, log: Path) -> Exception:
    said = log.read_text(errors="replace").strip().splitlines()
    last = said[-1] if said and said[-1].startswith("ingest-service: ") else ""
    return family_of(code)(f"A run ended by itself with exit code {code}. {last}".strip())


def _strike(pid: int, name: str) -> str:
    """Kill the run, or those of `WITH_WORKERS`; the driver where there are no workers. Returns whom."""
    workers = workers_of(pid)
    if not workers and name != ALONE:
        name = "the driver"
    n_workers, with_driver = WITH_WORKERS.get(name, (0, True))
    doomed = random.sample(workers, min(n_workers, len(workers)))
    if with_driver and n_workers:
        doomed += _children(pid)  # who forks them, too
    for one in ([pid] if with_driver else []) + doomed:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return name


def workers_of(pid: int) -> list[int]:
    """The workers of a run, which are children of who forks them. Linux."""
    return [worker for forks in _children(pid) for worker in _children(forks)]


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
