"""Two sinks at once, beside the slower of the two alone."""

from dataclasses import replace

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least


def figures(bench: Bench) -> list[Figure]:
    file = bench.file()
    redis = bench.ours(file, bench.redis, name="Redis alone")
    dynamodb = bench.ours(file, bench.dynamodb, name="null DynamoDB alone")

    def clear() -> None:
        redis.before()
        bench.dynamodb.clear()

    def check() -> None:
        redis.after()
        dynamodb.after()

    command = [*redis.command, "--to", bench.dynamodb.url]
    both = replace(redis, name="Redis and null DynamoDB", command=command, before=clear, after=check)
    sides = bench.compare(both, redis, dynamodb)
    slower = min(sides[1:], key=lambda side: side.rows_per_s)
    return [Figure("both", sides[0], slower, (at_least("ratio", sides[0].speed_beside(slower), 0.9),))]
