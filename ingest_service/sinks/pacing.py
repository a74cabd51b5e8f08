"""How fast a sink is asked: a rate that the user sets, and a concurrency that the sink's answers set."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

_BURST_S = 0.1  # how much of a second's allowance may be taken at once
_MEMORY_S = 1.0
_HEADROOM = 1.5
_LEAST_PER_S = 100.0  # a sink that takes nothing is left alone by the retrier; this is how fast it is found well
_SLOW = 3.0  # so many times the usual latency means that the sink is queueing
_USUAL_SHARE = 0.02  # weight of one answer in the usual latency: some 50 answers of memory


class RateLimit:
    """A token bucket: at most `per_s` units a second, over any few seconds. None sets no limit."""

    def __init__(self, per_s: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self.per_s = per_s
        self._now = now
        self._free_at = now()  # when all that was taken so far is paid for
        self.guard: Callable[[], Awaitable[None]] | None = None  # raises where nothing may pass any more

    async def take(self, units: float) -> None:
        """Wait until `units` more may pass."""
        if self.per_s is not None:
            now = self._now()
            self._free_at = max(self._free_at, now - _BURST_S) + units / self.per_s
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)
        if self.guard is not None:
            await self.guard()

    def piece(self, most: int) -> int:
        """How many units to take at once, so that the rate holds from one moment to the next."""
        return most if self.per_s is None else max(1, min(most, int(self.per_s * _BURST_S)))


class AdaptiveRate:
    """No limit until the sink throttles; then a rate at which it takes two thirds of what it is asked for.

    That keeps a table of little capacity busy, while a table that refuses some items however few there are (up to a
    third of them) is not asked for less and less. Without throttles the rate rises by a tenth every tenth of a second.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._limit = RateLimit(None, now)
        self._taken: deque[tuple[float, int]] = deque()
        self._since = self._looked_at = 0.0
        self._turn = asyncio.Lock()
        self._asked = self._refused = 0

    @property
    def per_s(self) -> float | None:
        return self._limit.per_s

    async def take(self, units: int) -> None:
        """Wait until `units` more may be asked for."""
        if self.per_s is None:
            return
        async with self._turn:  # one by one, so that a new rate holds for all but the first who wait
            await self._limit.take(units)

    def answered(self, taken: int, refused: int) -> None:
        """What the sink made of a request's units."""
        now = self._now()
        if not self._taken:
            self._since = self._looked_at = now - 2 * _BURST_S
        self._taken.append((now, taken))
        while self._taken[0][0] < now - _MEMORY_S:
            self._taken.popleft()
        self._asked += taken + refused
        self._refused += refused
        passed_s = now - self._looked_at
        if passed_s < _BURST_S:
            return
        per_s = self._limit.per_s
        if self._refused:
            recent = sum(units for _, units in self._taken) / min(_MEMORY_S, now - self._since)
            share = 1 - self._refused / self._asked
            self._limit.per_s = max(_HEADROOM * (recent if per_s is None else per_s * share), recent, _LEAST_PER_S)
        elif per_s is not None:
            self._limit.per_s = per_s * 1.1
        self._looked_at, self._asked, self._refused = now, 0, 0


class AdaptiveLimit:
    """At most so many at once, found by additive increase and multiplicative decrease (Chiu and Jain, 1989).

    Each answer raises the limit by its share of one. A throttle lowers it by half of the share that was refused, as
    DCTCP does with its marks (RFC 8257), so that a sink which refuses a little is not left idle. An answer several
    times slower than usual lowers it by a tenth. Decreases that the answers of one moment ask for count once.
    """

    def __init__(self, most: int, start: int | None = None) -> None:
        self._most = most
        self._limit = float(min(most, start or most))
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._usual_s = 0.0
        self._lowered_at = 0.0
        self.reason = "start"

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    def slot(self) -> Self:
        """Holds one of the places, in order of asking, where it is entered; a generator costs several times more."""
        return self

    async def __aenter__(self) -> None:
        while self._active >= self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # the place that was offered goes to the next
                raise
        self._active += 1

    async def __aexit__(self, *_: object) -> None:
        self._active -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._active < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def answered(self, latency_s: float) -> None:
        """A request went through in that time."""
        self._usual_s = latency_s if not self._usual_s else self._usual_s + (latency_s - self._usual_s) * _USUAL_SHARE
        if latency_s > _SLOW * self._usual_s:
            self._lower(0.9, "latency")
        elif self._limit < self._most:
            self._limit = min(float(self._most), self._limit + 1 / self._limit)
            self.reason = "growing" if self._limit < self._most else "at most"
            self._wake()

    def throttled(self, share: float = 1.0) -> None:
        """The sink refused that share of a request for now, and took the rest."""
        self._limit = min(float(self._most), self._limit + (1 - share) / self._limit)
        self._lower(1 - share / 2, "throttled")

    def _lower(self, factor: float, reason: str) -> None:
        now = time.monotonic()
        if now - self._lowered_at < max(self._usual_s, 0.05):
            return
        self._lowered_at = now
        self._limit = max(1.0, self._limit * factor)
        self.reason = reason
