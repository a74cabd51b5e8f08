"""Trying again: exponential backoff with full jitter, within a budget of time that only rows renew.

After "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), its "full jitter" variant.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ingest_service.errors import Retry, SinkUnavailable
from ingest_service.runtime.backoff import backoff_s

T = TypeVar("T")

_LATE_S = 1.0


@dataclass(slots=True, eq=False)
class _Attempt:
    """What is being waited for: since when it would be silent, and how often its task was told to end before."""

    task: asyncio.Task[Any]
    cancelling: int
    since: float
    moves_rows: bool
    is_cut_off: bool = False


class Retrier:
    """Shared by all requests of one sink, so that its counters tell how the sink fares.

    budget_s: how long a request may go on failing, or wait for an answer. For requests that move rows the time begins
    anew whenever rows get through, whichever request's. All others have it for themselves: a checkpoint that can be
    saved says nothing about rows that cannot, nor they about it.

    can_hang: whether an attempt is cut off once the budget is spent. What cannot hang need not be.
    """

    def __init__(self, sink: str, budget_s: float, *, can_hang: bool = True) -> None:
        self._sink = sink
        self.budget_s = budget_s
        self._can_hang = can_hang
        self._last_progress = self._last_answer = time.monotonic()
        self._watched: set[_Attempt] = set()
        self._timer: asyncio.TimerHandle | None = None  # as long as there are any
        self._due = 0.0  # when it looks at them
        self._woke = 0.0  # when this process was seen to have slept, and so to have heard nothing
        self.is_spent = False  # a request was given up, and no row has got through since
        self.retries = 0
        self.throttled = 0
        self.latencies_s: deque[float] = deque(maxlen=1_000)  # of the latest requests that went through

    def progressed(self) -> None:
        """Rows got through: the sink is not down."""
        self._last_progress = self._last_answer = time.monotonic()
        self.is_spent = False

    def answered(self) -> None:
        """A part of a long request was answered, whatever the answer: it does not hang."""
        self._last_answer = time.monotonic()

    def throttle(self) -> None:
        """Part of a request went through, and the rest will be tried again."""
        self.retries += 1
        self.throttled += 1
        self.progressed()

    async def call(self, attempt: Callable[[], Awaitable[T]], *, moves_rows: bool = False) -> T:
        """`attempt` until it does not raise Retry. SinkUnavailable when the budget is spent."""
        failures = 0
        failing_since = 0.0
        reason = "no answer"  # until an attempt says more
        while True:
            began = time.monotonic()
            try:
                result = await self._unless_silent(attempt, failing_since or began, moves_rows, reason)
            except Retry as fault:
                reason = fault.reason
                failing_since = failing_since or max(began, self._woke, self._last_answer if moves_rows else 0)
                self.retries += 1
                self.throttled += fault.throttled
                left_s = self._left_s(max(failing_since, self._last_progress if moves_rows else 0))
                await asyncio.sleep(max(0, min(backoff_s(failures), left_s)))
                failures += 1
                if self._left_s(max(failing_since, self._last_progress if moves_rows else 0)) <= 0:
                    raise self._given_up(fault.reason) from fault
            else:
                self.latencies_s.append(time.monotonic() - began)
                if moves_rows:
                    self.progressed()
                return result

    async def _unless_silent(
        self, attempt: Callable[[], Awaitable[T]], since: float, moves_rows: bool, reason: str
    ) -> T:
        """The attempt, cut off once nothing was answered for the whole budget, whatever it waits for."""
        if not self._can_hang:
            return await attempt()
        task = asyncio.current_task()
        assert task is not None
        watched = _Attempt(task, task.cancelling(), since, moves_rows)
        self._watched.add(watched)
        if self._timer is None or since + self.budget_s < self._due:
            self._look_at(since + self.budget_s)
        try:
            return await attempt()
        except asyncio.CancelledError as error:
            if watched.is_cut_off and task.cancelling() - 1 <= watched.cancelling:  # nobody else wants it cancelled
                raise self._given_up(reason) from error
            raise
        finally:
            if watched.is_cut_off:
                task.uncancel()
            self._watched.discard(watched)
            if not self._watched and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _look_at(self, due: float) -> None:
        """One timer for all attempts: a timer for each would cost as much as the rest of a request."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_later(due - time.monotonic(), self._look)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._due > _LATE_S:
            self._woke = now
        next_s = self.budget_s
        for one in self._watched:
            left_s = self._left_s(max(one.since, self._woke, self._last_answer if one.moves_rows else 0))
            if left_s > 0:
                next_s = min(next_s, left_s)
            elif not one.is_cut_off:
                one.is_cut_off = True
                one.task.cancel()
        self._look_at(now + next_s)

    def _left_s(self, since: float) -> float:
        return since + self.budget_s - time.monotonic()

    def _given_up(self, reason: str) -> SinkUnavailable:
        self.is_spent = True
        return SinkUnavailable(
            f"{self._sink} did not recover within {self.budget_s:g} s ({reason}); run the same command again to go on."
        )
