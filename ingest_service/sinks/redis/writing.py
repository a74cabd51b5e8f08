"""A node's part of a batch on its way: rows, and, where a set is known to be one, its expiry."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from ingest_service.rows.arrays import Bools, Ints
from ingest_service.rows.parse import Bytes
from ingest_service.sinks.pacing import RateLimit
from ingest_service.sinks.redis.commands import Batch, Keeping
from ingest_service.sinks.redis.connection import Replies

_PIECE_ROWS = 1 << 13  # rows made into commands at once: bounds the text in memory, and fits the CPU's cache


@dataclass(frozen=True, slots=True)
class _Sent:
    """Commands about users, whose replies end before `ends`, the first one's beginning at `first`."""

    first: int
    users: Ints
    ends: Ints

    @property
    def end(self) -> int:
        return int(self.ends[-1])

    def user_of(self, reply: int) -> int:
        """Which of the users, by index."""
        return int(np.searchsorted(self.ends, reply, side="right"))


class Writing:
    """Commands of a batch, made a piece at a time while earlier ones are on their way, and what became of each user.

    EXPIRE takes a key of any kind, and one of another kind is to be left as it is. So it goes with a user's rows only
    if he had a set a batch ago, as most have; else it comes after the replies to his rows. Redis has to find his key
    in memory once more for that, which costs it as much as the command.
    """

    def __init__(self, batch: Batch, keeping: Keeping, rate: RateLimit, sets: Ints) -> None:
        self._batch = batch
        self._are_sets: Bools = batch.are_among(sets)
        self._keeping = keeping
        self._rate = rate
        self._sent: list[_Sent] = []
        self._n_sent = 0

    async def payloads(self, replies: Replies) -> AsyncIterator[tuple[memoryview, int]]:
        """Commands with how many replies they have."""
        batch, keeping = self._batch, self._keeping
        unanswered: deque[_Sent] = deque()
        for piece in batch.pieces(self._rate.piece(_PIECE_ROWS)):
            await self._rate.take(batch.rows_in(piece))
            renewed = self._answered(unanswered, replies)
            commands, expiries = await asyncio.to_thread(self._make, piece, renewed)
            rows = self._note(np.arange(*piece), batch.replies(piece, self._are_sets))
            yield commands.data, rows.end - rows.first
            if len(renewed):
                self._note(renewed, np.ones(len(renewed), np.int64))
                yield expiries.data, len(renewed)
            if batch.columns.schema.follows_from_key:
                unanswered.append(rows)
        while unanswered:
            await replies.reach(unanswered[0].end)
            renewed = self._answered(unanswered, replies)
            if len(renewed):
                self._note(renewed, np.ones(len(renewed), np.int64))
                yield batch.expiries(renewed, keeping).data, len(renewed)

    def _make(self, piece: tuple[int, int], renewed: Ints) -> tuple[Bytes, Bytes]:
        expiries = self._batch.expiries(renewed, self._keeping) if len(renewed) else np.empty(0, np.uint8)
        return self._batch.commands(piece, self._keeping, self._are_sets), expiries

    def _note(self, users: Ints, replies: Ints) -> _Sent:
        sent = _Sent(self._n_sent, users, self._n_sent + np.cumsum(replies))
        self._sent.append(sent)
        self._n_sent = sent.end
        return sent

    def _answered(self, unanswered: deque[_Sent], replies: Replies) -> Ints:
        """The users of pieces whose replies have all come whose expiry is due: none of them was an error."""
        found: list[Ints] = []
        while unanswered and unanswered[0].end <= replies.n:
            sent = unanswered.popleft()
            renewable = ~self._are_sets[sent.users]
            renewable[[sent.user_of(index) for index in replies.errors if sent.first <= index < sent.end]] = False
            found.append(sent.users[renewable])
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def errors(self, replies: Replies) -> dict[int, str]:
        """The first error of each user that had one."""
        found: dict[int, str] = {}
        firsts = [sent.first for sent in self._sent]
        for index, error in sorted(replies.errors.items()):
            sent = self._sent[int(np.searchsorted(firsts, index, side="right")) - 1]
            found.setdefault(int(sent.users[sent.user_of(index)]), error)
        return found
