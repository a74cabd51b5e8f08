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
        await retrier.call(attempts(clock, [Retry("connection refused")]), moves_rows=True)
    assert 30 <= clock.now - began <= 30 + 1


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
    assert await retrier.call(attempt, moves_rows=True) == "done"
    assert clock.now - began > 100


def beside(clock: Clock, retrier: Retrier, *, rows: bool) -> Callable[[], Awaitable[int]]:
    """A request that fails forty times, and each time another one, of rows or not, succeeds."""
    outcomes: list[int | Exception] = [*[Retry("x")] * 40, 1]

    async def attempt() -> int:
        clock.now += 1
        await retrier.call(attempts(clock, [1], 0), moves_rows=rows)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return attempt


async def test_another_requests_rows_renew_the_budget(clock: Clock) -> None:
    """The budget is of the sink: rows that get through beside those that fail show that it is not down."""
    retrier = Retrier("redis", 10)
    assert await retrier.call(beside(clock, retrier, rows=True), moves_rows=True) == 1


@pytest.mark.parametrize(("rows_fail", "rows_pass"), [(True, False), (False, True), (False, False)])
async def test_only_rows_renew_the_budget_of_rows(clock: Clock, rows_fail: bool, rows_pass: bool) -> None:
    """A checkpoint that can be saved does not keep rows waiting for ever that cannot, nor the other way round."""
    retrier = Retrier("redis", 10)
    began = clock.now
    with pytest.raises(SinkUnavailable):
        await retrier.call(beside(clock, retrier, rows=rows_pass), moves_rows=rows_fail)
    assert 10 <= clock.now - began <= 12
    assert retrier.is_spent


@pytest.mark.parametrize("rows", [True, False])
async def test_the_budget_bounds_an_attempt_without_an_answer(rows: bool) -> None:
    """Whatever a driver's own time-outs are: a server that says nothing is given up when the budget is spent."""
    retrier = Retrier("redis", 0.3)
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match=r"did not recover within 0.3 s .no answer."):
        await retrier.call(lambda: asyncio.sleep(10, True), moves_rows=rows)
    assert time.monotonic() - began >= 0.3


async def test_an_attempt_that_is_being_answered_is_left_alone() -> None:
    """A long request may take longer than the budget, as long as answers to it come in."""
    retrier = Retrier("redis", 0.3)

    async def attempt() -> str:
        for _ in range(20):
            await asyncio.sleep(0.05)
            retrier.answered()
        return "done"

    assert await retrier.call(attempt, moves_rows=True) == "done"


async def test_a_process_that_slept_listens_again() -> None:
    """After a pause (a stopped container) nothing is given up before what has come meanwhile was looked at."""
    retrier = Retrier("redis", 0.5)
    loop = asyncio.get_running_loop()

    async def attempt() -> str:
        loop.call_later(0.1, time.sleep, 2)  # nobody hears anything while the loop stands still
        await asyncio.sleep(0.7)
        if not retrier.retries:
            raise Retry("the connection was closed meanwhile")
        return "done"

    assert await retrier.call(attempt, moves_rows=True) == "done"


async def test_what_cannot_hang_is_not_cut_off() -> None:
    """A write to a local file goes on by itself, so it is waited for."""
    retrier = Retrier("sqlite", 0.1, can_hang=False)
    assert await retrier.call(lambda: asyncio.sleep(0.4, "done")) == "done"


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
