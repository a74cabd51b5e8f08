"""Work in threads that must not be left behind half done."""

import asyncio
from collections.abc import Callable, Coroutine
from threading import Event
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finish_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but a cancellation waits for the thread: what it uses can then be closed safely."""
    return await _finish(asyncio.to_thread(function, *args, **kwargs), lambda: None)


async def interrupt_in_thread(function: Callable[Concatenate[Event, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like finish_in_thread, for what takes long: a cancellation sets the event that the function is given first."""
    interrupted = Event()
    return await _finish(asyncio.to_thread(function, interrupted, *args, **kwargs), interrupted.set)


async def _finish(work: Coroutine[Any, Any, T], on_cancel: Callable[[], None]) -> T:
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        on_cancel()
        await asyncio.wait((running,))
        raise
