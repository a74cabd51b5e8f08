"""A node's part of a batch on its way: rows, then, once a set is known to be one, its expiry."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from ingest_service.rows.arrays import Ints
from ingest_service.rows.parse import Bytes
from ingest_service.sinks.pacing import RateLimit
from ingest_service.sinks.redis.commands import Batch, Keeping
from ingest_service.sinks.redis.connection import Replies

_PIECE_ROWS = 1 << 12  # rows made into commands at once: bounds the text in memory, and fits the CPU's cache


@dataclass(frozen=True, slots=True)
class _Sent:
    """Commands about users, each `per_user` of them, with replies from the `first` on."""

    first: int
    users: Ints
    per_user: int

    @property
    def end(self) -> int:
        return self.first + len(self.users) * self.per_user


class Writing:
    """Commands of a batch, made a piece at a time while earlier ones are on their way, and what became of each user.

    EXPIRE takes a key of any kind, so a user's comes after the replies to his rows: a key of another kind is left as
    it is. Whoever waits for it meanwhile are the users of a few pieces.
    """

    def __init__(self, batch: Batch, keeping: Keeping, rate: RateLimit) -> None:
        self._batch = batch
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
            rows = self._note(np.arange(*piece), batch.replies_per_user)
            yield commands.data, rows.end - rows.first
            if len(renewed):
                self._note(renewed, 1)
                yield expiries.data, len(renewed)
            if batch.columns.schema.follows_from_key:
                unanswered.append(rows)
        while unanswered:
            await replies.reach(unanswered[0].end)
            renewed = self._answered(unanswered, replies)
            if len(renewed):
                self._note(renewed, 1)
                yield batch.expiries(renewed, keeping).data, len(renewed)

    def _make(self, piece: tuple[int, int], renewed: Ints) -> tuple[Bytes, Bytes]:
        expiries = self._batch.expiries(renewed, self._keeping) if len(renewed) else np.empty(0, np.uint8)
        return self._batch.commands(piece, self._keeping), expiries

    def _note(self, users: Ints, per_user: int) -> _Sent:
        sent = _Sent(self._n_sent, users, per_user)
        self._sent.append(sent)
        self._n_sent = sent.end
        return sent

    def _answered(self, unanswered: deque[_Sent], replies: Replies) -> Ints:
        """The users of pieces whose replies have all come, but for those of whom one was an error."""
        found: list[Ints] = []
        while unanswered and unanswered[0].end <= replies.n:
            sent = unanswered.popleft()
            errors = [index - sent.first for index in replies.errors if sent.first <= index < sent.end]
            found.append(np.delete(sent.users, [index // sent.per_user for index in errors]))
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def errors(self, replies: Replies) -> dict[int, str]:
        """The first error of each user that had one."""
        found: dict[int, str] = {}
        firsts = [sent.first for sent in self._sent]
        for index, error in sorted(replies.errors.items()):
            sent = self._sent[int(np.searchsorted(firsts, index, side="right")) - 1]
            found.setdefault(int(sent.users[(index - sent.first) // sent.per_user]), error)
        return found
