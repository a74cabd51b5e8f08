"""The service: 200 files with its API polled beside, and what a run loses by not being a command of its own."""

import random
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import CommandFailedError, Run, Side
from benchmarks.service import Pollers, serving

FILES: Final = {200: 100, 2_000: 60, 20_000: 30, 80_000: 10}  # of so many rows so many
RUNS_AT_ONCE: Final = 4
CLIENTS: Final = 50
POLL_EVERY_S: Final = 1.0


def figures(bench: Bench) -> list[Figure]:
    return [_throughput(bench), _load(bench), _reading_back(bench), *small_files(bench)]


def small_files(bench: Bench) -> list[Figure]:
    """A thousand files of a hundred rows, two at once: what a run costs beside its rows."""
    folder = bench.work / "serve-small"
    folder.mkdir()
    n_files, rows_each = 1_000, 100
    sources = list(_cut(bench.file(rows=n_files * rows_each), folder, [rows_each] * n_files))
    bench.redis.clear()
    with serving(folder, bench.redis.url, runs_at_once=2) as service:
        bench.say(f"measuring {n_files} files of {rows_each} rows, 2 at once")
        began = time.monotonic()
        runs = [service.submit(source) for source in sources]
        service.idle()
        run = Run(time.monotonic() - began, 0.0, service.rss_mb)
        for submitted in runs:
            _check(service.ended(submitted))
    side = Side(f"{n_files:,} files of {rows_each} rows", n_files * rows_each, ("ingest-service", "serve"), [run])
    lost = at_most("rows lost", n_files * rows_each - bench.redis.count(), 0)
    return [Figure("serve", side, side, (lost, at_most("seconds", run.wall_s, 100)))]


def _throughput(bench: Bench) -> Figure:
    """The same file by the command and by the service, in turns."""
    folder = bench.work / "serve-one"
    folder.mkdir()
    file = bench.file()
    (folder / file.name).hardlink_to(file)
    command = bench.ours(file, bench.redis)
    ours = Side("a run of the service", bench.rows, ("ingest-service", "serve"))
    theirs = Side(command.name, bench.rows, command.command)
    with serving(folder, bench.redis.url, runs_at_once=1) as service:
        bench.say(f"measuring {bench.pairs} times each: a run of the service, the command")
        for _ in range(bench.pairs):
            bench.redis.clear()
            ended = service.ended(service.submit(folder / file.name, restart=True))
            _check(ended)
            ours.runs.append(Run(_seconds(ended), 0.0, 0.0))
            theirs.runs.append(command.run())
    return Figure("serve", ours, theirs, (at_least("ratio", ours.speed_beside(theirs), 0.95),))


def _load(bench: Bench) -> Figure:
    """Nothing may get lost, and who looks at the runs meanwhile must not have to wait."""
    folder = bench.work / "serve-many"
    folder.mkdir()
    total = sum(rows * files for rows, files in FILES.items())
    sizes = [rows for rows, files in FILES.items() for _ in range(files)]
    random.Random(1).shuffle(sizes)
    sources = list(_cut(bench.file(rows=total), folder, sizes))
    bench.redis.clear()
    with serving(folder, bench.redis.url, runs_at_once=RUNS_AT_ONCE) as service:
        pollers = Pollers(service.url, CLIENTS, POLL_EVERY_S)
        bench.say(f"measuring {len(sources)} files, {RUNS_AT_ONCE} at once, beside {CLIENTS} clients")
        began = time.monotonic()
        with pollers.polling():
            runs = [service.submit(source) for source in sources]
            service.idle()
        run = Run(time.monotonic() - began, 0.0, service.rss_mb)
        for submitted in runs:
            _check(service.ended(submitted))
    side = Side(f"{len(runs)} files, {RUNS_AT_ONCE} at once", total, ("ingest-service", "serve"), [run])
    targets = (
        at_most("rows lost", total - bench.redis.count(), 0),
        at_most("requests failed", pollers.failures, 0),
        at_most(f"p99 in ms of {len(pollers.latencies_s):,} GET /v1/runs", pollers.p99_ms, 100),
    )
    return Figure("serve", side, side, targets)


def _reading_back(bench: Bench) -> Figure:
    """What users did lately, asked for by clients while a file is loaded."""
    folder = bench.work / "serve-users"
    folder.mkdir()
    file = bench.file()
    (folder / file.name).hardlink_to(file)
    bench.redis.clear()
    with serving(folder, bench.redis.url, runs_at_once=1) as service:
        users = (f"/v1/users/{random.randrange(1, 50_000)}/recent?limit=20" for _ in repeat(None))
        pollers = Pollers(service.url, CLIENTS, POLL_EVERY_S / 2, users)
        bench.say(f"measuring {CLIENTS} clients that ask for users beside a load")
        began = time.monotonic()
        with pollers.polling():
            _check(service.ended(service.submit(folder / file.name)))
        run = Run(time.monotonic() - began, 0.0, service.rss_mb)
    side = Side("a load, and clients that ask", bench.rows, ("ingest-service", "serve"), [run])
    targets = (
        at_most("requests failed", pollers.failures, 0),
        at_most(f"p99 in ms of {len(pollers.latencies_s):,} GET /v1/users/ID/recent", pollers.p99_ms, 20),
    )
    return Figure("serve", side, side, targets)


def _cut(file: Path, folder: Path, sizes: Sequence[int]) -> Iterator[Path]:
    """The rows of one file as many, of so many rows each."""
    with file.open("rb") as source:
        header = source.readline()
        for number, rows in enumerate(sizes):
            path = folder / f"{number}.csv"
            with path.open("wb") as target:
                target.write(header)
                target.writelines(islice(source, rows))
            yield path


def _check(run: dict[str, Any]) -> None:
    """It is done, and its report adds up."""
    if run["state"] != "done":
        raise CommandFailedError(f"run {run['id']} is {run['state']}: {run['reason']}")
    for source in run["report"]["sources"]:
        for counts in source["sinks"].values():
            if counts["read"] != counts["accepted"] + counts["rejected"]:
                raise CommandFailedError(f"run {run['id']} does not add up: {counts}")


def _seconds(run: dict[str, Any]) -> float:
    return (datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])).total_seconds()
