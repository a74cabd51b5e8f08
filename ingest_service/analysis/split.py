"""Which part of a split each record belongs to: training, validation or test, told by a field.

The last records of each user are known at the end only, so the sources are read twice: once for users, times and keys,
set aside by user on disk (spill.py), and once by the load. In between, the keys that are not for training lie sorted in
a file, which each chunk is looked up in. The rules are those of RecBole (recbole/data/dataset/dataset.py), in order of
time, and of records with one time in the order of the source.
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ingest_service.analysis.reading import chunks_of, keys_of
from ingest_service.datasets.base import Dataset
from ingest_service.errors import UsageError
from ingest_service.pipeline.job import Job
from ingest_service.rows.arrays import Ints
from ingest_service.rows.columns import Columns
from ingest_service.rows.schema import Field, FieldKind
from ingest_service.rows.spill import Spill
from ingest_service.rows.texts import Texts

PARTS = ("train", "valid", "test")
WHEN_STOPPED = "nothing was written"
_BUCKET_BITS = 8
_BLOCK_ROWS = 1 << 20
_ROW_BYTES = 16  # in a source, about, or less
_RECORD = np.dtype([("key", np.uint64), ("part", np.uint8)])

Hashes = NDArray[np.uint64]


class Rule(Protocol):
    """The part of each of a user's records by its place among them, from the first on, and how many he has."""

    @property
    def name(self) -> str: ...

    def parts(self, places: Ints, totals: Ints) -> Ints: ...


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """The last one for test, the one before for validation, as far as one is left for training."""

    name: str = "leave-one-out"

    def parts(self, places: Ints, totals: Ints) -> Ints:
        from_end = totals - 1 - places
        found = np.zeros(len(places), np.int64)
        found[(from_end == 0) & (totals >= 2)] = 2
        found[(from_end == 1) & (totals >= 3)] = 1
        return found


@dataclass(frozen=True, slots=True)
class Ratios:
    """Of each user's records the first so many parts of all for training, then for validation, then for test."""

    name: str
    ratios: tuple[float, float, float]

    def parts(self, places: Ints, totals: Ints) -> Ints:
        distinct, inverse = np.unique(totals, return_inverse=True)
        counts = np.array([self._counts(int(total)) for total in distinct], np.int64).reshape(-1, 3)
        ends = np.cumsum(counts, axis=1)[inverse]
        return (places >= ends[:, 0]).astype(np.int64) + (places >= ends[:, 1])

    def _counts(self, total: int) -> list[int]:
        """Rounded down but for training; a part that would be empty is given one while training has others."""
        counts = [int(ratio * total) for ratio in self.ratios]
        counts[0] = total - sum(counts[1:])
        for part in (2, 1):
            if counts[0] <= 1:
                break
            if 0 < self.ratios[part] * total < 1:
                counts[part] += 1
                counts[0] -= 1
        return counts


def rule_of(text: str) -> Rule:
    """What --by says."""
    if text == "leave-one-out":
        return LeaveOneOut()
    try:
        given = [float(one) for one in text.split(",")]
    except ValueError:
        given = []
    if len(given) != len(PARTS) or min(given) < 0 or given[0] <= 0 or not np.isfinite(given).all():
        raise UsageError(f"--by {text!r} is neither leave-one-out nor three ratios, as 0.8,0.1,0.1.")
    total = sum(given)
    return Ratios(text, (given[0] / total, given[1] / total, given[2] / total))


@dataclass(frozen=True, slots=True)
class Table:
    """The keys that are not for training, ascending, and their parts; from files, so they take no memory for good."""

    keys: Hashes
    parts: NDArray[np.uint8]

    @property
    def digest(self) -> str:
        found = blake2b(digest_size=8)
        for first in range(0, len(self.keys), _BLOCK_ROWS):
            found.update(self.keys[first : first + _BLOCK_ROWS].tobytes())
            found.update(self.parts[first : first + _BLOCK_ROWS].tobytes())
        return found.hexdigest()

    def parts_of(self, keys: Hashes) -> Ints:
        """0, 1 or 2 for each."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.parts[places], 0).astype(np.int64)


async def split_jobs(
    jobs: Sequence[Job], rule: Rule, field: str, folder: Path, stop: asyncio.Event, progress: Callable[..., None]
) -> list[Job]:
    """The same jobs, whose records have the field `field`. What is needed meanwhile is kept in `folder`."""
    if not all(job.source.resumable for job in jobs):
        raise UsageError("Standard input cannot be read a second time; name a file.")
    if not jobs:
        return []
    table = await asyncio.to_thread(_table, jobs, rule, folder, stop, progress)
    return [replace(job, dataset=_told(job.dataset, rule, field, table)) for job in jobs]


def _table(jobs: Sequence[Job], rule: Rule, folder: Path, stop: asyncio.Event, progress: Callable[..., None]) -> Table:
    n_rows, sizes_known = 0, [job.source.size() for job in jobs]
    about = None if None in sizes_known else sum(filter(None, sizes_known)) // _ROW_BYTES
    with Spill(about) as spill, tempfile.TemporaryFile(dir=folder) as unsorted:
        for job in jobs:
            for chunk, _ in chunks_of(job, stop, WHEN_STOPPED):
                spill.add(keys_of(chunk.columns).with_columns(pl.Series("time", chunk.columns.times)))
                n_rows += chunk.accepted
                progress(step="splitting", rows_read=n_rows)
        sizes = np.zeros(1 << _BUCKET_BITS, np.int64)
        for frame in spill:
            found = _held_out(frame, rule)
            sizes += np.bincount(_bucket(found["key"]), minlength=len(sizes))
            unsorted.write(found.tobytes())
        unsorted.seek(0)
        return _sorted(lambda: unsorted.read(_BLOCK_ROWS * _RECORD.itemsize), sizes, folder)


def _held_out(frame: pl.DataFrame, rule: Rule) -> NDArray[np.void]:
    """The records of some users that are not for training: a key that comes again counts once, where it stood last."""
    stored = frame.unique(["user_id", "key"], keep="last", maintain_order=True)
    rows = stored.sort("user_id", "time", maintain_order=True)
    users, keys = rows["user_id"].to_numpy(), rows["key"].to_numpy()
    starts = np.flatnonzero(np.append(True, users[1:] != users[:-1]))
    totals = np.diff(starts, append=len(users))
    places = np.arange(len(users)) - np.repeat(starts, totals)
    parts = rule.parts(places, np.repeat(totals, totals))
    held = np.flatnonzero(parts)
    found = np.empty(len(held), _RECORD)
    found["key"], found["part"] = keys[held], parts[held]
    return found


def _bucket(keys: Hashes) -> Ints:
    return (keys >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)


def _sorted(read: Callable[[], bytes], sizes: Ints, folder: Path) -> Table:
    """By key, in files: each record to its bucket, then each bucket for itself."""
    n = int(sizes.sum())
    if not n:
        return Table(np.empty(0, np.uint64), np.empty(0, np.uint8))
    keys = np.memmap(folder / "keys", np.uint64, "w+", shape=(n,))
    parts = np.memmap(folder / "parts", np.uint8, "w+", shape=(n,))
    ends = np.cumsum(sizes)
    free = ends - sizes
    while data := read():
        records = np.frombuffer(data, _RECORD)
        records = records[np.argsort(records["key"], kind="stable")]
        counts = np.bincount(_bucket(records["key"]), minlength=len(sizes))
        firsts = np.cumsum(counts) - counts
        places = np.arange(len(records)) + np.repeat(free - firsts, counts)
        keys[places], parts[places] = records["key"], records["part"]
        free += counts
    for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
        order = np.argsort(keys[start:end], kind="stable")
        keys[start:end], parts[start:end] = keys[start:end][order], parts[start:end][order]
    return Table(keys, parts)


def _told(dataset: Dataset, rule: Rule, field: str, table: Table) -> Dataset:
    """The data set, whose records say their part. Its steps name the split: a run with another one is refused."""
    if dataset.schema.is_about_items:
        raise UsageError("What is known of items is not split by users; name a data set of interactions.")
    if field in {one.name for one in dataset.schema.fields}:
        raise UsageError(f"The records have a field {field!r} already; name another with --field.")
    schema = dataset.schema.extended(dataset.schema.name, Field(field, FieldKind.WORD))
    texts = Texts.of(PARTS)

    def told(columns: Columns) -> Columns:
        parts = texts.take(table.parts_of(columns.identity_hashes()))
        return replace(columns, schema=schema, texts={**columns.texts, field: parts})

    def chosen(values: Mapping[str, Any], of: Any) -> Any:
        columns, wanted = of(values)
        return told(columns), wanted

    return replace(
        dataset,
        schema=schema,
        records=lambda values: told(dataset.records(values)),
        chosen=partial(chosen, of=dataset.chosen) if dataset.chosen else None,
        steps="; ".join(filter(None, (dataset.steps, f"split {rule.name} into {field}, {table.digest}"))),
    )
