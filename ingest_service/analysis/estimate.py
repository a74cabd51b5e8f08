"""What a load would take, before it is begun: one parse of the whole source, and nothing is written.

Users and repeated keys are counted exactly, in little memory: what tells records apart is set aside by user on disk
(spill.py) as two 64-bit hashes each.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from ingest_service.analysis.reading import chunks_of, keys_of, sent
from ingest_service.analysis.sampling import Sample, sampled
from ingest_service.errors import IngestError, UsageError
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.run import EXAMINE_S, Silent, run, sinks_of
from ingest_service.rows.spill import Spill
from ingest_service.sinks.abilities import trial_of
from ingest_service.sinks.base import AnySink
from ingest_service.sinks.sizes import Found, Sized, Sizes, Tally

WHEN_STOPPED = "nothing was written"
MEASURED_ROWS = 200_000
_OF_STORE = "no estimate is made of what this kind of store takes"
_OF_ITEMS = "no estimate is made of what is known of items: a record each, beside the interactions"

Progress = Callable[..., None]


@dataclass(slots=True)
class Estimate:
    """Of one source. `sinks` has what each takes, by name, and why nothing is known of one.

    sample: where only parts of the source were read; `found` is then the most that it may hold. is_about_items: what it
    calls users are items.
    """

    source: str
    source_bytes: int | None
    found: Found
    is_about_items: bool
    sample: Sample | None = None
    sinks: dict[str, Sizes] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        named: dict[str, Any] = {"source": self.source, "source_bytes": self.source_bytes}
        if self.sample is not None:
            named["sample"] = {"places": self.sample.places, "percent": self.sample.percent}
        return named | self._counts() | {"sinks": self.sinks}

    def _counts(self) -> Sizes:
        counts = self._counts_of_users() if self.sample is None else self.sample.counts()
        if not self.is_about_items:
            return counts
        return {name.replace("users", "items"): n for name, n in counts.items() if "largest_user" not in name}

    def _counts_of_users(self) -> Sizes:
        found = self.found
        return {
            "rows_read": found.read,
            "rejected": found.rejected,
            "filtered": found.filtered,
            "records": found.records,
            "repeated_keys": found.repeated,
            "users": found.n_users,
            "records_of_largest_user": found.largest_user,
        }

    def lines(self) -> list[str]:
        """For a reader."""
        found = self.found
        size = "" if self.source_bytes is None else f", {self.source_bytes:,} bytes"
        sinks = [line for name, sizes in self.sinks.items() for line in _sink_lines(name, sizes)]
        if (sample := self.sample) is not None:
            of = f"read at {sample.places} places, {sample.percent} %: what follows are bounds, and no estimate"
            return [f"{self.source}{size}", f"  {of}", *_sized_lines(self._counts()), *sinks]
        filtered = f", {found.filtered:,} filtered" if found.filtered else ""
        refused = f"{found.rejected:,} refused{filtered}"
        whose = "items" if self.is_about_items else "users"
        largest = [] if self.is_about_items else [f"  the largest user has {found.largest_user:,}"]
        return [
            f"{self.source}{size}",
            f"  {found.read:,} rows: {found.records:,} records of {found.n_users:,} {whose}, {refused}",
            f"  {found.repeated:,} records have a key that comes again, and are replaced",
            *largest,
            *sinks,
        ]


def _sink_lines(name: str, sizes: Sizes) -> list[str]:
    return [f"{name}:", *_sized_lines(sizes)]


def _sized_lines(sizes: Sizes) -> list[str]:
    width = max(map(len, sizes), default=0)
    shown = {key: value if isinstance(value, str) else f"{value:,}" for key, value in sizes.items()}
    return [f"  {key.replace('_', ' '):<{width}}  {value}" for key, value in shown.items()]


async def estimate(
    job: Job,
    sinks: Sequence[AnySink],
    stop: asyncio.Event,
    progress: Progress,
    *,
    prices: Path | None = None,
    measure: Sequence[str] = (),
    sample: bool = False,
) -> Estimate:
    """measure: the URLs of the sinks where the rate is to be measured by a load into scratch places of theirs.

    sample: read only parts of the source, and tell bounds.
    """
    if not job.source.resumable:
        raise UsageError("Standard input cannot be read again once it is loaded; name a file.")
    about_items = job.dataset.schema.is_about_items
    sized = {sink.name: sink for sink in sinks if isinstance(sink, Sized)}
    tallies = {name: sink.tally(prices) for name, sink in sized.items()}
    if sample:
        looked = await asyncio.to_thread(sampled, job, tallies, lambda name: sized[name].tally(prices), stop, progress)
        made = Estimate(job.source.uri, job.source.size(), looked.most[0], about_items, looked)
    else:
        found = await asyncio.to_thread(_read, job, list(tallies.values()), stop, progress)
        made = Estimate(job.source.uri, job.source.size(), found, about_items)
    try:
        for number, sink in enumerate(sinks):
            if (tally := tallies.get(sink.name)) is None:
                made.sinks[sink.name] = {"unknown": _OF_ITEMS if about_items else _OF_STORE}
                continue
            limits = await _limits(sink, tally)
            rate, how = float(tally.rows_per_s), "typical, 2 cores"
            if measure:
                progress(step="measuring", sink=sink.name)
                rate, how = await _measured(job, sink, measure[number], stop), "measured"
            sizes = tally.sizes(made.found) if made.sample is None else made.sample.sizes(sink.name, tally)
            made.sinks[sink.name] = sizes | limits | _pace(made.found, sink, tally, rate, how)
    finally:
        for sink in sinks:
            await sink.close()
    return made


def _pace(found: Found, sink: AnySink, tally: Tally, rate: float, how: str) -> Sizes:
    """How long a load takes, and what that goes by."""
    if sink.options.rate is not None and sink.options.rate < rate:
        rate, how = sink.options.rate, "?rate="
    seconds = found.records / rate
    if (least_s := tally.least_s(found)) > seconds:
        seconds, how = least_s, "what the store takes"
    return {"rows_per_s": round(found.records / seconds) if seconds else 0, "rate": how, "load_s": round(seconds, 1)}


async def _limits(sink: AnySink, tally: Tally) -> Sizes:
    """What the server says, if it can be reached soon; what rows take does not depend on it."""
    sink.retrier.budget_s = min(sink.retrier.budget_s, EXAMINE_S)
    try:
        return await tally.ask()
    except IngestError as error:
        return {"limits": f"not known: {error}"}


def _read(job: Job, tallies: Sequence[Tally], stop: asyncio.Event, progress: Progress) -> Found:
    """The whole source. Blocks the caller."""
    read = rejected = filtered = records = 0
    size = job.source.size()
    with Spill(None) as spill:
        for chunk, position in chunks_of(job, stop, WHEN_STOPPED):
            read, rejected, records = read + chunk.read, rejected + chunk.rejected, records + chunk.accepted
            filtered += len(chunk.filtered)
            if chunk.accepted:
                rows = sent(chunk)
                for tally in tallies:
                    tally.add(rows)
                spill.add(keys_of(chunk.columns))
            percent = round(100 * position / size, 1) if size else None
            progress(step="reading", source=job.source.uri, percent=percent, rows_read=read)
        users: Counter[int] = Counter()
        for partition in spill:
            counted = partition.group_by("user_id").agg(pl.col("key").n_unique())["key"].value_counts()
            users.update(dict(counted.iter_rows()))
    kept = sum(rows * n for rows, n in users.items())
    return Found(read, rejected, filtered, records, records - kept, users)


async def _measured(job: Job, sink: AnySink, url: str, stop: asyncio.Event) -> float:
    """Rows a second of a load of the first rows into a scratch place, without the start."""
    with TemporaryDirectory(prefix="ingest-estimate-") as folder:
        async with trial_of(sink).scratch(url, Path(folder)) as place:
            limit = min(MEASURED_ROWS, job.limit or MEASURED_ROWS)
            first = replace(job, state_dir=Path(folder), checkpoint_dir=None, limit=limit, restart=False)
            (stream,) = (await run([first], sinks_of([place], job.dataset), stop, Silent())).streams
    return max(stream.rows_per_s, 1.0)
