"""Loads a user's own file over and over into places of its own, kills it on the way, and looks for what got lost.

    one clean run ──────────────────────────────────────────────┐
    passes: [ run, kill, run, kill, …, run to the end ] ────────┴─► compare every sink, dead letters and counts

A kill comes at a random time or at a named place (fault.py). Each pass has empty places (`Sink.scratch`), so that
nothing of an earlier one can stand in for what got lost. The runs are processes, and so is what they leave behind real.

With workers the clean run is one without them, and a pass may be ended by as many, by others, or by none. What a kill
has to repeat is judged by rows of the source, which shards have not in order: there it is left out.
"""

import asyncio
import json
import random
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

from ingest_service.audit.trial_runs import (
    ALONE,
    WHEN_STOPPED,
    WITH_WORKERS,
    Ended,
    Kill,
    Passing,
    Place,
    run_once,
)
from ingest_service.errors import IngestError, Stopped, UsageError
from ingest_service.pipeline import dead_letter
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.run import DRAIN_S, opened, sinks_of
from ingest_service.pipeline.shards import starts_of
from ingest_service.rows.spill import Spill
from ingest_service.sinks.abilities import read_back_of, trial_of
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.readback import STORED_SCHEMA

KILLS_A_PASS = 10  # then a pass may run to its end
SHARDS_A_WORKER = 4
_ENDING_S = 20.0  # for a worker beyond its time to drain, on a busy machine
_RECORD = list(STORED_SCHEMA)
Progress = Callable[..., None]


@dataclass(slots=True)
class CrashReport:
    """What the kills did.

    rows_lost, rows_doubled: records of the clean run that a sink lacks, and records that it has beyond those.
    rows_repeated: rows written again after kills, over all sinks; `largest_rework` after one kill.
    window: the most rows of a sink that were at any kill in flight or settled without a checkpoint that said so.
    problems: one sentence each for whatever is not as it must be.
    workers, shards: among how many each killed run was divided; then nothing is said of what was repeated.
    """

    seed: int
    workers: int = 0
    shards: int = 0
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
        divided = f", by {self.workers} workers in {self.shards} shards" if self.workers else ""
        repeated = [
            f"rows repeated: {self.rows_repeated:,}; after one kill at most {self.largest_rework:,}, "
            f"with up to {self.window:,} in flight",
            f"resumed within {median_s:.2f} s (median), {longest_s:.2f} s (longest)",
        ]
        return [
            f"{self.cycles:,} kills in {self.passes:,} passes over {self.rows:,} rows{divided} (seed {self.seed})",
            f"killed at: {places}",
            f"rows lost: {self.rows_lost:,}; doubled: {self.rows_doubled:,}",
            f"dead letters lost: {self.letters_lost:,}; doubled: {self.letters_doubled:,}",
            *([] if self.workers else repeated),
            *self.problems,
            "all as after one clean run" if self.lossless else "DIFFERENT",
        ]


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
    workers: int,
    stop: asyncio.Event,
    progress: Progress,
) -> CrashReport:
    """Kill loads of one source `cycles` times. `arguments` are those of `run` that name the source and its shape.

    `checkpoints` are the kinds to try in turn: "sink", "file". `workers`: among how many the loads are divided, 0 for
    whole ones. IngestError if a run fails by itself.
    """
    if not job.source.resumable:
        raise UsageError("Standard input cannot be read again; name a file.")
    report = CrashReport(seed, workers)
    with TemporaryDirectory(prefix="ingest-trial-") as folder, ExitStack() as stack:
        trial = _Trial(job, urls, arguments, Path(folder), random.Random(seed), report, stop, progress)
        if workers:
            report.shards = await asyncio.to_thread(trial.divide)
        async with trial.place("clean", "sink") as clean:
            await trial.run_clean(clean, 0)
            trial.users = await asyncio.to_thread(trial.read_users)
            stack.enter_context(trial.users)
            for kind in checkpoints if workers else set(checkpoints) - {"sink"}:
                async with trial.place(f"clean-{kind}", kind) as place:
                    await trial.run_clean(place, workers)
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
    shard_mb: int = 0
    users: Spill = field(init=False)  # those of the source
    clean_s: float = 0.0
    begin_s: float = 0.0  # from the start of a run to its first lease
    passings: dict[str, Counter[str]] = field(default_factory=dict)  # of each place in a clean run, by checkpoint
    counts: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def place(self, name: str, checkpoint: str) -> AsyncIterator[Place]:
        folder = self.folder / name
        folder.mkdir()
        async with AsyncExitStack() as stack:
            urls = []
            for url, sink in zip(self.urls, sinks_of(self.urls, self.job.dataset), strict=True):
                stack.push_async_callback(sink.close)
                urls.append(await stack.enter_async_context(trial_of(sink).scratch(url, folder)))
            kind = f"file:{folder / 'checkpoints'}" if checkpoint == "file" else checkpoint
            yield Place(tuple(urls), folder, kind)

    def divide(self) -> int:
        """Choose how long shards are. Returns how many there will be; UsageError if too few. Blocks."""
        workers = self.report.workers
        reader = self.job.open_reader()
        try:
            if not reader.is_divisible or not any(sink.takes_parts for sink in sinks_of(self.urls, self.job.dataset)):
                raise UsageError("Such a file, or sink, is not divided among workers; leave --workers out.")
            self.shard_mb = max(1, (reader.source_size or 0) // (SHARDS_A_WORKER * workers << 20))
            shards = len(starts_of(reader, reader.first, self.shard_mb))
        finally:
            reader.close()
        if shards <= workers:
            raise UsageError(
                f"The file is too short to be divided among {workers} workers: a shard is a MiB or longer, "
                f"which makes {shards}; take a longer file, or fewer workers."
            )
        return shards

    async def run_clean(self, place: Place, workers: int) -> None:
        began = time.monotonic()
        counts = await self._run_to_the_end(place, workers)
        self.clean_s = time.monotonic() - began
        journal = place.journal()
        self.passings[place.checkpoint.partition(":")[0]] = Counter(one.name for one in journal)
        self.begin_s = journal[0].at - began
        self.report.rows = max(numbers["read"] for numbers in counts.values())
        self._require(counts)

    async def run_killed(self, place: Place, kills: int) -> None:
        """Up to so many kills, then to the end; a run that gets there before ends the pass."""
        sinks: dict[str, _Progress] = {}
        for _ in range(kills):
            began = time.monotonic()
            ended = await self._run_and_kill(place)
            if not ended.killed:
                break
            self.report.cycles += 1
            self.report.killed_at[ended.killed] += 1
            self._judge(place, sinks, began)
            self.progress(cycles=self.report.cycles, passes=self.report.passes, problems=len(self.report.problems))
        began = time.monotonic()
        workers = self.report.workers
        counts = await self._run_to_the_end(place, self.rng.choice([0, workers, workers + 1]) if workers else 0)
        self._judge(place, sinks, began)
        self._require(counts)
        if workers:
            await self._require_end_of_workers(place)

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

    async def _run_and_kill(self, place: Place) -> Ended:
        workers = self.report.workers
        if self.rng.random() < 0.5:
            after_s = self.rng.uniform(self.begin_s if self.rng.random() < 0.9 else 0, self.clean_s)
            kill = Kill(self.rng.choice(list(WITH_WORKERS)) if workers else ALONE, after_s)
        else:
            passings = self.passings[place.checkpoint.partition(":")[0]]
            name = self.rng.choice(sorted(passings))
            # A resumed run has less to do: from all passings of the clean run too few kills would come.
            most = passings[name] // (2 * max(1, workers))
            kill = Kill(name, times=self.rng.randint(1, max(1, most)))
        began = time.monotonic()
        ended = await run_once(self._arguments(workers), place, self.stop, kill)
        if not ended.killed and kill.after_s is not None:
            # The machine has become faster, or the run had little left to do.
            self.clean_s = max(self.begin_s, min(self.clean_s, time.monotonic() - began))
        return ended

    async def _run_to_the_end(self, place: Place, workers: int) -> dict[str, Any]:
        """The counts of its report, by sink; with workers those that do not hang on where chunks end."""
        ended = await run_once(self._arguments(workers), place, self.stop)
        names = ("read", "accepted", "rejected", "filtered", "records", "written", "merged", "dead")
        (source,) = json.loads(ended.output)["sources"]
        counts = {sink: {name: numbers.get(name) for name in names} for sink, numbers in source["sinks"].items()}
        if self.report.workers:
            for numbers in counts.values():
                numbers["written"] += numbers.pop("merged")
        return counts

    def _arguments(self, workers: int) -> list[str]:
        return [*self.arguments, *([f"--workers={workers}", f"--shard-mb={self.shard_mb}"] if workers else [])]

    # --- what it left -----------------------------------------------------------------------------

    def _judge(self, place: Place, sinks: dict[str, _Progress], began: float) -> None:
        """Read a run's journal: what it repeated of the runs before, and how far it got."""
        if self.report.workers:
            return
        journal = place.journal()
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

    def _judge_resume(self, one: Passing, known: _Progress) -> None:
        sink = next(sink for sink in sinks_of(self.urls, self.job.dataset) if sink.name == one.sink)
        rework, window = max(0, known.touched - one.start), known.window(sink)
        self.report.largest_rework = max(self.report.largest_rework, rework)
        self.report.window = max(self.report.window, window)
        if one.start < known.saved:
            self._complain(f"{one.sink} went on at row {one.start}, though row {known.saved} was checkpointed.")
        if rework > window:
            self._complain(f"{one.sink} repeated {rework} rows, where at most {window} were in flight.")

    def _require(self, counts: dict[str, Any]) -> None:
        """Those of the clean run."""
        self.counts = self.counts or counts
        if counts != self.counts:
            self._complain(f"the counts {counts} are not those of the clean run, {self.counts}.")

    async def _require_end_of_workers(self, place: Place) -> None:
        """They end with the run that started them, however that ended."""
        until = time.monotonic() + DRAIN_S + _ENDING_S
        while left := place.processes():
            if time.monotonic() > until:
                raise IngestError(f"Workers of a run that was killed do not end: the processes {left}.")
            await asyncio.sleep(0.1)

    async def compare(self, clean: Place, place: Place) -> None:
        """Record by record, for the users of the source; then the dead letters."""
        wanted, found = (sinks_of(one.urls, self.job.dataset) for one in (clean, place))
        async with opened(wanted), opened(found):
            partitions = iter(self.users)
            while (some := await asyncio.to_thread(next, partitions, None)) is not None:
                if self.stop.is_set():
                    raise Stopped.on_request(WHEN_STOPPED)
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


def _letters(place: Place) -> Counter[int]:
    found: Counter[int] = Counter()
    for path in (place.folder / "state").rglob(dead_letter.FILE_NAME):
        found.update(dead_letter.identity_of(letter) for letter in dead_letter.read(path))
    return found
