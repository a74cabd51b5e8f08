"""How a divided load scales to more machines than there are here: a discrete-event model on what was measured.

    python -m benchmarks.simulate [--rows 1000000000] [--client-cpu-s 2.1] …

Workers take shards one after the other. A shard costs a claim (reads of checkpoints, one after the other), a start, and
its rows; while rows are sent, all workers share what the store can take. At the end one worker brings the shards
together. The defaults are figures of docs/PERFORMANCE.md; every one can be given.
"""

import argparse
import heapq
import sys
from dataclasses import dataclass

WORKERS = (1, 8, 64, 512)
SHARD_ROWS = 2_000_000  # of 64 MiB
MOST_SHARDS = 1_000


@dataclass(frozen=True)
class Store:
    """What takes the rows. `rows_per_s` of all of it; `latency_s` of one checkpoint that is read or saved."""

    name: str
    client_cpu_s: float  # a million rows, on a core of its own
    rows_per_s: float
    latency_s: float


@dataclass(frozen=True)
class Outcome:
    elapsed_s: float
    at_limit: float  # the share of the time in which the store was full


def simulate(store: Store, rows: int, n_workers: int, start_s: float, shard_s: float, together_s: float) -> Outcome:
    """Events are the ends of claims and of shards; between two of them every sender has the same share of the store."""
    n_shards = min(MOST_SHARDS, -(-rows // SHARD_ROWS))
    rows_each, alone = rows / n_shards, 1e6 / store.client_cpu_s
    waiting = [(start_s, worker) for worker in range(n_workers)]  # who will begin to send, and when
    heapq.heapify(waiting)
    sending: list[float] = []  # by how many rows a sender of that time will have been served when it is done
    left, now, served, full_s = n_shards, 0.0, 0.0, 0.0
    while waiting or sending:
        rate = min(alone, store.rows_per_s / len(sending)) if sending else 0.0
        ends_s = now + (sending[0] - served) / rate if sending else float("inf")
        next_s = min(ends_s, waiting[0][0] if waiting else float("inf"))
        served += rate * (next_s - now)
        full_s += (next_s - now) * (rate < alone and bool(sending))
        now = next_s
        if ends_s <= now:
            heapq.heappop(sending)
            # The next free one is found after the shards that others took meanwhile; each is looked at once.
            looks = 1 + min(n_workers, n_shards) / 8
            heapq.heappush(waiting, (now + shard_s + looks * store.latency_s, 0))
        elif left:
            heapq.heappop(waiting)
            heapq.heappush(sending, served + rows_each)
            left -= 1
        else:
            heapq.heappop(waiting)  # nothing is left for it
    return Outcome(now + n_shards * store.latency_s + together_s, full_s / now)


def table(options: argparse.Namespace) -> list[str]:
    stores = [
        Store(
            f"Redis Cluster, {options.masters} masters",
            options.client_cpu_s,
            options.masters * 1e6 / options.server_cpu_s,
            0.001,
        ),
        Store(
            f"DynamoDB, {options.wcu:,} units/s, {options.hottest:.1%} of the rows in the hottest partition",
            options.dynamodb_cpu_s,
            min(options.wcu, 1_000 / options.hottest),  # a partition takes 1,000 units a second; a row is one
            0.005,
        ),
    ]
    lines = ["| into | workers | minutes | times one | of what is possible |", "| --- | --- | --- | --- | --- |"]
    for store in stores:
        one = 0.0
        for n in WORKERS:
            found = simulate(store, options.rows, n, options.start_s, options.shard_s, options.together_s)
            one = one or found.elapsed_s
            possible = min(n * 1e6 / store.client_cpu_s, store.rows_per_s)
            why = f", the store is full {found.at_limit:.0%} of the time" if found.at_limit > 0.5 else ""
            lines.append(
                f"| {store.name} | {n} | {found.elapsed_s / 60:.1f} | {one / found.elapsed_s:.1f} | "
                f"{options.rows / found.elapsed_s / possible:.2f}{why} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_006_528_709)
    parser.add_argument("--client-cpu-s", type=float, default=2.1, help="Redis's client, a million rows")
    parser.add_argument("--server-cpu-s", type=float, default=1.3, help="one master of Redis, a million rows")
    parser.add_argument("--masters", type=int, default=16)
    parser.add_argument("--dynamodb-cpu-s", type=float, default=4.3, help="DynamoDB's client, a million rows")
    parser.add_argument("--wcu", type=int, default=40_000, help="write units a second of the table")
    parser.add_argument("--hottest", type=float, default=0.001, help="share of the rows in the hottest partition")
    parser.add_argument("--start-s", type=float, default=1.0, help="of a worker")
    parser.add_argument("--shard-s", type=float, default=0.1, help="what a shard costs beside its rows")
    parser.add_argument("--together-s", type=float, default=1.0, help="to bring the shards together")
    sys.stdout.write("\n".join(table(parser.parse_args())) + "\n")


if __name__ == "__main__":
    main()
