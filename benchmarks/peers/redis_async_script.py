"""The same on redis.asyncio, with a queue between the reader and 8 consumers."""

import asyncio

import redis.asyncio as redis

from benchmarks.peers.redis_script import PIPELINE_COMMANDS
from benchmarks.peers.rows import RECENT_TTL_S, Arguments, arguments, recent

CONSUMERS = 8
Rows = asyncio.Queue[tuple[str, str, int] | None]


async def consume(queue: Rows, client: redis.Redis) -> None:
    async with client.pipeline(transaction=False) as pipeline:
        while (row := await queue.get()) is not None:
            key, member, score = row
            pipeline.zadd(key, {member: score})
            pipeline.expire(key, RECENT_TTL_S)
            if len(pipeline) >= PIPELINE_COMMANDS:
                await pipeline.execute()
        await pipeline.execute()


async def main(args: Arguments) -> None:
    queue: Rows = asyncio.Queue(maxsize=10_000)
    async with redis.Redis.from_url(args.to) as client, asyncio.TaskGroup() as group:
        for _ in range(CONSUMERS):
            group.create_task(consume(queue, client))
        for row in recent(args.path, args.limit):
            await queue.put(row)
        for _ in range(CONSUMERS):
            await queue.put(None)


if __name__ == "__main__":
    asyncio.run(main(arguments()))
