"""What a source holds at most, by rows from places all over it: for sources of which a parse takes too long.

A sample cannot tell how many users there are: whom it has seen once may have come for the first time or the last. What
it bounds is how many more a further stretch of the source brings: on average no more than each of those looked at has
for itself alone (the first-order jackknife; stretches bring fewer users, the more have been seen). Every other count is
that of the stretches, and three standard errors more, by how much they differ.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest_service.analysis.reading import keys_of, sent
from ingest_service.errors import Stopped, UsageError
from ingest_service.formats.base import Reader
from ingest_service.formats.memory import MAX_RECORD_BYTES
from ingest_service.pipeline.job import Job
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.sinks.sizes import Found, Sizes, Tally

_PLACES: Final = 64
_FEWEST: Final = 16  # places, by which a spread can be told
_SPAN: Final = 1 << 18  # how far it is read from each, in the source's offsets: stretches of one length weigh the same
_ERRORS: Final = 3
_EXTREME_ROWS: Final = 65  # of a user whose table in Redis is nearly half empty: the most that a row can take

Tallies: TypeAlias = Mapping[str, Tally]
Numbers: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was looked at, and what it says of the source: `least` has what is surely there or nearly so.

    most: what may be there at most, with users in several ways of having so many records; sizes are those of the
    largest. spreads: by sink and name, what a record's share of a size differs by between stretches, as a fraction.
    """

    places: int
    percent: float
    least: Found
    most: Sequence[Found]
    spreads: Mapping[str, Mapping[str, float]]

    def counts(self) -> Sizes:
        most, least = self.most[0], self.least
        return {
            "rows_read_at_least": least.read,
            "rows_read_at_most": most.read,
            "rejected_at_most": most.rejected,
            "filtered_at_most": most.filtered,
            "records_at_least": least.records,
            "records_at_most": most.records,
            "users_at_least": least.n_users,
            "users_at_most": most.n_users,
            "records_of_largest_user_at_least": least.largest_user,
        }

    def sizes(self, sink: str, tally: Tally) -> Sizes:
        """What the source takes in the sink at most, by names that say so."""
        each = [tally.sizes(found) for found in self.most]
        found: Sizes = {}
        for name, value in each[0].items():
            if isinstance(value, str) or name in tally.means:
                found[name] = value
            elif not name.endswith("_of_largest_user"):  # may have nearly all, in places that were not looked at
                most = max(float(sizes[name]) for sizes in each) * (1 + self.spreads[sink].get(name, 0))
                most *= 1 + tally.within * name.endswith("_bytes")
                found[f"{name}_at_most"] = round(most, 4) if isinstance(value, float) else int(-(-most // 1))
        return found


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows from one place on: `length` is what they take of the source; hashes of users, and sizes a record."""

    length: int
    counts: tuple[int, int, int, int]  # read, rejected, filtered, records
    users: NDArray[np.uint64]
    sizes: Mapping[str, Mapping[str, float]]


def sampled(
    job: Job,
    tallies: Tallies,
    tally_again: Callable[[str], Tally],
    stop: asyncio.Event,
    progress: Callable[..., None],
) -> Sample:
    """Look at stretches of the source, adding their rows to the tallies. Blocks the caller.

    tally_again: an empty tally of a sink. UsageError for a source that cannot be looked at in places.
    """
    if job.dataset.bare is not None:
        raise UsageError("The features of this data set need all rows before; estimate it without --sample.")
    if job.limit is not None:
        raise UsageError("A sample is of the whole source; estimate it without --sample, or without a limit.")
    job = replace(job, block_bytes=2 * MAX_RECORD_BYTES)
    reader = job.open_reader()
    try:
        places, length = _places(reader, job), (reader.length or 0) - reader.first.offset
    finally:
        reader.close()
    stretches, end = [], 0
    for number, place in enumerate(places):
        if stop.is_set():
            raise Stopped.on_request("nothing was written")
        if place.offset < end:
            raise _too_short()
        chunk, end = _read(job, place)
        if chunk is not None:
            stretches.append(_stretch(chunk, end - place.offset, tallies, tally_again))
        progress(step="sampling", source=job.source.uri, percent=round(100 * (number + 1) / len(places), 1))
    if len(stretches) < _FEWEST:
        raise _too_short()
    return _told(stretches, length)


def _too_short() -> UsageError:
    return UsageError("The source is too short for a sample, or has too few places to read from; leave out --sample.")


def _places(reader: Reader[Any], job: Job) -> list[Position]:
    if not reader.is_divisible or reader.length is None:
        raise UsageError(
            f"{job.source.uri} can only be read from front to back, so no sample can be taken; leave out --sample."
        )
    step = (reader.length - reader.first.offset) / _PLACES
    # At even distances they could all meet one phase of what comes again and again; seeded, so that it is told again.
    within = np.random.default_rng(0).random(_PLACES) * max(step / 2, step - 2 * _SPAN)
    found = (reader.cut(reader.first.offset + int(number * step + within[number])) for number in range(_PLACES))
    places = {place.offset: place for place in found if place is not None}
    if len(places) < _FEWEST:
        raise _too_short()
    return [places[offset] for offset in sorted(places)]


def _read(job: Job, place: Position) -> tuple[Chunk | None, int]:
    """The rows from a place on, and where they end."""
    reader = job.open_reader()
    try:
        end = reader.cut(place.offset + _SPAN)
        reader.resume(place)
        if end is not None:
            reader.until(end)
        block = reader.next()
        return None if block is None else reader.chunk(block), reader.position.offset
    finally:
        reader.close()


def _stretch(chunk: Chunk, length: int, tallies: Tallies, tally_again: Callable[[str], Tally]) -> _Stretch:
    counts = (chunk.read, chunk.rejected, len(chunk.filtered), chunk.accepted)
    if not chunk.accepted:
        return _Stretch(length, counts, np.empty(0, np.uint64), {})
    rows, keys = sent(chunk), keys_of(chunk.columns)
    _, of_each = np.unique(keys["user_id"].to_numpy(), return_counts=True)
    found = _found(counts, _counted(of_each))
    sizes = {}
    for name, tally in tallies.items():
        tally.add(rows)
        alone = tally_again(name)
        alone.add(rows)
        numbers = {key: size for key, size in alone.sizes(found).items() if not isinstance(size, str)}
        sizes[name] = {key: size / chunk.accepted for key, size in numbers.items()}
    return _Stretch(length, counts, keys["user_id"].to_numpy(), sizes)


def _told(stretches: Sequence[_Stretch], length: int) -> Sample:
    lengths = np.array([one.length for one in stretches], np.float64)
    counts = np.array([one.counts for one in stretches], np.float64)
    densities = counts / lengths[:, None]
    rest = max(0.0, length - lengths.sum())
    total = counts.sum(axis=0)
    most = [int(n + rest * _at_most(density)) for n, density in zip(total, densities.T, strict=True)]
    least = [int(n + rest * max(0.0, -_at_most(-density))) for n, density in zip(total, densities.T, strict=True)]
    distinct, n_rows = np.unique(np.concatenate([one.users for one in stretches]), return_counts=True)
    new = _at_most(_alone([one.users for one in stretches]) / lengths)
    n_users = min(most[3], int(len(distinct) + rest * new))
    scale = most[3] / max(total[3], 1)
    return Sample(
        len(stretches),
        round(100 * lengths.sum() / length, 2),
        _found(least, _counted(n_rows)),
        [_found(most, users, scale) for users in _ways(most[3], n_users)],
        _spreads(stretches),
    )


def _counted(rows: NDArray[np.int64]) -> dict[int, int]:
    """How many users have so many rows each."""
    numbers, users = np.unique(rows, return_counts=True)
    return dict(zip(numbers.tolist(), users.tolist(), strict=True))


def _found(counts: Sequence[int], users: Mapping[int, int], scale: float = 1.0) -> Found:
    read, rejected, filtered, records = counts
    return Found(read, rejected, filtered, records, 0, users, scale)


def _at_most(densities: Numbers) -> float:
    """Their mean, and what it may be short of that of all."""
    return float(densities.mean() + _ERRORS * densities.std(ddof=1) / np.sqrt(len(densities)))


def _alone(users: Sequence[NDArray[np.uint64]]) -> Numbers:
    """How many users each stretch has that no other has."""
    own = [np.unique(each) for each in users]
    distinct, n_stretches = np.unique(np.concatenate(own), return_counts=True)
    single = distinct[n_stretches == 1]
    return np.array([np.isin(each, single, assume_unique=True).sum() for each in own], np.float64)


def _ways(records: int, users: int) -> list[dict[int, int]]:
    """So many records of so many users: all alike, or with one each and as many as take most room."""
    if not users:
        return [{}]
    each, more = divmod(records, users)
    ways = [{rows: n for rows, n in ((each, users - more), (each + 1, more)) if n}]
    large = (records - users) // (_EXTREME_ROWS - 1)
    if 0 < large < users:
        ways.append({1: users - large, _EXTREME_ROWS: large})
    return ways


def _spreads(stretches: Sequence[_Stretch]) -> dict[str, dict[str, float]]:
    """By sink and name, three standard errors of a record's share as a fraction of it."""
    told = [one.sizes for one in stretches if one.sizes]
    if len(told) < 2:
        return {}
    found: dict[str, dict[str, float]] = {}
    for sink, sizes in told[0].items():
        each = {name: np.array([one[sink][name] for one in told]) for name in sizes}
        found[sink] = {
            name: float(_at_most(shares) / shares.mean() - 1) if shares.mean() else 0.0 for name, shares in each.items()
        }
    return found
