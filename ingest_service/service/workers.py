"""Runs at work: each is a child process, the very command that a user would start.

So a run is as fast and as careful as on the command line, its memory goes back to the system at its end, and neither
its work nor its crash is felt by the API.
"""

import asyncio
import json
import random
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec

import structlog

from ingest_service.errors import IngestError, LocalIOError
from ingest_service.pipeline.run import DRAIN_S
from ingest_service.runtime.tasks import task_group
from ingest_service.runtime.threads import finish_in_thread
from ingest_service.service.commands import Commands
from ingest_service.service.live import Live
from ingest_service.service.runs import Run, Runs, at
from ingest_service.telemetry.prometheus import Exposition

MAX_FAILURES = 10  # of the kind that may pass; with the waits below that takes a quarter of an hour
_RESUMABLE = (69, 73, 75)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 600.0
_LOOK_EVERY_S = 1.0  # for runs whose time to be tried again has come
_KILL_S = DRAIN_S + 0.5
_REASONS = ("ingest-service: ", "Error: ")  # the latter of options that make no sense
_LINE_BYTES = 1 << 20
_STORE_AGAIN_S = 5.0

P = ParamSpec("P")


@dataclass(slots=True)
class Child:
    """What is known of a run's process so far."""

    process: Process
    stop_asked: bool = False
    progress: dict[str, Any] | None = None
    reason: str | None = None

    def stop(self) -> None:
        """Let it drain; if it does not in time, kill it: what it had not settled is repeated."""
        if self.stop_asked or self.process.returncode is not None:
            return
        self.stop_asked = True
        self.process.send_signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(_KILL_S, self._kill)

    def _kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


class Workers:
    """Takes the oldest run that may start, and sees it through; `n` at once."""

    def __init__(self, runs: Runs, live: Live, exposition: Exposition, commands: Commands, n: int) -> None:
        self._runs = runs
        self._live = live
        self._exposition = exposition
        self._commands = commands
        self._n = n
        self._children: dict[int, Child] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._log = structlog.get_logger()

    async def work(self) -> None:
        """Returns when `stop` was called and the last run has ended."""
        async with task_group() as workers:
            for _ in range(self._n):
                workers.create_task(self._one_after_the_other())

    def wake(self) -> None:
        """There is, or may be, a run that can start."""
        self._wake.set()

    def stop(self) -> int:
        """Let all runs drain, and start no more. Returns how many there were."""
        self._stopping = True
        self.wake()
        for child in self._children.values():
            child.stop()
        return len(self._children)

    def cancel(self, number: int) -> None:
        """Let one drain."""
        if number in self._children:
            self._children[number].stop()

    async def _one_after_the_other(self) -> None:
        while not self._stopping:
            self._wake.clear()
            run = await self._stored(self._runs.take)
            if run is not None:
                await self._see_through(run)
                self.wake()  # another run of the same source may go on now
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._wake.wait()

    async def _stored(self, function: Callable[P, Run | None], *args: P.args, **kwargs: P.kwargs) -> Run | None:
        """Call the store until it can do it: a full disk is no reason to forget what a run has done.

        None when the service stops first; what was running is then found to be so at the next start.
        """
        while True:
            try:
                return await finish_in_thread(function, *args, **kwargs)
            except LocalIOError as error:
                self._log.error("runs cannot be stored", reason=str(error))
            if self._stopping:
                return None
            await asyncio.sleep(_STORE_AGAIN_S)

    async def _see_through(self, run: Run) -> None:
        if self._stopping:
            return  # it goes back to the queue with all others
        self._live.changed(run)
        self._log.info("run started", run=run.id, source=run.task.source, attempt=run.attempt)
        try:
            child = Child(await self._start(run))
        except IngestError as error:
            await self._fail(run, error.exit_code, str(error))
            return
        except OSError as error:
            await self._fail(run, LocalIOError.exit_code, f"The run cannot be started ({error.strerror}); retry it.")
            return
        self._children[run.number] = child
        try:
            stored = await self._stored(self._runs.get, run.number)
            if self._stopping or (stored is not None and stored.cancel):
                child.stop()
            async with task_group() as reading:
                reading.create_task(self._listen(run, child))
                report = reading.create_task(_report(child))
            code = await child.process.wait()
        finally:
            if child.process.returncode is None:
                child.process.kill()
            del self._children[run.number]
            self._exposition.ended(run.task.source)
        await self._settle(run, child, code, report.result())

    async def _start(self, run: Run) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._commands.arguments(run),
            env=self._commands.environment(run),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,  # a Ctrl-C is for the service, which tells its runs itself
        )

    async def _listen(self, run: Run, child: Child) -> None:
        """Read the run's log to its end."""
        assert child.process.stderr is not None
        while True:
            try:
                line = await child.process.stderr.readline()
            except ValueError:  # longer than any line of ours; the rest of it is read on
                continue
            if not line:
                return
            self._hear(run, child, line.decode(errors="replace").rstrip())

    def _hear(self, run: Run, child: Child, line: str) -> None:
        for start in _REASONS:
            if line.startswith(start):
                child.reason = line.removeprefix(start)
                return
        try:
            event = json.loads(line)
            kind = event.pop("event")
        except (ValueError, KeyError, AttributeError, TypeError):
            self._log.warning("run says", run=run.id, line=line)
            return
        if kind == "progress":
            event.pop("level", None)
            child.progress = event
            self._live.progressed(run.number, event)
        if kind in ("progress", "report"):
            self._exposition.update(event)

    async def _settle(self, run: Run, child: Child, code: int, report: dict[str, Any] | None) -> None:
        """What becomes of a run whose process ended with `code`: below 0, by that signal."""
        stored = await self._stored(self._runs.get, run.number)
        cancelled = stored is not None and stored.cancel
        reason = child.reason or (f"The run's process was ended by signal {-code}." if code < 0 else None)
        if code != 0 and self._stopping and child.stop_asked:
            return  # it goes back to the queue with all others
        may_pass = (code in _RESUMABLE or code < 0) and run.failures + 1 < MAX_FAILURES
        if code != 0 and may_pass and not cancelled:
            ended = await self._stored(
                self._runs.requeue,
                run.number,
                not_before=_later(run.failures),
                exit_code=code,
                reason=reason,
                progress=child.progress,
            )
        else:
            ended = await self._stored(
                self._runs.finish,
                run.number,
                "done" if code == 0 else "cancelled" if cancelled else "failed",
                exit_code=code,
                reason=None if code == 0 else reason,
                progress=child.progress,
                report=report,
            )
        self._tell(ended)

    async def _fail(self, run: Run, code: int, reason: str) -> None:
        """It could not even begin."""
        self._tell(
            await self._stored(
                self._runs.finish, run.number, "failed", exit_code=code, reason=reason, progress=None, report=None
            )
        )

    def _tell(self, run: Run | None) -> None:
        if run is not None:
            about = {"run": run.id, "source": run.task.source, "state": run.state}
            self._log.info("run ended", **about, code=run.exit_code, reason=run.reason)
            self._live.changed(run)


def _later(failures: int) -> str:
    """When to try again, after so many failures before this one."""
    wait_s = random.uniform(0.5, 1) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**failures)
    return at(datetime.now(UTC) + timedelta(seconds=wait_s))


async def _report(child: Child) -> dict[str, Any] | None:
    """What the run printed: its report, where it came to one."""
    assert child.process.stdout is not None
    text = await child.process.stdout.read()
    try:
        report = json.loads(text)
    except ValueError:
        return None
    return report if isinstance(report, dict) else None
