"""Runs at work: each is a child process, the very command that a user would start.

So a run is as fast and as careful as on the command line, its memory goes back to the system at its end, and neither
its work nor its crash is felt by the API.
"""

import asyncio
import errno
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec

import structlog

from ingest_service.errors import IngestError, LocalIOError, SourceChanged, family_of
from ingest_service.pipeline.progress import StepProgress
from ingest_service.pipeline.report import StreamReport
from ingest_service.runtime.process import Reason
from ingest_service.runtime.tasks import task_group
from ingest_service.service.child import Child, lines
from ingest_service.service.commands import Commands
from ingest_service.service.forks import Forks
from ingest_service.service.heard import understood
from ingest_service.service.live import Live
from ingest_service.service.runs import Run, Runs, at
from ingest_service.telemetry.prometheus import Exposition

_NICE = 10  # who asks the service, or a store beside it, comes before its runs
MAX_FAILURES = 10  # of the kind that may pass; with the waits below that takes a quarter of an hour
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 600.0
_LOOK_EVERY_S = 1.0  # for runs whose time to be tried again has come
_STORE_AGAIN_S, _STORE_AT_LEAST_EVERY_S = 5.0, 60.0
_MOST_SAID = 2_000  # characters of a line of a run's log that go into ours
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # what a start may lack now and have later

P = ParamSpec("P")


class Workers:
    """Takes the oldest run that may start, and sees it through; `n` at once."""

    def __init__(
        self, runs: Runs, live: Live, exposition: Exposition, commands: Commands, forks: Forks, n: int
    ) -> None:
        self._runs = runs
        self._live = live
        self._exposition = exposition
        self._commands = commands
        self._forks = forks
        self._n = n
        self._children: dict[int, Child] = {}
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
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
        self._stop.set()
        self.wake()
        for child in self._children.values():
            child.stop()
        return len(self._children)

    def cancel(self, number: int) -> None:
        """Let one drain."""
        if number in self._children:
            self._children[number].stop()

    async def _one_after_the_other(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            run = await self._stored(self._runs.take)
            if run is not None:
                if run.state == "running":
                    await self._see_through(run)
                else:
                    self._tell(run)  # it could not be understood
                self.wake()  # another run of the same source may go on now
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._wake.wait()

    async def _stored(self, function: Callable[P, Run | None], *args: P.args, **kwargs: P.kwargs) -> Run | None:
        """Call the store until it can do it: a full disk is no reason to forget what a run has done.

        None when the service stops first; what was running is then found to be so at the next start.
        """
        wait_s, said = _STORE_AGAIN_S, ""
        while True:
            try:
                return await self._runs.change(function, *args, **kwargs)
            except LocalIOError as error:
                if str(error) != said:
                    said = str(error)
                    self._log.error("runs cannot be stored", reason=said)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stop.wait()
                    return None
            wait_s = min(_STORE_AT_LEAST_EVERY_S, 2 * wait_s)

    async def _see_through(self, run: Run) -> None:
        """Whatever happens to this run happens to this run alone."""
        if self._stop.is_set():
            return  # it goes back to the queue with all others
        try:
            await self._run(run)
        except Exception as error:
            kind = type(error).__qualname__
            self._log.error("run not seen through", run=run.id, error=kind)
            reason = f"The service has a bug ({kind}), met at this run; report it."
            with suppress(Exception):  # then it is found to be at work at the next start
                await self._fail(run, IngestError.exit_code, reason)

    async def _run(self, run: Run) -> None:
        self._live.changed(run)
        self._log.info("run started", run=run.id, source=run.task.source, attempt=run.attempt)
        try:
            child = await Child.start(
                self._forks, self._commands.arguments(run), self._commands.environment(run), nice=_NICE
            )
        except IngestError as error:
            await self._fail(run, error.exit_code, str(error))
            return
        except OSError as error:
            await self._not_started(run, error)
            return
        self._children[run.number] = child
        try:
            stored = await self._stored(self._runs.get, run.number)
            if self._stop.is_set() or (stored is not None and stored.cancel):
                child.stop()
            async with task_group() as reading:
                reading.create_task(self._listen(run, child))
                reading.create_task(self._log_of(run, child))
                report = reading.create_task(child.report())
            code = await child.process.wait()
        finally:
            child.close()
            del self._children[run.number]
            self._exposition.ended(run.task.source)
        await self._settle(run, child, code, report.result())

    async def _listen(self, run: Run, child: Child) -> None:
        """Take in what the run tells, to its end."""
        async for line in lines(child.process.events):
            try:
                self._hear(run, child, line)
            except Exception as error:  # of what this or another version of the program may say, nothing ends us
                self._log.warning("event dropped", run=run.id, error=type(error).__qualname__)

    def _hear(self, run: Run, child: Child, line: bytes) -> None:
        told = understood(line)
        event = told.event
        if isinstance(event, Reason):
            child.reason = event
            return
        if not isinstance(event, StreamReport):
            child.progress = {**event.as_json(), "timestamp": told.at}
            self._live.progressed(run.number, child.progress)
        if not isinstance(event, StepProgress):
            self._exposition.update(event)

    async def _log_of(self, run: Run, child: Child) -> None:
        """Put the run's log into ours: it is text, whatever it looks like."""
        async for line in lines(child.process.stderr):
            text = line.decode(errors="replace").rstrip()
            self._log.warning("run says", run=run.id, line=text[:_MOST_SAID])

    async def _settle(self, run: Run, child: Child, code: int, report: dict[str, Any] | None) -> None:
        """What becomes of a run whose process ended with `code`: below 0, by that signal."""
        stored = await self._stored(self._runs.get, run.number)
        cancelled = stored is not None and stored.cancel
        reason = f"The run's process was ended by signal {-code}." if code < 0 else None
        kind = ""
        if child.reason is not None:
            reason, kind = child.reason.reason, child.reason.kind
        if code != 0 and self._stop.is_set() and child.stop_asked:
            return  # it goes back to the queue with all others
        may_pass = (family_of(code).resumable or code < 0) and run.failures + 1 < MAX_FAILURES
        if code != 0 and may_pass and not cancelled:
            await self._again(run, code, reason, child.progress)
            return
        if kind == SourceChanged.__name__ and _is_of_inbox(run) and not run.task.restart and not cancelled:
            self._tell(await self._stored(self._runs.begin_anew, run.number, exit_code=code, reason=reason))
            return
        ended = await self._stored(
            self._runs.finish,
            run.number,
            "done" if code == 0 else "cancelled" if cancelled else "failed",
            exit_code=code,
            reason=None if code == 0 else reason or f"The run's process ended with {code}; its log says more.",
            progress=child.progress,
            report=report,
        )
        self._tell(ended)

    async def _again(self, run: Run, code: int, reason: str | None, progress: dict[str, Any] | None) -> None:
        """It failed of what may pass, and goes on by itself later."""
        wait_until = _later(run.failures)
        self._tell(
            await self._stored(
                self._runs.requeue,
                run.number,
                not_before=wait_until,
                exit_code=code,
                reason=reason,
                progress=progress,
            )
        )

    async def _not_started(self, run: Run, error: OSError) -> None:
        reason = f"The run cannot be started ({error.strerror})"
        if error.errno in _SCARCE and run.failures + 1 < MAX_FAILURES:
            await self._again(run, LocalIOError.exit_code, f"{reason}; it is tried again.", None)
        else:
            await self._fail(run, LocalIOError.exit_code, f"{reason}; retry it.")

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


def _is_of_inbox(run: Run) -> bool:
    """A file that was put in another's place under its name is another file, and nobody is there to say so."""
    return run.task.origin.startswith("inbox:")
