"""Runs a command as a process of its own and says what it cost.

The kernel counts the memory of the process that started a command towards the peak of that command, so this
one must stay small (nothing in it imports numpy or polars), and a lower peak than its own reads as its own.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_SETTLE_S: Final = 0.1  # a server's process for one client ends a moment after it, and only then counts for the server
_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 1e6


class CommandFailedError(Exception):
    """A measured command exited with an error, or left something else than it should have."""


@dataclass(frozen=True)
class Run:
    """The cost of one run, start-up included; CPU is user and system, with that of children.

    `progress`: seconds since the start, and the rows that all sinks had by then; of ingest-service alone.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    server_cpu_s: float = 0.0
    rss_mb: tuple[float, ...] = ()
    progress: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class Subject:
    """A command for `rows` rows; `before` clears its store, `after` raises if it left the wrong things."""

    name: str
    command: Sequence[str]
    rows: int
    server_pid: int | None = None
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    stdin: Path | None = None
    sample_every_s: float | None = None

    def run(self) -> Run:
        self.before()
        result = run(self.command, stdin=self.stdin, server_pid=self.server_pid, sample_every_s=self.sample_every_s)
        self.after()
        return result


@dataclass(frozen=True)
class Side:
    """All runs of one subject. Costs are medians, a million rows each where they depend on the rows."""

    name: str
    rows: int
    command: Sequence[str]
    runs: list[Run] = field(default_factory=list)

    @property
    def rows_per_s(self) -> float:
        return median(self.rows / run.wall_s for run in self.runs)

    @property
    def cpu_s(self) -> float:
        return median(run.cpu_s for run in self.runs)

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_s / self.rows * 1e6

    @property
    def server_cpu_s_per_million(self) -> float:
        return median(run.server_cpu_s for run in self.runs) / self.rows * 1e6

    @property
    def peak_mb(self) -> float:
        return max(run.peak_mb for run in self.runs)

    def speed_beside(self, other: "Side") -> float:
        """Median over the pairs of how many times the rows/s of the other this is."""
        return self._ratio(other, lambda run: run.wall_s)

    def cpu_thrift_beside(self, other: "Side") -> float:
        """Median over the pairs of how many times the rows per CPU second of the other this is."""
        return self._ratio(other, lambda run: run.cpu_s)

    def _ratio(self, other: "Side", cost: Callable[[Run], float]) -> float:
        return median(
            (cost(theirs) / other.rows) / (cost(ours) / self.rows)
            for ours, theirs in zip(self.runs, other.runs, strict=True)
        )


def run(
    command: Sequence[str],
    *,
    stdin: Path | None = None,
    env: Mapping[str, str] | None = None,
    server_pid: int | None = None,
    sample_every_s: float | None = None,
) -> Run:
    """Run it to its end; an exit status other than 0 raises, with the end of what it said on stderr."""
    with tempfile.TemporaryFile() as stderr, (stdin or Path(os.devnull)).open("rb") as source:
        server_before_s = _cpu_s(server_pid)
        started, began = time.perf_counter(), datetime.now(UTC)
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=source, stdout=subprocess.DEVNULL, stderr=stderr)
        ended = threading.Event()
        rss_mb: list[float] = []
        sampler = threading.Thread(target=_sample, args=(process.pid, sample_every_s, ended, rss_mb))
        if sample_every_s:
            sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        time.sleep(_SETTLE_S)
        ended.set()
        if sample_every_s:
            sampler.join()
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
        if process.returncode != 0:
            raise CommandFailedError(f"exit {process.returncode}: {' '.join(command)}\n{said[-2000:]}")
    return Run(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss * 1024 / 1e6,
        server_cpu_s=_cpu_s(server_pid) - server_before_s,
        rss_mb=tuple(rss_mb),
        progress=tuple(_progress(said, began)),
    )


def _progress(said: str, began: datetime) -> Iterator[tuple[float, int]]:
    for line in said.splitlines():
        if '"event": "progress"' in line:
            event = json.loads(line)
            at_s = (datetime.fromisoformat(event["timestamp"]) - began).total_seconds()
            yield round(at_s, 2), min(sink["rows_written"] for sink in event["sinks"].values())


def interleave(subjects: Sequence[Subject], rounds: int) -> list[Side]:
    """One warm-up each, then A B A B …, so that what disturbs the machine disturbs all of them."""
    sides = [Side(subject.name, subject.rows, subject.command) for subject in subjects]
    for subject in subjects:
        subject.run()
    for _ in range(rounds):
        for subject, side in zip(subjects, sides, strict=True):
            side.runs.append(subject.run())
    return sides


def _cpu_s(pid: int | None) -> float:
    if pid is None:
        return 0.0
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, after_name[11:15])) / _TICKS_PER_S  # with that of its children that have ended


def _sample(pid: int, every_s: float, ended: threading.Event, rss_mb: list[float]) -> None:
    while not ended.wait(every_s):
        try:
            rss_mb.append(round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB, 1))
        except OSError:  # it has just ended
            return
