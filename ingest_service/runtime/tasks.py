"""Tasks that fail together, and work in threads that must not be left behind half done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from threading import Event
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """asyncio.TaskGroup, but raising the first error of its tasks itself: the others only follow from it."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def finish_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but a cancellation waits for the thread: what it uses can then be closed safely."""
    return await _finish(asyncio.to_thread(function, *args, **kwargs), lambda: None)


async def finish_in(threads: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like finish_in_thread, in threads that are kept for it."""
    work = asyncio.get_running_loop().run_in_executor(threads, partial(function, *args, **kwargs))
    return await _finish(work, lambda: None)


async def interrupt_in_thread(function: Callable[Concatenate[Event, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like finish_in_thread, for what takes long: a cancellation sets the event that the function is given first."""
    interrupted = Event()
    return await _finish(asyncio.to_thread(function, interrupted, *args, **kwargs), interrupted.set)


async def _finish(work: Awaitable[T], on_cancel: Callable[[], None]) -> T:
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        on_cancel()
        await asyncio.wait((running,))
        raise
