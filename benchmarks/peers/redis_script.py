"""The script that a user would write for Redis: csv, and a redis-py pipeline of 1,000 commands."""

import redis

from benchmarks.peers.rows import RECENT_TTL_S, Arguments, arguments, recent

PIPELINE_COMMANDS = 1_000


def main(args: Arguments) -> None:
    with redis.Redis.from_url(args.to) as client, client.pipeline(transaction=False) as pipeline:
        for key, member, score in recent(args.path, args.limit):
            pipeline.zadd(key, {member: score})
            pipeline.expire(key, RECENT_TTL_S)
            if len(pipeline) >= PIPELINE_COMMANDS:
                pipeline.execute()
        pipeline.execute()


if __name__ == "__main__":
    main(arguments())
