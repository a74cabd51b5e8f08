"""What a section returns: lines of the table, and the targets that they meet or miss."""

from dataclasses import dataclass

from benchmarks.measure import Side


@dataclass(frozen=True)
class Target:
    what: str
    value: float
    relation: str
    bound: float
    is_met: bool

    def __str__(self) -> str:
        verdict = "ok" if self.is_met else "MISSED"
        return f"{self.what} {number(self.value)} ({self.relation} {number(self.bound)} {verdict})"


def at_least(what: str, value: float, bound: float) -> Target:
    return Target(what, value, ">=", bound, value >= bound)


def at_most(what: str, value: float, bound: float) -> Target:
    return Target(what, value, "<=", bound, value <= bound)


@dataclass(frozen=True)
class Figure:
    """One line of the table: a side beside another, which may be the same program in another setting."""

    section: str
    side: Side
    other: Side
    targets: tuple[Target, ...] = ()
    by_row: bool = True  # else rates and costs by row mean nothing


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
