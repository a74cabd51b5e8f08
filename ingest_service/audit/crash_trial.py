"""Loads a user's own file over and over into places of its own, kills it on the way, and looks for what got lost.

    one clean run ──────────────────────────────────────────────┐
    passes: [ run, kill, run, kill, …, run to the end ] ────────┴─► compare every sink, dead letters and counts

A kill comes at a random time or at a named place (fault.py). Each pass has empty places (`Sink.scratch`), so that
nothing of an earlier one can stand in for what got lost. The runs are processes, and so is what they leave behind real.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from ingest_service.errors import Stopped, UsageError, family_of
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.run import opened, sinks_of
from ingest_service.rows.spill import Spill
from ingest_service.sinks.abilities import read_back_of, trial_of
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.readback import STORED_SCHEMA

KILLS_A_PASS = 10  # then a pass may run to its end
_WHEN_STOPPED = "what the trial had made was removed"
_RECORD = list(STORED_SCHEMA)
Progress = Callable[..., None]


@dataclass(slots=True)
class CrashReport:
    """What the kills did.

    rows_lost, rows_doubled: records of the clean run that a sink lacks, and records that it has beyond those.
    rows_repeated: rows written again after kills, over all sinks; `largest_rework` after one kill.
    window: the most rows of a sink that were at any kill in flight or settled without a checkpoint that said so.
    problems: one sentence each for whatever is not as it must be.
    """

    seed: int
    cycles: int = 0
    passes: int = 0
    killed_at: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    letters_lost: int = 0
    letters_doubled: int = 0
    rows_repeated: int = 0
    largest_rework: int = 0
    window: int = 0
    resume_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def lossless(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        median_s, longest_s = self._resume_s
        times = {"median": round(median_s, 3), "longest": round(longest_s, 3)}
        return {"lossless": self.lossless, **asdict(self), "killed_at": dict(self.killed_at), "resume_s": times}

    @property
    def _resume_s(self) -> tuple[float, float]:
        """From the start of a process to the first row that it writes: median and longest."""
        return (median(self.resume_s), max(self.resume_s)) if self.resume_s else (0.0, 0.0)

    def lines(self) -> list[str]:
        """For a reader."""
        median_s, longest_s = self._resume_s
        places = ", ".join(f"{name} {n}" for name, n in sorted(self.killed_at.items()))
        return [
            f"{self.cycles:,} kills in {self.passes:,} passes over {self.rows:,} rows (seed {self.seed})",
            f"killed at: {places}",
            f"rows lost: {self.rows_lost:,}; doubled: {self.rows_doubled:,}",
            f"dead letters lost: {self.letters_lost:,}; doubled: {self.letters_doubled:,}",
            f"rows repeated: {self.rows_repeated:,}; after one kill at most {self.largest_rework:,}, "
            f"with up to {self.window:,} in flight",
            f"resumed within {median_s:.2f} s (median), {longest_s:.2f} s (longest)",
            *self.problems,
            "all as after one clean run" if self.lossless else "DIFFERENT",
        ]


@dataclass(frozen=True, slots=True)
class _Place:
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


@dataclass(frozen=True, slots=True)
class _Pass:
    """One passing of a place in fault.py."""

    at: float
    name: str
    sink: str
    start: int
    end: int


@dataclass(slots=True)
class _Progress:
    """How far the runs of one pass have brought one sink, in rows of the source."""

    touched: int = 0  # some run began to write up to here
    settled: int = 0
    saved: int = 0
    largest_chunk: int = 0

    def window(self, sink: AnySink) -> int:
        """What may have to be repeated: rows settled since the last checkpoint, and those in flight or waiting."""
        waiting = min(sink.most_waiting, self.touched - self.settled)
        return self.settled - self.saved + waiting + sink.options.consumers * self.largest_chunk


async def crash_test(
    job: Job,
    urls: Sequence[str],
    arguments: Sequence[str],
    checkpoints: Sequence[str],
    *,
    cycles: int,
    seed: int,
    stop: asyncio.Event,
    progress: Progress,
) -> CrashReport:
    """Kill loads of one source `cycles` times. `arguments` are those of `run` that name the source and its shape.

    `checkpoints` are the kinds to try in turn: "sink", "file". IngestError if a run fails by itself.
    """
    if not job.source.resumable:
        raise UsageError("Standard input cannot be read again; name a file.")
    report = CrashReport(seed)
    with TemporaryDirectory(prefix="ingest-trial-") as folder, ExitStack() as stack:
        trial = _Trial(job, urls, arguments, Path(folder), random.Random(seed), report, stop, progress)
        async with trial.place("clean", "sink") as clean:
            await trial.run_clean(clean)
            trial.users = await asyncio.to_thread(trial.read_users)
            stack.enter_context(trial.users)
            for kind in set(checkpoints) - {"sink"}:
                async with trial.place(f"clean-{kind}", kind) as place:
                    await trial.run_clean(place)
                    await trial.compare(clean, place)
            while report.cycles < cycles:
                kind = checkpoints[report.passes % len(checkpoints)]
                async with trial.place(f"pass-{report.passes}", kind) as place:
                    kills = min(KILLS_A_PASS, cycles - report.cycles)
                    await trial.run_killed(place, kills)
                    await trial.compare(clean, place)
                report.passes += 1
    return report


@dataclass(slots=True)
class _Trial:
    job: Job
    urls: Sequence[str]
    arguments: Sequence[str]
    folder: Path
    rng: random.Random
    report: CrashReport
    stop: asyncio.Event
    progress: Progress
    users: Spill = field(init=False)  # those of the source
    clean_s: float = 0.0
    begin_s: float = 0.0  # from the start of a run to its first lease
    passings: dict[str, Counter[str]] = field(default_factory=dict)  # of each place in a clean run, by checkpoint
    counts: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def place(self, name: str, checkpoint: str) -> AsyncIterator[_Place]:
        folder = self.folder / name
        folder.mkdir()
        async with AsyncExitStack() as stack:
            urls = []
            for url, sink in zip(self.urls, sinks_of(self.urls, self.job.dataset), strict=True):
                stack.push_async_callback(sink.close)
                urls.append(await stack.enter_async_context(trial_of(sink).scratch(url, folder)))
            kind = f"file:{folder / 'checkpoints'}" if checkpoint == "file" else checkpoint
            yield _Place(tuple(urls), folder, kind)

    async def run_clean(self, place: _Place) -> None:
        began = time.monotonic()
        self.counts = await self._run_to_the_end(place)
        self.clean_s = time.monotonic() - began
        journal = _journal(place)
        self.passings[place.checkpoint.partition(":")[0]] = Counter(one.name for one in journal)
        self.begin_s = journal[0].at - began
        self.report.rows = max(counts["read"] for counts in self.counts.values())

    async def run_killed(self, place: _Place, kills: int) -> None:
        """Up to so many kills, then to the end; a run that gets there before ends the pass."""
        sinks: dict[str, _Progress] = {}
        for _ in range(kills):
            began = time.monotonic()
            at = await self._run_and_kill(place)
            if at is None:
                break
            self.report.cycles += 1
            self.report.killed_at[at] += 1
            self._judge(place, sinks, began)
            self.progress(cycles=self.report.cycles, passes=self.report.passes, problems=len(self.report.problems))
        began = time.monotonic()
        counts = await self._run_to_the_end(place)
        self._judge(place, sinks, began)
        if counts != self.counts:
            self._complain(f"the counts {counts} are not those of the clean run, {self.counts}.")

    def read_users(self) -> Spill:
        reader = self.job.open_reader()
        try:
            users = Spill(self.report.rows)
            while (block := reader.next()) is not None:
                columns = reader.chunk(block).columns
                names = columns.texts[columns.schema.owner].to_list()
                users.add(pl.DataFrame({"user_id": names}, schema={"user_id": pl.String}).unique())
            return users
        finally:
            reader.close()

    # --- one run ----------------------------------------------------------------------------------

    async def _run_and_kill(self, place: _Place) -> str | None:
        """Where it was killed, or None if it came to its end before."""
        environment = place.environment
        limit_s: float | None = None
        name = "random time"
        if self.rng.random() < 0.5:
            limit_s = self.rng.uniform(self.begin_s if self.rng.random() < 0.9 else 0, self.clean_s)
        else:
            passings = self.passings[place.checkpoint.partition(":")[0]]
            name = self.rng.choice(sorted(passings))
            # A resumed run has less to do: from all passings of the clean run too few kills would come.
            environment["INGEST_TEST_FAULT_POINT"] = f"{name}:{self.rng.randint(1, max(1, passings[name] // 2))}"
        began = time.monotonic()
        code, _ = await self._start(environment, place, limit_s)
        if code == -signal.SIGKILL:
            return name
        if limit_s is not None:  # the machine has become faster, or the run had little left to do
            self.clean_s = max(self.begin_s, min(self.clean_s, time.monotonic() - began))
        return None

    async def _run_to_the_end(self, place: _Place) -> dict[str, Any]:
        """The counts of its report, by sink."""
        _, output = await self._start(place.environment, place, None)
        names = ("read", "accepted", "rejected", "filtered", "records", "written", "merged", "dead")
        (source,) = json.loads(output)["sources"]
        return {sink: {name: numbers.get(name) for name in names} for sink, numbers in source["sinks"].items()}

    async def _start(self, environment: dict[str, str], place: _Place, limit_s: float | None) -> tuple[int, bytes]:
        """Exit status and output of one run. IngestError unless it ended well or was killed; Stopped if we are."""
        (place.folder / "journal").unlink(missing_ok=True)
        with (place.folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ingest_service", "run", *self.arguments, "--json"),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for us
            )
        stopping = asyncio.create_task(self.stop.wait())
        ending = asyncio.create_task(process.communicate())
        try:
            await asyncio.wait((stopping, ending), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not ending.done():
                process.kill()
            output, _ = await ending
            stopping.cancel()
        if self.stop.is_set():
            raise Stopped.on_request(_WHEN_STOPPED)
        assert process.returncode is not None
        if process.returncode not in (0, -signal.SIGKILL):
            said = (place.folder / "log").read_text(errors="replace").strip().splitlines()
            last = said[-1] if said and said[-1].startswith("ingest-service: ") else ""
            family = family_of(process.returncode)
            raise family(f"A run ended by itself with exit code {process.returncode}. {last}".strip())
        return process.returncode, output

    # --- what it left -----------------------------------------------------------------------------

    def _judge(self, place: _Place, sinks: dict[str, _Progress], began: float) -> None:
        """Read a run's journal: what it repeated of the runs before, and how far it got."""
        journal = _journal(place)
        resumed = False
        for one in journal:
            known = sinks.setdefault(one.sink, _Progress())
            if one.name == "lease-taken":
                self._judge_resume(one, known)
            elif one.name == "before-write":
                if known.touched and not resumed:
                    resumed = True
                    self.report.resume_s.append(one.at - began)
                self.report.rows_repeated += max(0, min(one.end, known.touched) - one.start)
                known.largest_chunk = max(known.largest_chunk, one.end - one.start)
            elif one.name == "checkpoint-saved":
                known.saved = max(known.saved, one.end)
        # Only now: within the run itself nothing is repeated.
        for one in journal:
            if one.name == "before-write":
                sinks[one.sink].touched = max(sinks[one.sink].touched, one.end)
            elif one.name == "settled":
                sinks[one.sink].settled = max(sinks[one.sink].settled, one.end)

    def _judge_resume(self, one: _Pass, known: _Progress) -> None:
        sink = next(sink for sink in sinks_of(self.urls, self.job.dataset) if sink.name == one.sink)
        rework, window = max(0, known.touched - one.start), known.window(sink)
        self.report.largest_rework = max(self.report.largest_rework, rework)
        self.report.window = max(self.report.window, window)
        if one.start < known.saved:
            self._complain(f"{one.sink} went on at row {one.start}, though row {known.saved} was checkpointed.")
        if rework > window:
            self._complain(f"{one.sink} repeated {rework} rows, where at most {window} were in flight.")

    async def compare(self, clean: _Place, place: _Place) -> None:
        """Record by record, for the users of the source; then the dead letters."""
        wanted, found = (sinks_of(one.urls, self.job.dataset) for one in (clean, place))
        async with opened(wanted), opened(found):
            partitions = iter(self.users)
            while (some := await asyncio.to_thread(next, partitions, None)) is not None:
                if self.stop.is_set():
                    raise Stopped.on_request(_WHEN_STOPPED)
                for one, other in zip(wanted, found, strict=True):
                    await self._compare_sinks(some["user_id"].unique().to_list(), one, other)
        letters, others = _letters(clean), _letters(place)
        lost, doubled = (letters - others).total(), (others - letters).total()
        self.report.letters_lost += lost
        self.report.letters_doubled += doubled
        if lost or doubled:
            self._complain(f"{lost} dead letters are lost and {doubled} doubled.")

    async def _compare_sinks(self, users: list[str], one: AnySink, other: AnySink) -> None:
        schema = self.job.dataset.schema
        wanted, found = await read_back_of(one).stored(users, schema), await read_back_of(other).stored(users, schema)
        lost = wanted.join(found, on=_RECORD, how="anti").height
        doubled = found.join(wanted, on=_RECORD, how="anti").height + found.height - found.unique(_RECORD).height
        self.report.rows_lost += lost
        self.report.rows_doubled += doubled
        if lost or doubled:
            self._complain(f"{other.name} lost {lost} rows and has {doubled} too many.")

    def _complain(self, what: str) -> None:
        self.report.problems.append(f"pass {self.report.passes}: {what}")


def _journal(place: _Place) -> list[_Pass]:
    path = place.folder / "journal"
    if not path.exists():
        return []  # killed before it came to any place
    # The last line may be torn: a kill may come at any moment.
    lines = [line.split() for line in path.read_text().split("\n")[:-1]]
    return [_Pass(float(at), name, sink, int(start), int(end)) for at, name, sink, start, end in lines]


def _letters(place: _Place) -> Counter[int]:
    found: Counter[int] = Counter()
    for path in (place.folder / "state").rglob(dead_letter.FILE_NAME):
        found.update(dead_letter.identity_of(letter) for letter in dead_letter.read(path))
    return found
