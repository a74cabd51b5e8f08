"""What is asked before a load: answered by the command that a user would type, in a process of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from ingest_service.errors import IngestError, LocalIOError, family_of
from ingest_service.runtime.process import Reason
from ingest_service.runtime.tasks import task_group
from ingest_service.service.child import Child, lines
from ingest_service.service.commands import Commands
from ingest_service.service.desk import Desk
from ingest_service.service.forks import Forks
from ingest_service.service.heard import understood

Question = Literal["preview", "infer", "estimate"]

MOST_AT_ONCE = 2
_PATIENCE_S = 300
_NICE = 10  # as runs have it
_MOST_BYTES = 1 << 20  # of an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What the command printed, line by line: its result, and what it had to say about that."""

    lines: list[str]
    notes: list[str]


class Questions:
    """A source is held to what the service may read: here, and in the process that opens it."""

    def __init__(self, desk: Desk, commands: Commands, forks: Forks) -> None:
        self._desk = desk
        self._commands = commands
        self._forks = forks
        self._at_work = 0

    async def ask(self, what: Question, source: str, sinks: Sequence[str] = (), dataset: str | None = None) -> Answer:
        """IngestError as the command's own; LocalIOError for too many at once, and for what takes too long."""
        name = await self._desk.source(source)
        wanted, of = await self._desk.ways(sinks, dataset)
        if self._at_work >= MOST_AT_ONCE:
            raise LocalIOError(f"{MOST_AT_ONCE} sources are being looked at already; try again when one is done.")
        self._at_work += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._answer(what, self._commands.question(what, name), wanted, of)
        except TimeoutError:
            raise LocalIOError(
                f"The answer takes longer than {_PATIENCE_S} s; run the command itself: ingest-service {what}."
            ) from None
        finally:
            self._at_work -= 1

    async def _answer(self, what: Question, arguments: Sequence[str], sinks: Sequence[str], dataset: str) -> Answer:
        environment = self._commands.environment_of(sinks, dataset)
        try:
            child = await Child.start(self._forks, arguments, environment, nice=_NICE)
        except OSError as error:
            raise LocalIOError(f"The process for it cannot be started ({error.strerror}); try again later.") from error
        try:
            async with task_group() as reading:
                reading.create_task(_hear(child))
                printed = reading.create_task(_text(child.process.stdout))
                said = reading.create_task(_text(child.process.stderr))
            code = await child.process.wait()
        finally:
            child.close()
        if code != 0:
            raise self._failure(what, child.reason, code, said.result())
        return Answer(printed.result(), said.result() if what == "infer" else [])

    def _failure(self, what: Question, reason: Reason | None, code: int, said: list[str]) -> IngestError:
        kind = family_of(code)
        if reason is not None and kind is not IngestError:
            return kind(reason.reason)
        structlog.get_logger().error("question not answered", question=what, code=code, lines=said)
        return LocalIOError(f"The process for it ended with {code}; the service's log says more.")


async def _hear(child: Child) -> None:
    """Why it ended, if it says so."""
    async for line in lines(child.process.events):
        try:
            event = understood(line).event
        except ValueError:
            continue
        if isinstance(event, Reason):
            child.reason = event


async def _text(reader: asyncio.StreamReader) -> list[str]:
    found = bytearray()
    while data := await reader.read(1 << 16):
        found += data
        if len(found) > _MOST_BYTES:
            raise LocalIOError(f"The answer has more than {_MOST_BYTES:,} bytes; run the command itself.")
    return found.decode(errors="replace").splitlines()
