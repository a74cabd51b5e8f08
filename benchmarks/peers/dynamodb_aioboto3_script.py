"""The same on aioboto3, with a queue between the reader and 8 consumers."""

import asyncio
from typing import Any

import aioboto3  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.peers.rows import Arguments, arguments, dynamodb_table, records

CONSUMERS = 8
Records = asyncio.Queue[dict[str, str] | None]


async def consume(queue: Records, table: Any) -> None:
    async with table.batch_writer() as batch:
        while (record := await queue.get()) is not None:
            await batch.put_item(Item=record)


async def main(args: Arguments) -> None:
    name, where = dynamodb_table(args.to)
    queue: Records = asyncio.Queue(maxsize=10_000)
    async with aioboto3.Session().resource("dynamodb", **where) as dynamodb, asyncio.TaskGroup() as group:
        table = await dynamodb.Table(name)
        for _ in range(CONSUMERS):
            group.create_task(consume(queue, table))
        for record in records(args.path, args.limit):
            await queue.put(record)
        for _ in range(CONSUMERS):
            await queue.put(None)


if __name__ == "__main__":
    asyncio.run(main(arguments()))
