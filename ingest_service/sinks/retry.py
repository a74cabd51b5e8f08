"""Trying again: exponential backoff with full jitter, within a budget of time that progress renews.

After "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), its "full jitter" variant.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ingest_service.errors import Retry, SinkUnavailable
from ingest_service.runtime.backoff import backoff_s

T = TypeVar("T")


class Retrier:
    """Shared by all requests of one sink, so that its counters tell how the sink fares.

    budget_s: how long a request may go on failing, from its first failure, while no request of this sink succeeds.
    """

    def __init__(self, sink: str, budget_s: float) -> None:
        self._sink = sink
        self.budget_s = budget_s
        self._last_success = time.monotonic()
        self.retries = 0
        self.throttled = 0
        self.latencies_s: deque[float] = deque(maxlen=1_000)  # of the latest requests that went through

    def progressed(self) -> None:
        """Part of a request went through: the sink is not down."""
        self._last_success = time.monotonic()

    def throttle(self) -> None:
        """Part of a request went through, and the rest will be tried again."""
        self.retries += 1
        self.throttled += 1
        self.progressed()

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """`attempt` until it does not raise Retry. SinkUnavailable when the budget is spent."""
        failures = 0
        first_failure = 0.0
        while True:
            began = time.monotonic()
            try:
                result = await attempt()
            except Retry as fault:
                now = time.monotonic()
                first_failure = first_failure or now
                self.retries += 1
                self.throttled += fault.throttled
                if now - max(first_failure, self._last_success) > self.budget_s:
                    raise SinkUnavailable(
                        f"{self._sink} did not recover within {self.budget_s:g} s ({fault.reason}); "
                        "run the same command again to go on."
                    ) from fault
                await asyncio.sleep(backoff_s(failures))
                failures += 1
            else:
                self.progressed()
                self.latencies_s.append(self._last_success - began)
                return result
