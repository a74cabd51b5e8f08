"""Work that waits for others, for hosts that may say nothing for as long as they like: in threads of its own."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from ingest_service.errors import LocalIOError

_MOST = 16
_PATIENCE_S = 20.0
T = TypeVar("T")


class Waiting:
    """So many at once, each for so long; nobody else waits for them, at the end of the process neither."""

    def __init__(self, most: int = _MOST, patience_s: float = _PATIENCE_S) -> None:
        self._most = most
        self._patience_s = patience_s
        self._at_work = 0

    async def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises. LocalIOError where it takes too long, or too many are waited for."""
        if self._at_work >= self._most:
            raise LocalIOError("Too many hosts are being waited for; try again later.")
        self._at_work += 1
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        threading.Thread(target=self._work, args=(function, loop, done), name="waiting", daemon=True).start()
        try:
            async with asyncio.timeout(self._patience_s):
                return await done
        except TimeoutError:
            raise LocalIOError(
                f"The source's host takes longer than {self._patience_s:g} s; try again later."
            ) from None

    def _work(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Any]") -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the service has ended
            loop.call_soon_threadsafe(self._end, done, result, error)

    def _end(self, done: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
        self._at_work -= 1
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)
