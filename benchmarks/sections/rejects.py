"""What bad rows cost, beside a clean file."""

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measure import Subject


def figures(bench: Bench) -> list[Figure]:
    clean, few, all_bad = bench.compare(_subject(bench, 0), _subject(bench, 0.01), _subject(bench, 1))
    return [
        Figure("rejects", few, clean, (at_least("ratio", few.speed_beside(clean), 0.8),)),
        Figure(
            "rejects",
            all_bad,
            clean,
            (
                at_least("rows/s", all_bad.rows_per_s, 50_000),
                at_most("peak MB", all_bad.peak_mb, 350),
            ),
        ),
    ]


def _subject(bench: Bench, bad: float) -> Subject:
    file = bench.file(bad=bad) if bad else bench.file()
    good = bench.rows - (bench.rows // round(1 / bad) if bad else 0)
    return bench.ours(file, bench.redis, name=f"{bad:.0%} bad rows", records=good)
