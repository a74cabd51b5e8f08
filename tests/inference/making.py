"""How files for `infer` are made up."""

import io
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

N = 400
FIRST_S = 1_583_366_400
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """`roles`: by role the column's name, or #place, with its type, and a time's unit or format."""

    data: bytes
    roles: dict[str, tuple[str, ...]]
    name: str = "log.csv"
    keys: dict[str, Any] = field(default_factory=dict)  # of the schema file, or of its dialect
    kept: frozenset[str] = frozenset()
    said: tuple[str, ...] = ()  # what stands in the lines
    records: int = N
    is_sure: bool = True


def at(number: int) -> int:
    return FIRST_S + 61 * number


def moment(number: int) -> datetime:
    return datetime.fromtimestamp(at(number), UTC)


def rng_rows(make: Callable[[random.Random, int], Iterable[object]], n: int = N) -> list[list[str]]:
    rng = random.Random(7)
    return [[str(value) for value in make(rng, number)] for number in range(n)]


def text(delimiter: str, rows: list[list[str]], header: str = "") -> bytes:
    lines = [header] if header else []
    return "".join(f"{line}\n" for line in [*lines, *(delimiter.join(row) for row in rows)]).encode()


def lines(make: Callable[[random.Random, int], object], n: int = N) -> bytes:
    rng = random.Random(7)
    return "".join(json.dumps(make(rng, number)) + "\n" for number in range(n)).encode()


def movielens(rng: random.Random, number: int) -> list[object]:
    return [rng.randrange(1, 60), rng.randrange(1, 900), rng.choice([1, 2, 3, 4, 5]), at(number)]


def asin(rng: random.Random) -> str:
    return "B00" + "".join(rng.choices("ABCDEFGHIJ0123456789", k=7))


def reviewer(rng: random.Random) -> str:
    return "A" + "".join(rng.choices("ABCDEFGHIJ0123456789", k=13))


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def ms_parquet(**more: Any) -> pa.Table:
    rng = random.Random(7)
    return pa.table(
        {
            "customer_id": pa.array([rng.randrange(1, 90) for _ in range(N)], pa.int64()),
            "product_id": pa.array([rng.randrange(1, 900) for _ in range(N)], pa.int32()),
            "event_time": pa.array([moment(number).replace(tzinfo=None) for number in range(N)], pa.timestamp("us")),
            **more,
        }
    )
