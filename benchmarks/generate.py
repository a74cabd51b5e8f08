"""Writes interaction files for the benchmarks: same arguments, same bytes, in bounded memory at any size.

    python -m benchmarks.generate pairs.csv --rows 1000000
    python -m benchmarks.generate - --rows 100000000 --format ms | ingest-service run - …

A name that ends in .gz or .zst is compressed. No (user, item, timestamp) occurs twice: a clean file has as
many records as rows.
"""

import argparse
import contextlib
import gzip
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import numpy as np
import polars as pl
from backports import zstd

USERS: Final = 50_000
ITEMS: Final = 19_220
FIRST_S: Final = 1_583_366_400  # 2020-03-05, the first day of MicroLens
SPAN_S: Final = 920 * 86_400  # longer only when there are more rows than seconds
BLOCK_ROWS: Final = 1 << 18


@dataclass(frozen=True)
class Format:
    header: str
    timestamp: pl.Expr
    newline: str = "\n"
    quote: str = ""
    ids: str = "{}"  # how a user or an item is written


_SECONDS = pl.from_epoch("second")
FORMATS: Final = {
    "iso": Format("userID,videoID,timestamp", _SECONDS.dt.strftime("%Y-%m-%dT%H:%M:%S")),
    "iso-z": Format("userID,videoID,timestamp", _SECONDS.dt.strftime("%Y-%m-%dT%H:%M:%SZ")),
    "ms": Format("user,item,timestamp", (pl.col("second") * 1000 + pl.col("ms")).cast(pl.String), "\r\n"),
    "s": Format("user,item,timestamp", pl.col("second").cast(pl.String)),
    "text-ids": Format("user,item,timestamp", pl.col("second").cast(pl.String), ids="AF{}KQ7ZL2XNRD"),
    "quoted": Format("userID,videoID,timestamp", _SECONDS.dt.strftime("%Y-%m-%dT%H:%M:%S"), quote='"'),
}
_BAD_LINES: Final = (  # one of each in turn: arity, not a number, not a time, empty id
    pl.format("{},{}", "user", "item"),
    pl.format("u{},{},{}", "user", "item", "time"),
    pl.format("{},{},2021-02-30 25:61", "user", "item"),
    pl.format(",{},{}", "item", "time"),
)


@dataclass(frozen=True)
class Spec:
    """What to generate; `bad` is the share of rows that must be rejected, one in every `1 / bad`, or 0."""

    rows: int
    format: str = "iso"
    order: str = "time"
    bad: float = 0.0
    users: int = USERS
    seed: int = 1


def blocks(spec: Spec) -> Iterator[bytes]:
    """The file, header first, as pieces of at most BLOCK_ROWS rows."""
    form = FORMATS[spec.format]
    identity, time = (f"{form.quote}{value}{form.quote}" for value in (form.ids, "{}"))
    good_line = pl.format(f"{identity},{identity},{time}", "user", "item", "time")
    header = ",".join(f"{form.quote}{name}{form.quote}" for name in form.header.split(","))
    yield f"{header}{form.newline}".encode()
    counts = np.random.default_rng(spec.seed).multinomial(spec.rows, np.full(spec.users, 1 / spec.users))
    ends = np.cumsum(counts)
    for number, first in enumerate(range(0, spec.rows, BLOCK_ROWS)):
        rng = np.random.default_rng([spec.seed, number])
        row = np.arange(first, min(first + BLOCK_ROWS, spec.rows))
        if spec.order == "user":
            user = np.searchsorted(ends, row, side="right")
            place, step = row - (ends - counts)[user], np.maximum(SPAN_S // counts[user], 1)
        else:
            user = rng.integers(0, spec.users, row.size)
            place, step = row, np.full(row.size, max(SPAN_S // spec.rows, 1))
        frame = pl.DataFrame(
            {
                "row": row,
                "user": user + 1,
                "item": rng.integers(1, ITEMS + 1, row.size),
                "second": FIRST_S + place * step + rng.integers(0, step),
                "ms": rng.integers(0, 1000, row.size),
            }
        ).with_columns(time=form.timestamp)
        line = _spoilt(good_line, every=round(1 / spec.bad)) if spec.bad else good_line
        text = frame.select(line.str.join(form.newline)).item()
        yield f"{text}{form.newline}".encode()


def _spoilt(good_line: pl.Expr, every: int) -> pl.Expr:
    line = good_line
    for kind, bad_line in enumerate(_BAD_LINES):
        is_bad = (pl.col("row") % every == every - 1) & (pl.col("row") // every % len(_BAD_LINES) == kind)
        line = pl.when(is_bad).then(bad_line).otherwise(line)
    return line


def _open(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if path == "-":
        return contextlib.nullcontext(sys.stdout.buffer)
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "wb", compresslevel=6))
    if path.endswith(".zst"):
        return cast(BinaryIO, zstd.open(path, "wb"))
    return open(path, "wb")  # noqa: PTH123 - beside its two siblings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__.split("\n")[0])
    parser.add_argument("path", help="the file to write, or - for standard output")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--format", choices=FORMATS, default="iso")
    parser.add_argument("--order", choices=("time", "user"), default="time")
    parser.add_argument("--bad", type=float, default=0.0, help="share of bad rows, 0 to 1")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    with contextlib.suppress(BrokenPipeError), _open(options.pop("path")) as file:
        for block in blocks(Spec(**options)):
            file.write(block)


if __name__ == "__main__":
    main()
