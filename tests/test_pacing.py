"""Rates and adaptive concurrency."""

import asyncio

import pytest

from ingest_service.pacing import AdaptiveLimit, RateLimit


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
