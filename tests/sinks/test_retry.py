"""Retries: jitter within bounds, a budget of time, renewed by progress."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from ingest_service.errors import Retry, SinkUnavailable
from ingest_service.runtime.backoff import FIRST_DELAY_S, MAX_DELAY_S, backoff_s
from ingest_service.sinks.retry import Retrier

T = TypeVar("T")


class Clock:
    """Time that passes only while somebody sleeps or a request runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def attempts(clock: Clock, outcomes: list[T | Exception], seconds: float = 1.0) -> Callable[[], Awaitable[T]]:
    """A request that takes so long, and ends as listed; the last outcome repeats."""

    async def attempt() -> T:
        clock.now += seconds
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return attempt


def test_the_wait_is_jittered_and_bounded() -> None:
    """Any wait from nothing to a bound that doubles, up to MAX_DELAY_S, also after very many failures."""
    for failures in (0, 1, 3, 6, 7, 50, 10_000):
        bound = min(MAX_DELAY_S, FIRST_DELAY_S * 2**failures) if failures < 60 else MAX_DELAY_S
        waits = [backoff_s(failures) for _ in range(300)]
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound


async def test_it_tries_until_it_works(clock: Clock) -> None:
    """Faults that may pass are counted, throttles apart, and the result comes back in the end."""
    retrier = Retrier("redis", 60)
    found = await retrier.call(attempts(clock, [Retry("a"), Retry("b", throttled=True), 5]))
    assert found == 5
    assert (retrier.retries, retrier.throttled, len(clock.slept)) == (2, 1, 2)
    assert list(retrier.latencies_s) == [1.0]


async def test_the_budget_ends(clock: Clock) -> None:
    """A sink that stays down longer than the budget is SinkUnavailable, with the reason, not much sooner or later."""
    retrier = Retrier("redis", 30)
    clock.now += 10_000  # idle time before the first failure does not count
    began = clock.now
    with pytest.raises(SinkUnavailable, match=r"redis did not recover within 30 s .connection refused."):
        await retrier.call(attempts(clock, [Retry("connection refused")]))
    assert 30 < clock.now - began <= 30 + 2 * (MAX_DELAY_S + 1)


async def test_progress_renews_the_budget(clock: Clock) -> None:
    """As long as parts get through, a request may fail on and on."""
    retrier = Retrier("redis", 30)
    left = 200

    async def attempt() -> str:
        nonlocal left
        clock.now += 1
        left -= 1
        if left:
            retrier.progressed()
            raise Retry("partly")
        return "done"

    began = clock.now
    assert await retrier.call(attempt) == "done"
    assert clock.now - began > 100


async def test_another_requests_success_renews_the_budget(clock: Clock) -> None:
    """The budget is of the sink: a request that succeeds beside a failing one shows that it is not down."""
    retrier = Retrier("redis", 10)
    outcomes: list[int | Exception] = [*[Retry("x")] * 40, 1]

    async def attempt() -> int:
        clock.now += 1
        await retrier.call(attempts(clock, [1], 0))
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert await retrier.call(attempt) == 1


@pytest.mark.parametrize("error", [ValueError("bug"), asyncio.CancelledError()])
async def test_anything_else_goes_through_at_once(clock: Clock, error: BaseException) -> None:
    """A bug or a cancellation is neither retried nor taken for success."""
    retrier = Retrier("redis", 30)
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        await retrier.call(attempt)
    assert calls == 1
    assert (retrier.retries, len(retrier.latencies_s), clock.slept) == (0, 0, [])
