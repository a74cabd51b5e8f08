"""What every sink in Redis is: servers, checkpoints in them, and batches that are sent until each row is answered."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol
from urllib.parse import SplitResult

import numpy as np
from redis.asyncio import ConnectionPool

from ingest_service.errors import IngestError, Retry, declare_codes
from ingest_service.rows.columns import Columns
from ingest_service.runtime.tasks import task_group
from ingest_service.sinks.base import Finding, P, Sink
from ingest_service.sinks.checkpoints import CheckpointStore
from ingest_service.sinks.redis.about import limits_of
from ingest_service.sinks.redis.address import ServerOptions
from ingest_service.sinks.redis.checkpoints import Guard, RedisCheckpoints
from ingest_service.sinks.redis.commands import Batch
from ingest_service.sinks.redis.connection import Replies
from ingest_service.sinks.redis.errors import PASSING, errors_translated, refusal
from ingest_service.sinks.redis.nodes import RedisNodes, connection_of

declare_codes(
    {
        "wrong_type": "the sink holds something else under the row's key",
    }
)


class Sending(Protocol):
    """A node's part of a batch on its way."""

    def payloads(self, replies: Replies) -> AsyncIterator[tuple[memoryview, int]]:
        """Commands with how many replies they have."""

    def errors(self, replies: Replies) -> dict[int, str]:
        """The first error of each user that had one, by the user's index in the batch."""


class ServerSink(Sink[P], Generic[P]):
    """`probes` are commands that tell whether it may write: each without its key, which comes second."""

    is_prepared_whole: ClassVar[bool] = True
    is_apart: bool = True  # rows expire and may be evicted, checkpoints of old would stay
    probes: ClassVar[tuple[tuple[str | int, ...], ...]]

    def __init__(self, parts: SplitResult, options: ServerOptions, prefix: str) -> None:
        """prefix: begins the keys of checkpoints, and of what else is kept about the rows."""
        super().__init__(options)
        self._timeout_s = options.timeout_s
        self._prefix = prefix
        self.nodes = RedisNodes(parts, options)
        self.checkpoints: CheckpointStore = RedisCheckpoints(self.nodes, self.retrier, options, prefix)
        self._guard = Guard(self.name, self.nodes, self.retrier, self.checkpoints, options, prefix)
        self._evicted = ""  # the last warning of it
        self.server = f"{parts.netloc.rpartition('@')[2]}{parts.path}?{options.db or ''}"

    async def open(self) -> None:
        await self.retrier.call(self.nodes.meet)
        servers = await self._guard.look()
        if evicted := sum(one.evicted for one in servers):
            so_far = f"{evicted:,} keys were evicted since the server started ({limits_of(servers)})"
            self.forgets += f", and {so_far}" if self.forgets else so_far

    @abstractmethod
    def writing(self, batch: Batch) -> Sending:
        """How a batch is sent. Called in a thread."""

    async def send(self, batch: Batch) -> list[int]:
        """Write all of a batch, retrying what may pass. The rows that found another kind of value, ascending."""
        pending = batch
        dead: list[int] = []

        async def attempt() -> None:
            nonlocal pending
            if await self.nodes.refresh():
                await self._guard.look()  # before a new master gets rows
            outcome = await self._exchange_all(pending)
            dead.extend(outcome.dead)
            if len(outcome.again) < len(pending.rows):
                self.retrier.progressed()
            if outcome.fault is not None:
                self.limit.throttled(len(outcome.again) / len(pending.rows))
                pending = pending.only(np.array(outcome.again, np.int64))
                raise outcome.fault

        await self.retrier.call(attempt, moves_rows=True)
        return sorted(dead)

    async def _exchange_all(self, batch: Batch) -> "_Outcome":
        """Each node's part of a batch in one round trip, side by side. A node that fails holds up its own part only."""
        outcome = _Outcome()
        parts = await asyncio.to_thread(self.nodes.split, batch)

        async def exchange(node: ConnectionPool, part: Batch) -> None:
            try:
                errors = await self._exchange(node, part)
            except Retry as fault:
                self.nodes.is_stale = True
                outcome.again += part.rows.tolist()
                outcome.fault = fault
                return
            refused, again, code = _sort_out(errors)
            outcome.dead += part.of_users(refused).tolist()
            if again:
                await self.nodes.answered(node, code)
                outcome.again += part.of_users(again).tolist()
                outcome.fault = Retry(f"the server answers {code}", throttled=code == "OOM")

        async with self.limit.slot(), task_group() as exchanges:
            for node, part in parts:
                exchanges.create_task(exchange(node, part))
        return outcome

    async def _exchange(self, node: ConnectionPool, batch: Batch) -> dict[int, str]:
        """All of a batch over one connection: the first error of each user that had one."""
        writing = await asyncio.to_thread(self.writing, batch)
        with errors_translated():
            async with connection_of(node) as connection:
                replies = await connection.exchange(writing.payloads, self._timeout_s, self.retrier.answered)
                if self.nodes.replicas:
                    acknowledged = await connection.acknowledged(self.nodes.replicas, self.nodes.wait_ms)
                    await self.nodes.require_replicas(acknowledged)
        return writing.errors(replies)

    async def command(self, *arguments: str | int, key: str = "") -> object:
        """One command and its reply, retried: at the node that holds the key, or at any."""
        return await self.retrier.call(lambda: self.nodes.command(*arguments, key=key))

    async def survey(self, columns: Columns) -> list[Finding]:
        findings = [await self._guard.survey()]
        if self.nodes.replicas and (servers := await self.retrier.call(self.nodes.about_masters)) is not None:
            fewest = min(one.replicas for one in servers.values())
            text = f"{fewest} are connected, and each write waits for {self.nodes.replicas} (?replicas=)"
            findings.append(Finding("replicas", True, text, warning=fewest < self.nodes.replicas))
        return findings

    async def assure(self) -> None:
        evicted = await self._guard.assure()
        if evicted:
            self.warnings = [one for one in self.warnings if one != self._evicted] + [evicted]
            self._evicted = evicted

    async def epoch(self) -> str:
        return await self._guard.epoch()

    async def check(self, *, create: bool) -> list[Finding]:
        await self.open()
        probe = f"{self._prefix}ingest:check:{{probe}}"
        try:
            for command, *arguments in self.probes:
                await self.command(command, probe, *arguments, key=probe)
        except IngestError as error:
            return [Finding("writes", False, str(error))]
        return [Finding("writes", True, "permitted")]

    async def close(self) -> None:
        await self.nodes.close()


def _sort_out(errors: dict[int, str]) -> tuple[list[int], list[int], str]:
    """Users whose rows are refused for good, users to try again, and the error of one of the latter."""
    refused: list[int] = []
    again: list[int] = []
    code = ""
    for user, error in errors.items():
        if error == "WRONGTYPE":
            refused.append(user)
        elif error in PASSING:
            again.append(user)
            code = error
        else:
            raise refusal(error)
    return refused, again, code


@dataclass(slots=True)
class _Outcome:
    """What became of a batch: rows refused for good and rows to try again, by index in the chunk, and why."""

    dead: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    fault: Retry | None = None
