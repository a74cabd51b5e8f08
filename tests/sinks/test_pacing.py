"""Rates and adaptive concurrency."""

import asyncio
from collections.abc import Callable

import pytest

from ingest_service.errors import LeaseHeld
from ingest_service.sinks.pacing import AdaptiveLimit, AdaptiveRate, RateLimit


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, delay_s: float) -> None:
        self.now += delay_s

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("per_s", [7.0, 1_000.0, 123_456.0])
async def test_a_rate_holds_over_ten_seconds(per_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes in any ten seconds is within 5 % of the rate, in pieces of the size that it names."""
    clock = Clock(monkeypatch)
    rate = RateLimit(per_s, clock)
    piece = rate.piece(1 << 15)
    passed = 0
    while clock.now < 110.0:
        await rate.take(piece)
        passed += piece
    assert abs(passed / (per_s * (clock.now - 100.0)) - 1) < 0.05


async def test_a_pause_earns_no_more_than_a_moments_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that was idle for an hour is not flooded afterwards."""
    clock = Clock(monkeypatch)
    rate = RateLimit(1_000, clock)
    clock.now += 3_600
    start = clock.now
    for _ in range(20):
        await rate.take(100)
    assert clock.now - start == pytest.approx(1.9)


async def test_without_a_rate_nothing_waits() -> None:
    """None sets no limit, and no limit on the size of a piece."""
    rate = RateLimit(None)
    await rate.take(1e12)
    assert rate.piece(500) == 500


@pytest.mark.parametrize("per_s", [None, 5.0])
async def test_what_may_not_pass_any_more_does_not(per_s: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard is asked after the wait: a process may have slept in it."""
    clock = Clock(monkeypatch)
    rate = RateLimit(per_s, clock)
    asked: list[float] = []

    async def guard() -> None:
        asked.append(clock.now)
        raise LeaseHeld("another has it")

    rate.guard = guard
    with pytest.raises(LeaseHeld):
        await rate.take(10)
    assert asked == [100.0 if per_s is None else 102.0]


async def test_no_more_hold_a_slot_than_the_limit_allows() -> None:
    """Tasks beyond the limit wait, and each one gets its turn."""
    limit = AdaptiveLimit(3)
    active = most = done = 0

    async def hold() -> None:
        nonlocal active, most, done
        async with limit.slot():
            active += 1
            most = max(most, active)
            await asyncio.sleep(0)
            active -= 1
            done += 1

    await asyncio.gather(*(hold() for _ in range(50)))
    assert (most, done) == (3, 50)


async def test_a_cancelled_waiter_passes_its_turn_on() -> None:
    """A place that was offered to a task which is cancelled at that moment is not lost."""
    limit = AdaptiveLimit(1)
    async with limit.slot():
        first = asyncio.create_task(_once(limit))
        second = asyncio.create_task(_once(limit))
        await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(5):
        await second


async def _once(limit: AdaptiveLimit) -> None:
    async with limit.slot():
        pass


def test_the_limit_grows_by_one_for_each_round_of_answers() -> None:
    """Additive increase: as many answers as the limit raise it by about one, up to the most."""
    limit = AdaptiveLimit(12, start=8)
    for _ in range(9):
        limit.answered(0.01)
    assert (limit.limit, limit.reason) == (9, "growing")
    for _ in range(100):
        limit.answered(0.01)
    assert (limit.limit, limit.reason) == (12, "at most")


def test_a_throttle_lowers_by_half_of_what_was_refused() -> None:
    """Multiplicative decrease; several throttles of one moment count once, and one is always left."""
    limit = AdaptiveLimit(16)
    limit.throttled(0.5)
    limit.throttled()
    assert (limit.limit, limit.reason) == (12, "throttled")
    for _ in range(50):
        limit._lowered_at = 0
        limit.throttled()
    assert limit.limit == 1


def test_a_slow_answer_lowers_a_little() -> None:
    """An answer several times slower than usual means that the sink is queueing."""
    limit = AdaptiveLimit(10)
    for _ in range(20):
        limit.answered(0.01)
    limit.answered(1.0)
    assert (limit.limit, limit.reason) == (9, "latency")


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _asked_for(takes: Callable[[float], float], seconds: int = 30) -> tuple[float, float]:
    """What a sink took and was asked for in the last 10 of some seconds, a second, if asked as fast as the rate says.

    `takes` says how much of an asked rate the sink takes.
    """
    clock = _Clock()
    rate = AdaptiveRate(clock)
    asked_last = taken_last = 0.0
    for tick in range(seconds * 10):
        clock.now += 0.1
        asked = min(rate.per_s or 50_000, 50_000.0)
        taken = takes(asked)
        rate.answered(round(taken / 10), round((asked - taken) / 10))
        if tick >= (seconds - 10) * 10:
            asked_last += asked / 100
            taken_last += taken / 100
    return taken_last, asked_last


def test_a_sink_of_little_capacity_is_kept_busy() -> None:
    """It gives all that it can, and at most every third item is asked for in vain."""
    taken, asked = _asked_for(lambda asked: min(asked, 2_000))
    assert taken >= 1_900
    assert asked <= 1.6 * taken


def test_a_sink_that_refuses_some_items_always_is_not_starved() -> None:
    """Asking it for less would only make it slower."""
    taken, asked = _asked_for(lambda asked: 0.7 * asked)
    assert asked >= 45_000
    assert taken >= 30_000


def test_a_rate_rises_again_once_nothing_is_refused() -> None:
    """A throttle of a moment does not last."""
    clock = _Clock()
    rate = AdaptiveRate(clock)
    rate.answered(100, 900)
    assert rate.per_s is not None
    lowered = rate.per_s
    for _ in range(50):
        clock.now += 0.1
        rate.answered(100, 0)
    assert rate.per_s > 5 * lowered
