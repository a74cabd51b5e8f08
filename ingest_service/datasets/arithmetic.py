"""Arithmetic on columns of numbers as Python has it, and which rows have a result.

A row has none where a number is divided by zero, a whole number leaves 64 bits or a float is no longer finite, and
whatever is made of it has none either. Whole numbers are int64 and others float64; each may be one number for all rows.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ingest_service.rows.arrays import Bools

Has: TypeAlias = Bools | None  # which rows have a result; None: all
Operation: TypeAlias = Callable[[Any, Any], tuple[Any, Has]]

_LEAST = -(1 << 63)


def both(one: Has, other: Has) -> Has:
    """Which rows have both results."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _finite(operation: Callable[[Any, Any], Any]) -> Operation:
    """On floats, and on whole numbers as floats."""

    def done(a: Any, b: Any) -> tuple[Any, Has]:
        found = operation(np.float64(a), np.float64(b))
        return found, np.isfinite(found)

    return done


def _sum(a: Any, b: Any) -> tuple[Any, Has]:
    found = a + b
    return found, ((a ^ found) & (b ^ found)) >= 0  # a sum has the sign of one of its numbers


def _difference(a: Any, b: Any) -> tuple[Any, Has]:
    found = a - b
    return found, ((a ^ b) & (a ^ found)) >= 0


def _product(a: Any, b: Any) -> tuple[Any, Has]:
    found = a * b
    if _largest(a) * _largest(b) < 1 << 63:
        return found, None
    divides_back = found // np.where(b == 0, 1, b) == a
    return found, (b == 0) | (divides_back & ((a != _LEAST) | (b != -1)))


def _largest(a: Any) -> int:
    return max(-int(np.min(a, initial=0)), int(np.max(a, initial=0)))


def _quotient(a: Any, b: Any) -> tuple[Any, Has]:
    return a // b, (b != 0) & ((a != _LEAST) | (b != -1))


def _remainder(a: Any, b: Any) -> tuple[Any, Has]:
    return a % b, b != 0


def negated(a: Any) -> tuple[Any, Has]:
    return (-a, a != _LEAST) if _is_whole(a) else (-a, None)


def magnitude(a: Any) -> tuple[Any, Has]:
    return (abs(a), a != _LEAST) if _is_whole(a) else (abs(a), None)


def rounded(a: Any) -> tuple[Any, Has]:
    """To the nearest whole number, of two to the even one."""
    if _is_whole(a):
        return a, None
    nearest = np.rint(a)
    return nearest.astype(np.int64), (nearest >= _LEAST) & (nearest < -_LEAST)


def _is_whole(a: Any) -> bool:
    return np.asarray(a).dtype == np.int64


REALS: Mapping[str, Operation] = {
    "+": _finite(np.add),
    "-": _finite(np.subtract),
    "*": _finite(np.multiply),
    "/": _finite(np.true_divide),
    "//": _finite(np.floor_divide),
    "%": _finite(np.remainder),
}
WHOLES: Mapping[str, Operation] = {
    "+": _sum,
    "-": _difference,
    "*": _product,
    "/": REALS["/"],
    "//": _quotient,
    "%": _remainder,
}
