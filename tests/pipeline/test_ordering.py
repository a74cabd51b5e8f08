"""Turns: equal keys are written in the order of the file, other chunks side by side."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from ingest_service.datasets.microlens import MICROLENS
from ingest_service.pipeline.ordering import KeyOrder
from ingest_service.rows.chunk import Chunk, Position
from ingest_service.rows.texts import Texts


def chunk(rows: Sequence[tuple[int, int, int]]) -> Chunk:
    columns = [np.array([row[i] for row in rows], np.int64) for i in range(3)]
    values = {"user": columns[0], "item": columns[1], "timestamp": columns[2] * 1_000_000}
    empty = np.zeros(len(rows), np.int64)
    return Chunk(Position(), Position(1), MICROLENS.records(values), empty, empty, Texts.of([]))


async def order_of(chunks: Sequence[Chunk], finish: Sequence[int]) -> tuple[list[int], list[int]]:
    """Let every chunk ask for its turn, then end those that have it in the order `finish`.

    Returns who had the turn at once, and the order in which turns began.
    """
    order = KeyOrder()
    began: list[int] = []
    started, gates = ([asyncio.Event() for _ in chunks] for _ in range(2))

    async def write(index: int) -> None:
        async with order.turn(chunks[index]):
            began.append(index)
            started[index].set()
            await gates[index].wait()

    tasks = [asyncio.create_task(write(index)) for index in range(len(chunks))]
    await asyncio.sleep(0.05)
    at_once = sorted(began)
    for index in finish:
        await started[index].wait()
        gates[index].set()
    await asyncio.gather(*tasks)
    return at_once, began


async def test_chunks_without_a_common_key_go_side_by_side() -> None:
    """The same users, items or times do not matter as long as no key is the same."""
    chunks = [chunk([(1, 1, 1), (2, 2, 2)]), chunk([(1, 2, 1), (2, 1, 2)]), chunk([(1, 1, 2), (3, 3, 9)]), chunk([])]
    at_once, _ = await order_of(chunks, [3, 2, 1, 0])
    assert at_once == [0, 1, 2, 3]


async def test_chunks_with_a_common_key_wait_for_each_other() -> None:
    """A later chunk begins only once every earlier one with one of its keys is done."""
    chunks = [chunk([(1, 1, 1), (9, 9, 5)]), chunk([(2, 2, 2), (2, 2, 2)]), chunk([(7, 7, 3), (1, 1, 1), (2, 2, 2)])]
    at_once, began = await order_of(chunks, [1, 0, 2])
    assert at_once == [0, 1]
    assert began[-1] == 2


async def test_a_key_over_many_chunks_keeps_the_order_of_the_file() -> None:
    """However many chunks share one key, they are written one after the other."""
    chunks = [chunk([(1, 1, 1), (n, 5, 1)]) for n in range(2, 8)]
    at_once, began = await order_of(chunks, range(6))
    assert at_once == [0]
    assert began == list(range(6))


async def test_a_failed_or_cancelled_turn_lets_the_next_one_go() -> None:
    """A turn that ends with an error, or is cancelled while it waits, blocks nobody."""
    order = KeyOrder()
    same = chunk([(1, 1, 1)])
    inside = asyncio.Event()

    async def fail() -> None:
        async with order.turn(same):
            inside.set()
            await asyncio.sleep(0.05)
            raise RuntimeError

    async def write() -> None:
        async with order.turn(same):
            pass

    failing = asyncio.create_task(fail())
    await inside.wait()
    cancelled, last = asyncio.create_task(write()), asyncio.create_task(write())
    await asyncio.sleep(0.01)
    cancelled.cancel()
    with pytest.raises(RuntimeError):
        await failing
    await last
    assert cancelled.cancelled()
