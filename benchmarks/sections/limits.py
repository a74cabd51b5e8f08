"""What rates and throttles do: measured by what a DynamoDB that counts, and refuses, says it took."""

from typing import Any

from benchmarks import stores
from benchmarks.bench import Bench, ingest_service
from benchmarks.figures import Figure, Target, at_least, at_most
from benchmarks.measure import Side, Subject
from benchmarks.stores import Store

RATE = 2_000  # rows or units a second: 16 seconds a run
ROWS = 16 * RATE
WINDOW = 100  # tenths of a second
PARTITIONS, PARTITION_RATE = 4, 1_000


def figures(bench: Bench) -> list[Figure]:
    return [
        _limited(bench, "?rate=", f"&rate={RATE}"),
        _limited(bench, "?wcu=", f"&wcu={RATE}"),
        _throttled(bench),
        _refused(bench),
        _partitions(bench),
    ]


def _limited(bench: Bench, name: str, option: str) -> Figure:
    with stores.null_dynamodb("limited_dynamodb") as store:
        side = _run(bench, f"{name}{RATE}", store, option)
        units = {int(slot): count for slot, count in stores.said(store.port)["units"].items()}
    first, last = min(units) + 5, max(units) - 5  # without the ends of the run
    taken = [sum(units.get(slot + i, 0) for i in range(WINDOW)) for slot in range(first, last - WINDOW)]
    allowed = RATE * WINDOW / 10
    return _figure(
        side,
        at_most("most in 10 s, of what is allowed", max(taken) / allowed, 1.05),
        at_least("least in 10 s", min(taken) / allowed, 0.95),
    )


def _throttled(bench: Bench) -> Figure:
    """A table with less capacity than the client would like to use."""
    with stores.null_dynamodb("limited_dynamodb", "--capacity", str(RATE)) as store:
        side = _run(bench, f"a table of {RATE:,} units a second", store)
        said = stores.said(store.port)
    return _figure(
        side,
        at_least("goodput, of its capacity", _units_per_s(said) / RATE, 0.9),
        at_most("items sent again, of all", said["refused"] / ROWS, 1),
    )


def _refused(bench: Bench) -> Figure:
    """A table that refuses three items of ten, whatever their number."""
    share = 0.3
    with stores.null_dynamodb("limited_dynamodb", "--refuse", str(share)) as store:
        side = _run(bench, "30 % of the items throttled", store, f"&rate={RATE}")
        said = stores.said(store.port)
    return _figure(
        side,
        at_least("goodput, of the allowed rate", _units_per_s(said) / RATE, 0.9),
        at_most("retries, of the fewest possible", said["refused"] / (ROWS * share / (1 - share)), 1.5),
    )


def _units_per_s(said: dict[str, Any]) -> float:
    tenths = [int(slot) for slot in said["units"]]
    return float(sum(said["units"].values()) / (max(tenths) - min(tenths) + 1) * 10)


def _partitions(bench: Bench) -> Figure:
    """A file sorted by user, a few busy ones, beside the same sorted by time; each partition has a limit."""
    sides = []
    for order in ("user", "time"):
        file = bench.file(f"{order}-busy.csv", rows=ROWS, order=order, users=16)
        limits = ["--partitions", str(PARTITIONS), "--capacity", str(PARTITION_RATE)]
        with stores.null_dynamodb("limited_dynamodb", *limits) as store:
            sides.append(_run(bench, f"16 users, sorted by {order}", store, file=str(file)))
    by_user, by_time = sides
    return Figure("limits", by_user, by_time, (at_least("ratio", by_user.speed_beside(by_time), 0.9),))


def _run(bench: Bench, name: str, store: Store, option: str = "", file: str = "") -> Side:
    bench.say(f"measuring limits: {name}")
    file = file or str(bench.file(rows=ROWS))
    state = str(bench.work / "state")
    command = [*ingest_service(), "run", file, "--to", store.url + option, "--json", "--restart", "--state-dir", state]
    subject = Subject(name, command, ROWS)
    return Side(name, ROWS, command, [subject.run()])


def _figure(side: Side, *targets: Target) -> Figure:
    return Figure("limits", side, side, targets)
