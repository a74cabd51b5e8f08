"""Work in threads that must not be left behind half done."""

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finish_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but a cancellation waits for the thread: what it uses can then be closed safely."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        raise


async def interrupt_in_thread(function: Callable[Concatenate[Event, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like finish_in_thread, for what takes long: a cancellation sets the event that the function is given first."""
    interrupted = Event()
    running = asyncio.ensure_future(asyncio.to_thread(function, interrupted, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        interrupted.set()
        await asyncio.wait((running,))
        raise
