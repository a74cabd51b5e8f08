"""The bounded queue: nothing lost, nothing more than its capacity, and an end that everybody sees."""

import asyncio

import pytest

from ingest_service.runtime.queues import BoundedQueue, Closed


async def turns(n: int = 20) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_it_needs_room() -> None:
    """A queue without room would never pass anything on."""
    with pytest.raises(ValueError, match="capacity"):
        BoundedQueue[int](0)


async def test_items_come_out_in_order_and_never_more_than_fit_wait() -> None:
    """A producer waits for room; every item comes out once, in order."""
    queue = BoundedQueue[int](3)
    deepest = 0

    async def produce() -> None:
        nonlocal deepest
        for item in range(50):
            await queue.put(item)
            deepest = max(deepest, len(queue))
        await queue.close()

    producing = asyncio.create_task(produce())
    await turns()
    assert len(queue) == 3
    found = []
    with pytest.raises(Closed):
        while True:
            found.append(await queue.get())
    await producing
    assert found == list(range(50))
    assert deepest == 3


async def test_closing_ends_every_waiting_consumer() -> None:
    """What is in is taken out first; then all consumers are told."""
    queue = BoundedQueue[int](2)

    async def consume() -> list[int]:
        found: list[int] = []
        try:
            while True:
                found.append(await queue.get())
        except Closed:
            return found

    consumers = [asyncio.create_task(consume()) for _ in range(3)]
    await queue.put(1)
    await queue.put(2)
    await queue.close()
    await queue.close()
    assert sorted(item for found in await asyncio.gather(*consumers) for item in found) == [1, 2]


async def test_closing_ends_a_waiting_producer() -> None:
    """Whoever waits for room in a closed queue is told, and later ones as well."""
    queue = BoundedQueue[int](1)
    await queue.put(1)
    waiting = asyncio.create_task(queue.put(2))
    await turns()
    await queue.close()
    with pytest.raises(Closed):
        await waiting
    with pytest.raises(Closed):
        await queue.put(3)
    assert await queue.get() == 1


@pytest.mark.parametrize("after", range(6))
async def test_a_cancelled_consumer_takes_no_item_with_it(after: int) -> None:
    """Cancelled at any moment, a `get` either returns its item or leaves it for another."""
    queue = BoundedQueue[int](1)
    getting = asyncio.create_task(queue.get())
    await turns(after)
    putting = asyncio.create_task(queue.put(7))
    await turns(after // 2)
    getting.cancel()
    try:
        found = await getting
    except asyncio.CancelledError:
        found = await queue.get()
    await putting
    assert found == 7
    assert len(queue) == 0


async def test_a_cancelled_producer_leaves_no_item() -> None:
    """A `put` that was cancelled while it waited has put nothing, and the others go on."""
    queue = BoundedQueue[int](1)
    await queue.put(1)
    waiting = [asyncio.create_task(queue.put(item)) for item in (2, 3)]
    await turns()
    waiting[0].cancel()
    await turns()
    assert [await queue.get(), await queue.get()] == [1, 3]
    assert waiting[0].cancelled()
    assert len(queue) == 0
