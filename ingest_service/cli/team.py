"""Workers as processes of this machine: started, listened to, stopped together; shown as one run."""

import asyncio
import signal
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from time import monotonic

import structlog

from ingest_service.errors import Stopped, family_of
from ingest_service.pipeline.job import Job
from ingest_service.pipeline.load import State
from ingest_service.pipeline.progress import Progress
from ingest_service.pipeline.report import Report, StreamReport
from ingest_service.pipeline.shards import Found
from ingest_service.runtime.process import Reason
from ingest_service.runtime.tasks import task_group
from ingest_service.service.child import Child, lines
from ingest_service.service.forks import Forks
from ingest_service.service.heard import understood
from ingest_service.telemetry.combined import Combined
from ingest_service.telemetry.show import RunObserver


class Team:
    """Workers on the same sources. To the run that comes after them it is the observer, and adds what they did."""

    def __init__(
        self, observer: RunObserver, jobs: Sequence[Job], divided: Mapping[str, Found], schemes: Sequence[str]
    ) -> None:
        """schemes: of the sinks."""
        self._schemes = schemes
        self.every_s = observer.every_s
        self.warning = observer.warning
        self._observer = observer
        self._streams = {job.source.uri: job.stream for job in jobs}
        self._combined = {stream: Combined(found.plan, found.length, found.parts) for stream, found in divided.items()}
        self._latest: dict[Child, Progress] = {}
        self._rows: dict[str, Counter[str]] = defaultdict(Counter)  # settled by workers, by stream and sink
        self._reasons: dict[Child, Reason] = {}
        self._started = monotonic()
        self._log = structlog.get_logger()

    async def work(self, n: int, arguments: Sequence[str], environment: Mapping[str, str], stop: asyncio.Event) -> None:
        """Returns when all have ended: what one left that was killed is for others, or for whoever comes after.

        Stopped on request. The error of one that failed, once the others have done what could be done.
        """
        async with Forks(self._schemes) as forks:
            team = [await Child.start(forks, ["work", "--json", *arguments], environment) for _ in range(n)]
            codes = await self._see_through(team, stop)
        if stop.is_set():
            raise Stopped.on_request()
        self._raise_first(team, codes)

    async def _see_through(self, team: Sequence[Child], stop: asyncio.Event) -> list[int]:
        try:
            stopping = asyncio.create_task(_stop_all(team, stop))
            async with task_group() as tasks:
                for child in team:
                    tasks.create_task(self._listen(child))
                    tasks.create_task(self._log_of(child))
                    tasks.create_task(child.report())
            stopping.cancel()
            return [await child.process.wait() for child in team]
        finally:
            for child in team:
                child.close()

    def progress(self, state: State) -> None:
        self._observer.progress(state)

    def report(self, report: StreamReport) -> None:
        """Of the last run, which found what the workers have done."""
        self._observer.report(self._with_theirs(report))

    def whole(self, report: Report) -> Report:
        """Of the last run, with what the workers have done."""
        return Report([self._with_theirs(stream) for stream in report.streams])

    def _with_theirs(self, report: StreamReport) -> StreamReport:
        return report.with_more(self._rows[report.stream], monotonic() - self._started)

    def _raise_first(self, team: Sequence[Child], codes: Sequence[int]) -> None:
        for child, code in zip(team, codes, strict=True):
            if code < 0:
                name = signal.Signals(-code).name
                self._log.warning("worker ended", pid=child.process.pid, reason=f"{name}; others go on where it was")
        failed = [(child, code) for child, code in zip(team, codes, strict=True) if code > 0]
        if failed:
            child, code = failed[0]
            reason = self._reasons.get(child, Reason(f"A worker ended with {code}; what it said stands above."))
            raise family_of(code)(reason.reason)

    async def _listen(self, child: Child) -> None:
        async for line in lines(child.process.events):
            event = understood(line).event
            if isinstance(event, Progress):
                self._latest[child] = event
                combined = self._combined.get(self._streams[event.source])
                others = [latest for other, latest in self._latest.items() if other is not child]
                self._observer.told(event if combined is None else combined.progressed(event, others))
            elif isinstance(event, StreamReport):
                self._take_in(event)
            elif isinstance(event, Reason):
                self._reasons[child] = event

    def _take_in(self, report: StreamReport) -> None:
        stream = self._streams[report.source]
        if stream in self._combined:
            self._combined[stream].reported(stream, report)
        self._rows[stream].update({name: sink.rows_now for name, sink in report.sinks.items()})

    async def _log_of(self, child: Child) -> None:
        async for line in lines(child.process.stderr):
            self._log.warning("worker says", pid=child.process.pid, line=line.decode(errors="replace").rstrip())


async def _stop_all(team: Sequence[Child], stop: asyncio.Event) -> None:
    await stop.wait()
    for child in team:
        child.stop()
